"""What an NBD client and a server agree on, and what of a server ends it."""

import struct

import pytest

from tests.sources.nbd_script import (
    ACK,
    CONTEXT,
    ERROR,
    GO,
    GREETING,
    INFO,
    LIST,
    SET,
    SIZE,
    STARTTLS,
    STRUCTURED,
    context,
    described,
    greeting,
    hear,
    opened,
    reply,
    sizes,
)
from transfer.errors import (
    NotAuthorised,
    NotFound,
    ProtocolBroken,
    SourceFailed,
    SourceUnavailable,
    Untrusted,
    UsageError,
)
from transfer.sources.nbd_protocol import START_TLS, Connection, Export, Terms

DIRTY, ALLOCATION = "qemu:dirty-bitmap:x", "base:allocation"


def option(number, payload=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(payload)) + payload


def string(raw):
    return struct.pack(">I", len(raw)) + raw


def asked(export, *names):
    return string(export) + struct.pack(">I", len(names)) + b"".join(map(string, names))


def go(export):
    return option(GO, string(export) + b"\0\1\0\3")


def test_each_option_is_said_once_the_last_one_is_answered():
    core = Connection(Terms(b"disk", [ALLOCATION]))
    assert core.output() == b""
    for heard, said in [
        (GREETING, b"\0\0\0\3" + option(STRUCTURED)),
        (reply(STRUCTURED, ACK), option(SET, asked(b"disk", b"base:allocation"))),
        (context(SET, 7, ALLOCATION), b""),
        (reply(SET, ACK), go(b"disk")),
        (sizes(512, 4096, 65536) + described(SIZE, 3), b""),
    ]:
        assert hear(core, heard) == []
        assert core.output() == said
    expected = Export(SIZE, 3, {ALLOCATION: 7}, True, 512, 65536)
    assert hear(core, reply(GO, ACK)) == [expected]
    assert core.export == expected


def test_it_makes_no_difference_how_the_bytes_are_cut():
    core = Connection(Terms(b"", [ALLOCATION]))
    (export,) = hear(core, greeting(contexts=[(0, ALLOCATION)]), most=1)
    assert export.contexts == {ALLOCATION: 0}


def test_only_what_the_server_can_is_agreed_on():
    core = Connection(Terms(b""))
    hear(core, b"NBDMAGICIHAVEOPT\0\1")
    assert core.output().startswith(b"\0\0\0\1")


def test_a_context_that_the_server_leaves_out_is_missing():
    core = Connection(Terms(b"", [ALLOCATION, DIRTY]))
    (export,) = hear(core, greeting(contexts=[(3, ALLOCATION)]))
    assert export.contexts == {ALLOCATION: 3}


def test_contexts_that_the_server_refuses_are_missing():
    core = Connection(Terms(b"", [ALLOCATION]))
    hear(core, GREETING + reply(STRUCTURED, ACK) + reply(SET, ERROR | 2))
    (export,) = hear(core, described() + reply(GO, ACK))
    assert export.contexts == {}


def test_what_it_offers_is_listed():
    core = Connection(Terms(b"d", offers=["qemu:"]))
    hear(core, GREETING + reply(STRUCTURED, ACK))
    assert core.output().endswith(option(LIST, asked(b"d", b"qemu:")))
    hear(core, context(LIST, 0, "qemu:a") + context(LIST, 0, "qemu:b") + reply(LIST, ACK))
    (export,) = hear(core, described() + reply(GO, ACK))
    assert export.offers == ("qemu:a", "qemu:b")


def test_without_structured_replies_there_are_no_contexts_to_ask_for():
    core = Connection(Terms(b"", [ALLOCATION], offers=()))
    hear(core, GREETING + reply(STRUCTURED, ERROR | 1))
    assert core.output().endswith(go(b""))
    (export,) = hear(core, described() + reply(GO, ACK))
    assert (export.structured, export.contexts, export.offers) == (False, {}, ())


def test_infos_that_nobody_knows_are_passed_over():
    more = reply(GO, INFO, b"\0\1disk") + reply(GO, INFO, b"\x12\x34" + bytes(8000))
    assert opened(described(), more, more).export == Export(SIZE, 5, {})


# TLS


def test_before_tls_nothing_else_is_said():
    core = Connection(Terms(b"secret", tls=True))
    hear(core, GREETING)
    assert core.output() == b"\0\0\0\3" + option(STARTTLS)
    assert hear(core, reply(STARTTLS, ACK)) == [START_TLS]
    assert core.output() == b""
    core.secured()
    assert core.output() == option(STRUCTURED)
    (export,) = hear(core, greeting()[len(GREETING) :])
    assert export.size == SIZE


@pytest.mark.parametrize("at_once", [True, False])
def test_what_comes_in_the_clear_after_that_is_somebody_elses(at_once):
    core = Connection(Terms(b"", tls=True))
    raw = GREETING + reply(STARTTLS, ACK) + reply(STRUCTURED, ACK)
    with pytest.raises(ProtocolBroken, match="in the clear"):
        hear(core, raw, most=2**30 if at_once else 1)


def test_no_tls_is_no_connection():
    core = Connection(Terms(b"", tls=True))
    with pytest.raises(Untrusted, match=r"does not speak TLS \(never\)"):
        hear(core, GREETING + reply(STARTTLS, ERROR | 1, b"never"))
    assert core.output() == b"\0\0\0\3" + option(STARTTLS) + option(2)


