"""The credential file: what comes back is what went in, or it says that it was edited."""

import base64
import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import CredentialRefused, NewerFormat, UsageError
from transfer.formats import credential
from transfer.formats.credential import MAX_CREDENTIAL, Credential, CredentialKind

NOW = 1_700_000_000 * 10**9
SECRET = bytes(range(100, 132))
ONE = Credential(
    b"v" * 16, "https://vault.example:8443", (b"ca",), b"i" * 16, SECRET, CredentialKind.FOR,
    "db1", NOW,
)  # fmt: skip
urls = st.sampled_from(
    ["https://a", "https://a.example:8443", "https://[::1]:1", "https://1.2.3.4"]
)
machines = st.text(min_size=1, max_size=64)
credentials = st.builds(
    lambda kind, machine, *rest: Credential(
        *rest[:5], kind, None if kind is CredentialKind.REGISTER else machine, rest[5]
    ),
    st.sampled_from(CredentialKind), machines, st.binary(min_size=16, max_size=16), urls,
    st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=16).map(tuple),
    st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32),
    st.integers(-(2**63), 2**63 - 1),
)  # fmt: skip


def edited(**changes):
    """The file with other fields, and its old check."""
    return json.dumps(json.loads(credential.encode(ONE)) | changes).encode()


def resealed(**changes):
    """The file with other fields, and a check that belongs to them."""
    fields = json.loads(edited(**changes))
    del fields["check"]
    compact = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    check = base64.b64encode(hashlib.sha256(compact.encode()).digest()).decode()
    return json.dumps(fields | {"check": check}).encode()


@given(credentials)
def test_credentials_come_back(value):
    assert credential.decode(credential.encode(value)) == value


@pytest.mark.parametrize(
    "field", ["vault", "url", "cas", "id", "secret", "kind", "machine", "expires", "expires_text",
              "new"],
)  # fmt: skip
def test_whatever_field_was_edited_it_says_so(field):
    other = json.loads(credential.encode(Credential(
        b"w" * 16, "https://b", (b"cb",), b"j" * 16, bytes(32), CredentialKind.READ, "x",
        NOW + 10**9,
    ))) | {"new": 1}  # fmt: skip
    with pytest.raises(CredentialRefused, match="edited or damaged"):
        credential.decode(edited(**{field: other[field]}))
    lacking = json.loads(credential.encode(ONE))
    if lacking.pop(field, None) is not None:
        with pytest.raises(CredentialRefused, match="edited or damaged"):
            credential.decode(json.dumps(lacking).encode())


def test_another_layout_of_the_same_fields_is_the_same_credential():
    """Mail programs and editors change blanks; a later version may add what we ignore."""
    assert credential.decode(edited()) == ONE
    assert credential.decode(resealed(later="field")) == ONE
    assert credential.decode(credential.encode(ONE).replace(b"\n", b"\r\n")) == ONE


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://vault.example"}, {"url": "vault.example:8443"}, {"url": "https://"},
        {"url": "https://a/b"}, {"url": "https://u@a"}, {"url": "https://a:99999"},
        {"url": "https://a?b"}, {"url": "https://a:0"}, {"url": "https://a b"},
        {"url": "https://a\n"}, {"url": "https://" + "a" * 1020}, {"url": ""},
        {"machine": None}, {"kind": "register"}, {"kind": "all"}, {"cas": []}, {"cas": [""]},
        {"cas": ["QQ=="] * 17}, {"cas": ["A" * 10924]},
        {"secret": "QQ=="}, {"id": "QQ=="}, {"vault": 1},
        {"expires": 2**63}, {"machine": "x" * 257}, {"format": "letter"}, {"format": 1},
    ],
)  # fmt: skip
def test_what_no_vault_would_write_is_refused_with_a_right_check(changes):
    with pytest.raises(CredentialRefused):
        credential.decode(resealed(**changes))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b"[" * 60_000, b"null", b"PK\3\4"])
def test_another_file_is_no_credential(raw):
    with pytest.raises(CredentialRefused, match="or is none"):
        credential.decode(raw)


def test_a_later_version_says_so():
    with pytest.raises(NewerFormat, match="transfer credential 2"):
        credential.decode(b'{"format":"transfer credential 2","all":"else"}')


def test_the_limit_of_a_file_is_exact():
    raw = credential.encode(ONE)
    assert credential.decode(raw + b" " * (MAX_CREDENTIAL - len(raw))) == ONE
    with pytest.raises(CredentialRefused, match="beyond the limit"):
        credential.decode(raw + b" " * (MAX_CREDENTIAL - len(raw) + 1))


@pytest.mark.parametrize(
    "change", [{"vault": b"v"}, {"cas": ()}, {"secret": bytes(33)}, {"url": ""},
               {"cas": (bytes(8193),)}, {"cas": (bytes(8192),) * 7}],
)  # fmt: skip
def test_what_no_reader_would_take_is_not_written(change):
    with pytest.raises(ValueError):
        credential.encode(msgspec.structs.replace(ONE, **change))


def test_one_that_has_expired_is_refused_only_when_a_clock_is_asked():
    raw = credential.encode(ONE)
    assert credential.decode(raw) == credential.decode(raw, NOW) == ONE
    with pytest.raises(CredentialRefused) as refused:
        credential.decode(raw, NOW + 10**9)
    assert "expired at 2023-11-14T22:13:20Z" in refused.value.message
    assert "clock says 2023-11-14T22:13:21Z" in refused.value.message


def test_the_secret_is_not_shown():
    for text in (repr(ONE), str(ONE), f"{[ONE]}"):
        assert repr(SECRET)[2:20] not in text and SECRET.hex() not in text
        assert base64.b64encode(SECRET).decode() not in text


def test_an_address_is_of_https_with_a_host():
    assert credential.checked_url("https://a:1/") == "https://a:1"
    for url in ("http://a", "a", "https://a/x", "https://:1"):
        with pytest.raises(UsageError, match="no address"):
            credential.checked_url(url)


def test_a_proof_is_of_one_vault_credential_machine_and_request():
    parts = (b"v" * 16, b"c" * 16, b"m" * 16, b"request")
    whole = credential.proof_message(*parts)
    assert whole.startswith(b"transfer registration" + b"v" * 16)
    for at in range(4):
        other = [*parts[:at], b"x" * len(parts[at]), *parts[at + 1 :]]
        assert credential.proof_message(*other) != whole
