"""Whatever an NBD server says, the core says what is wrong with it, soon and in little memory."""

import struct
import time
import tracemalloc
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sources.nbd_script import (
    ACK,
    DONE,
    ERROR,
    GO,
    GREETING,
    INFO,
    LIST,
    NONE,
    SET,
    SIZE,
    STATUS,
    STRUCTURED,
    chunk,
    context,
    data,
    described,
    failed,
    failed_at,
    hear,
    hole,
    opened,
    reply,
    simple,
    sizes,
    status,
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
from transfer.sources.nbd_protocol import Answered, Connection, Terms

A, B = "base:allocation", "qemu:dirty-bitmap:x"
DECLARED = (ProtocolBroken, NotAuthorised, NotFound, SourceFailed, SourceUnavailable, Untrusted,
            UsageError)  # fmt: skip
PATIENCE = 2.0  # seconds
LENGTH = 2**16


@contextmanager
def little(memory):
    """What happens within takes at most *memory* bytes, and little time."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        yield
        assert time.perf_counter() - began < PATIENCE
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


numbers = st.one_of(st.sampled_from([0, 1, 2, 7, 9, 511, 512, LENGTH, SIZE, 2**31, 2**32 - 1]))
places = st.one_of(st.integers(0, LENGTH), st.sampled_from([SIZE, 2**63, 2**64 - 1]))
cookies = st.integers(0, 5)
flags = st.sampled_from([0, DONE, DONE, 0xFFFF])
extents = st.lists(st.tuples(numbers, numbers), max_size=5)
chunks = st.one_of(
    st.builds(data, cookies, places, st.binary(max_size=20), flags),
    st.builds(lambda c, f: data(c, 0, bytes(LENGTH), f), cookies, flags),
    st.builds(hole, cookies, places, numbers, flags),
    st.builds(lambda c, id, x, f: status(c, id, *x, flags=f), cookies, numbers, extents, flags),
    st.builds(failed, cookies, numbers, st.binary(max_size=20), flags),
    st.builds(failed_at, cookies, numbers, places, flags),
    st.builds(chunk, cookies, st.integers(0, 2**16 - 1), st.binary(max_size=30), flags),
    st.builds(lambda c: chunk(c, NONE, flags=DONE), cookies),
    st.builds(simple, cookies, st.binary(max_size=5), numbers),
)
names = st.sampled_from([A, B, "x:", "", "x" * 5000])
replies = st.one_of(
    st.builds(reply, st.integers(5, 10), st.sampled_from([ACK, INFO, ERROR, ERROR | 1]),
              st.binary(max_size=20)),
    st.builds(described, st.sampled_from([0, 1000, SIZE, 2**64 - 1]), numbers.map(lambda n: n % 9)),
    st.builds(sizes, numbers, numbers, numbers),
    st.builds(context, st.sampled_from([LIST, SET]), numbers, names),
)  # fmt: skip
SHAKING = [GREETING, reply(STRUCTURED, ACK), context(LIST, 0, "q:x"), reply(LIST, ACK),
           context(SET, 7, A), context(SET, 9, B), reply(SET, ACK), sizes(), described(),
           reply(GO, ACK)]  # fmt: skip
cuts = st.sampled_from([1, 7, 100, 10**6])


@st.composite
def damaged(draw, parts):
    """The bytes of *parts*, now and then with a byte that is another, or without some."""
    raw = bytearray(b"".join(parts))
    for _ in range(draw(st.integers(0, 2)) if raw else 0):
        at = draw(st.integers(0, len(raw) - 1))
        raw[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(raw)


def shaking():
    """A handshake in which something was left out, or came in between."""

    @st.composite
    def some(draw):
        parts = list(SHAKING)
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(parts)))
            parts[at : at + draw(st.integers(0, 1))] = draw(st.lists(replies, max_size=2))
        return draw(damaged(parts))

    return some()


def said(core, raw, cut):
    """The events, as far as it is believed."""
    try:
        return hear(core, raw, cut)
    except DECLARED:
        return None


@settings(deadline=None, max_examples=150)
@given(shaking(), cuts)
def test_a_handshake_ends_in_an_export_or_in_a_declared_error(raw, cut):
    core = Connection(Terms(b"", [A, B], offers=()))
    with little(2**20):
        said(core, raw, cut)
    if core.export is not None:
        assert 0 <= core.export.size < 2**63
        assert core.export.contexts.keys() <= {A, B}


def asked(structured=True):
    core = opened(contexts=[(7, A), (9, B)]) if structured else opened(structured=False)
    views = {core.read(at, view): view for at, view in [
        (0, memoryview(bytearray(b"?" * LENGTH))), (512, memoryview(bytearray(b"?" * 512)))
    ]}  # fmt: skip
    if structured:
        core.block_status(0, LENGTH)
        core.block_status(0, LENGTH, one=True)
    return core, views


@settings(deadline=None, max_examples=250)
@given(st.lists(chunks, max_size=8).flatmap(damaged), cuts, st.booleans())
def test_replies_are_whole_or_a_declared_error(raw, cut, structured):
    core, views = asked(structured)
    with little(2**20):
        events = said(core, raw, cut)
    for event in events or ():
        assert isinstance(event, Answered)
        if event.cookie in views and event.failure is None and structured:
            assert b"?" not in bytes(views[event.cookie]) or b"?" in raw
        for lengths in (extents[::2] for extents in event.statuses.values()):
            assert min(lengths) > 0
            assert sum(lengths) <= SIZE


FLOODS = {
    "infos": GREETING + reply(STRUCTURED, ERROR | 1) + reply(GO, INFO, b"\1\1" + bytes(8190)) * 200,
    "offers": GREETING + reply(STRUCTURED, ACK) + context(LIST, 0, "q:" + "x" * 4000) * 2000,
    "greetings": GREETING * 10_000,
}  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_in_the_handshake_is_stopped(flood):
    core = Connection(Terms(b"", [A, B], offers=()))
    with little(12 * 2**20):
        assert said(core, FLOODS[flood], 10**6) is None


ONE = b"".join(hole(1, n, 1) for n in range(0, LENGTH, 2))
ANSWERS = {
    "holes": ONE * 20,
    "holes, each one again": hole(1, 0, 1) * 100_000,
    "errors": failed_at(1, 5, 0, 0) * 100_000,
    "extents": status(3, 7, *[(1, n % 2) for n in range(LENGTH)])
    + status(3, 9, *[(1, n % 2) for n in range(LENGTH)]) + status(3, 9, (1, 0)),
    "promises": struct.pack(">IHHQI", 0x668E33EF, 0, STATUS, 3, 2**32 - 4),
    "replies to nothing": chunk(77, NONE, flags=DONE) * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("flood", ANSWERS)
def test_a_flood_of_replies_is_stopped(flood):
    core, _ = asked()
    with little(6 * 2**20):
        assert said(core, ANSWERS[flood], 10**6) is None


def test_extents_take_no_more_than_they_have_bytes():
    """And half of that while their lengths are looked at."""
    core = opened(described(2**40), contexts=[(7, A)])
    core.block_status(0, 2**31)
    two = struct.pack(">IIII", 512, 0, 512, 1)
    raw = chunk(1, STATUS, struct.pack(">I", 7) + two * 2**16, DONE)
    with little(2 * len(raw) + 2**16):
        (answered,) = hear(core, raw)
    assert len(answered.statuses[A]) == 2**18
