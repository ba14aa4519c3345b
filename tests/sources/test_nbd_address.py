"""Addresses of NBD exports: what the URI says, and nothing that was not understood."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import UsageError
from transfer.sources.nbd_address import NbdAddress, is_nbd, parse

GOOD = {
    # The examples of the specification.
    "nbd://example.com:10809/export": NbdAddress(b"export", host="example.com"),
    "nbd+unix:///export?socket=nbd.sock": NbdAddress(b"export", b"nbd.sock"),
    "nbd://example.com/": NbdAddress(b"", host="example.com"),
    "nbd://example.com": NbdAddress(b"", host="example.com"),
    "nbd://example.com//disk": NbdAddress(b"/disk", host="example.com"),
    "nbd://example.com/hello%20world": NbdAddress(b"hello world", host="example.com"),
    "nbd+unix:///?socket=%00/abstract": NbdAddress(b"", b"\0/abstract"),
    # More.
    "NBD://h:1/a/b": NbdAddress(b"a/b", host="h", port=1),
    "nbd://192.0.2.7:65535/a": NbdAddress(b"a", host="192.0.2.7", port=65535),
    "nbd://[::1]/a": NbdAddress(b"a", host="::1"),
    "nbd://[2001:DB8:0::1]:99/a": NbdAddress(b"a", host="2001:db8::1", port=99),
    "nbd://[fe80::1%25eth0]/a": NbdAddress(b"a", host="fe80::1%eth0"),
    "nbd://h/%ff%2F%25+": NbdAddress(b"\xff/%+", host="h"),
    "nbd://h/\xe4": NbdAddress("\xe4".encode(), host="h"),
    "nbd://h/\udcff": NbdAddress(b"\xff", host="h"),
    "nbd+unix:///e?socket=/a%20b/c%26d": NbdAddress(b"e", b"/a b/c&d"),
    "nbd+unix://?socket=s": NbdAddress(b"", b"s"),
    "nbds://h/e": NbdAddress(b"e", host="h", tls=True),
    "nbds://h/e?tls-hostname=other&tls-certificates=/etc/pki": NbdAddress(
        b"e", host="h", tls=True, name="other", certificates="/etc/pki"
    ),
    "nbds://h/e?tls-type=x509&tls-verify-peer=1": NbdAddress(b"e", host="h", tls=True),
    "nbds+unix:///e?tls-hostname=h&socket=s": NbdAddress(b"e", b"s", tls=True, name="h"),
    "nbd://h/" + "e" * 4096: NbdAddress(b"e" * 4096, host="h"),
    "nbd+unix:///?socket=" + "s" * 107: NbdAddress(b"", b"s" * 107),
}


@pytest.mark.parametrize("text", GOOD)
def test_what_it_says(text):
    assert parse(text) == GOOD[text]


@pytest.mark.parametrize("text", GOOD)
def test_it_can_be_shown_and_read_again(text):
    address = parse(text)
    assert parse(str(address)) == address
    assert str(address).isascii()
    assert pickle.loads(pickle.dumps(address)) == address


def test_it_is_shown_as_it_would_be_written():
    for text in ("nbd://h:1/a/b", "nbds+unix:///a%20b?socket=/s&tls-hostname=h", "nbd://[::1]/a"):
        assert str(parse(text)) == text


BAD = {
    "": "no address",
    "/dev/sda": "no address",
    "nbd:h:1": "no address",
    "nbd:///e": "nothing is no host",
    "http://h/e": "no address",
    "xnbd://h/e": "no address",
    "nbd+vsock://h/e": "no address",
    "nbd://h/e#f": "no address",
    "nbd://h:0/e": "h:0 is no",
    "nbd://h:65536/e": "h:65536 is no",
    "nbd://h:/e": "h: is no",
    "nbd://h:\u0661/e": "is no HOST",
    "nbd://u@h/e": "u@h is no host",
    "nbd://a b/e": "a b is no host",
    "nbd://-h/e": "-h is no host",
    "nbd://h%20/e": "h%20 is no host",
    "nbd://m\xfcller/e": "is no host",
    "nbd://h\n/e": "is no host",
    "nbd://::1/e": "::1 is no",
    "nbd://[::g]/e": "no IPv6",
    "nbd://[::1]x/e": "is no HOST",
    "nbd://[127.0.0.1]/e": "no IPv6",
    "nbd://h/%": "two hexadecimal digits",
    "nbd://h/%0g": "two hexadecimal digits",
    "nbd://h/%00": "no NUL",
    "nbd://h/" + "e" * 4097: "at most 4096",
    "nbd://h/e?socket=s": "socket is not understood",
    "nbd://h/e?tls-hostname=x": "tls-hostname is not understood",
    "nbd://h/e?": None,
    "nbd://h/e?x": "x is not understood",
    "nbds://h/e?tls-typ=x509": "tls-typ is not understood",
    "nbds://h/e?tls-type=psk": "certificates only",
    "nbds://h/e?tls-verify-peer=0": "always checked",
    "nbds://h/e?tls-hostname=": "tls-hostname is empty",
    "nbds://h/e?tls-hostname=a%20b": "a b is no host",
    "nbds://h/e?tls-hostname=a&tls-hostname=b": "twice",
    "nbds://h/e?tls-hostname=a&": "is not understood",
    "nbd+unix:///e": "where is the socket",
    "nbd+unix:///e?socket=": "socket is empty",
    "nbd+unix:///e?socket=s&socket=t": "twice",
    "nbd+unix://h/e?socket=s": "has no host",
    "nbd+unix:///e?socket=%00": "1 to 107",
    "nbd+unix:///e?socket=a%00b": "no NUL",
    "nbd+unix:///e?socket=" + "s" * 108: "1 to 107",
}


@pytest.mark.parametrize("text", BAD)
def test_what_it_does_not_mean(text):
    if BAD[text] is None:
        assert parse(text) == NbdAddress(b"e", host="h")
        return
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert BAD[text] in refused.value.message


exports = st.binary(max_size=60).filter(lambda raw: b"\0" not in raw)
paths = st.binary(min_size=1, max_size=107).filter(lambda raw: b"\0" not in raw)


@given(exports, paths, st.booleans())
def test_any_bytes_come_through(export, path, tls):
    address = NbdAddress(export, path, tls=tls)
    assert parse(str(address)) == address


@given(st.text())
def test_no_text_is_anything_but_an_address_or_a_usage_error(text):
    for whole in (text, f"nbd://{text}", f"nbd://h/{text}", f"nbd+unix:///e?socket={text}"):
        try:
            parse(whole)
        except UsageError:
            pass


def test_what_looks_like_one():
    assert is_nbd("nbd://h/e")
    assert is_nbd("NBDS+UNIX:///e")
    assert is_nbd("nbd:unix:s")
    assert not is_nbd("/srv/nbd://h")
    assert not is_nbd("nbdx://h")


def test_whom_a_certificate_must_name():
    assert parse("nbds://h/e").server_name == "h"
    assert parse("nbds://h/e?tls-hostname=i").server_name == "i"
    assert parse("nbds+unix:///e?socket=s").server_name == "localhost"