# What it refuses.


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (1, UsageError, "too old"),
        (2, NotAuthorised, "does not give this export"),
        (3, SourceFailed, r"error 3 \(why\\xff\)"),
        (5, UsageError, "wants TLS"),
        (6, NotFound, "no export 'di\\\\xffsk'"),
        (7, SourceUnavailable, "about to end"),
    ],
)
def test_an_export_that_is_refused(code, kind, says):
    core = Connection(Terms(b"di\xffsk"))
    with pytest.raises(kind, match=says) as refused:
        hear(core, GREETING + reply(STRUCTURED, ACK) + reply(GO, ERROR | code, b"why\xff"))
    assert type(refused.value) is kind
    assert "(why\\xff)" in refused.value.message


@pytest.mark.parametrize(("code", "kind"), [(5, UsageError), (7, SourceUnavailable)])
def test_what_no_other_option_will_change_ends_it_at_once(code, kind):
    with pytest.raises(kind):
        hear(Connection(Terms(b"")), GREETING + reply(STRUCTURED, ERROR | code))


def test_a_refusal_is_answered_with_a_goodbye():
    """A server that hears none logs an error; and one that still has to answer is not spoken to."""
    core = Connection(Terms(b""))
    hear(core, GREETING)
    core.output()
    core.disconnect()
    assert core.output() == b""
    with pytest.raises(SourceUnavailable):
        hear(core, reply(STRUCTURED, ERROR | 7))
    assert core.output() == option(2)


@pytest.mark.parametrize(
    "raw",
    [b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\3", b"NBDMAGICIHAVEOPT\0\2"],
    ids=["oldstyle", "newstyle"],
)
def test_a_server_of_the_past(raw):
    with pytest.raises(UsageError, match="too old"):
        hear(Connection(Terms(b"")), raw)


# What it must not say.

TERMS = Terms(b"", [ALLOCATION], offers=())
BEGUN = GREETING + reply(STRUCTURED, ACK)
LISTED = BEGUN + reply(LIST, ACK)
GOING = LISTED + reply(SET, ACK)
LIES = {
    "another magic": b"NBDMAGIXIHAVEOPT\0\3",
    "another second magic": b"NBDMAGICIHAVEOPS\0\3",
    "a web server": b"HTTP/1.1 400 Bad Request\r\n",
    "another reply magic": GREETING + b"\xff" + reply(STRUCTURED, ACK)[1:],
    "another option's answer": GREETING + reply(GO, ACK),
    "an answer that is too long": GREETING + reply(STRUCTURED, ERROR | 1, bytes(8193)),
    "an acknowledgement with content": GREETING + reply(STRUCTURED, ACK, b"x"),
    "a reply of another kind": GREETING + reply(STRUCTURED, INFO, bytes(12)),
    "a context in place of an info": GOING + context(GO, 0, ALLOCATION),
    "no description": GOING + sizes() + reply(GO, ACK),
    "two descriptions": GOING + described() + described() + reply(GO, ACK),
    "two block sizes": GOING + described() + sizes() + sizes() + reply(GO, ACK),
    "a description cut short": GOING + reply(GO, INFO, bytes(11)) + reply(GO, ACK),
    "an info without a kind": GOING + described() + reply(GO, INFO, b"\7") + reply(GO, ACK),
    "block sizes cut short": GOING + described() + reply(GO, INFO, b"\0\3" + bytes(11))
    + reply(GO, ACK),
    "an export of 2^63 bytes": GOING + described(2**63) + reply(GO, ACK),
    "flags that are none": GOING + described(flags=4) + reply(GO, ACK),
    "blocks of nothing": GOING + described() + sizes(0) + reply(GO, ACK),
    "blocks of 768": GOING + described() + sizes(768) + reply(GO, ACK),
    "blocks that are too large": GOING + described() + sizes(2**17) + reply(GO, ACK),
    "requests smaller than blocks": GOING + described() + sizes(4096, 4096, 512) + reply(GO, ACK),
    "infos without end": GOING + described() + sizes() + reply(GO, INFO, b"\0\1x") * 63,
    "offers without end": BEGUN + context(LIST, 0, "x:y") * 1025,
    "a context that nobody asked for": LISTED + context(SET, 0, DIRTY) + reply(SET, ACK),
    "more contexts than asked for": LISTED + context(SET, 0, ALLOCATION) * 2,
    "a context without a name": BEGUN + reply(LIST, CONTEXT, bytes(4)) + reply(LIST, ACK),
    "a context of 4097 bytes": BEGUN + context(LIST, 0, "x" * 4097) + reply(LIST, ACK),
    "a context that is no text": LISTED + reply(SET, CONTEXT, bytes(4) + b"\xff") + reply(SET, ACK),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_it_and_stays_one(lie):
    core = Connection(TERMS)
    with pytest.raises(ProtocolBroken) as first:
        hear(core, LIES[lie])
    with pytest.raises(ProtocolBroken) as again:
        core.received(0)
    assert again.value is first.value


def test_what_the_lies_begin_with_is_true():
    """Else they would all be the same lie."""
    assert hear(Connection(TERMS), GOING + sizes() + described() + reply(GO, ACK)) == [
        Export(SIZE, 5, {}, max_payload=2**25)
    ]


def test_two_contexts_of_one_number():
    core = Connection(Terms(b"", [ALLOCATION, DIRTY]))
    with pytest.raises(ProtocolBroken, match="one twice"):
        hear(core, greeting(contexts=[(1, ALLOCATION), (1, DIRTY)]))


def test_one_context_twice():
    core = Connection(Terms(b"", [ALLOCATION, DIRTY]))
    with pytest.raises(ProtocolBroken, match="one twice"):
        hear(core, greeting(contexts=[(1, ALLOCATION), (2, ALLOCATION)]))
