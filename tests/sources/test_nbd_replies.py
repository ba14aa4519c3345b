"""Requests to an NBD server and its replies: believed only as far as they were asked for."""

import gc
import struct
import weakref
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sources.nbd_script import (
    AT,
    DONE,
    NONE,
    SIZE,
    A,
    B,
    asking,
    chunk,
    data,
    described,
    failed,
    failed_at,
    hear,
    hole,
    opened,
    reading,
    room,
    simple,
    sizes,
    status,
)
from transfer.sources.nbd_protocol import Answered, Connection, Failure, Terms

# Requests


def test_requests_as_they_are_sent():
    core = opened(contexts=[(0, A)])
    core.read(SIZE - 3, room(3))
    core.block_status(512, SIZE - 512)
    core.block_status(0, 512, one=True)
    core.flush()
    core.disconnect()
    sent = core.output()
    assert [struct.unpack_from(">IHHQQI", sent, at) for at in range(0, len(sent), 28)] == [
        (0x25609513, 0, 0, 1, SIZE - 3, 3),
        (0x25609513, 0, 7, 2, 512, SIZE - 512),
        (0x25609513, 8, 7, 3, 0, 512),
        (0x25609513, 0, 3, 4, 0, 0),
        (0x25609513, 0, 2, 0, 0, 0),
    ]
    assert core.output() == b""
    assert core.in_flight == 4


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (-512, 512), (SIZE, 512), (SIZE - 511, 512), (0, 2**16 + 512), (1, 512), (0, 100)],
)
def test_what_the_server_would_not_take_is_not_sent(offset, length):
    core = opened(described(), sizes(512, 4096, 2**16))
    with pytest.raises(ValueError, match=f"{length} bytes at {offset} of {SIZE}"):
        core.read(offset, room(length))
    assert (core.output(), core.in_flight) == (b"", 0)


def test_no_read_is_larger_than_the_core_allows():
    with pytest.raises(ValueError, match="4194305 bytes"):
        opened().read(0, room(4 * 2**20 + 1))
    opened().read(0, room(4 * 2**20))


@pytest.mark.parametrize("view", [memoryview(bytes(8)), memoryview(bytearray(8)).cast("Q")])
def test_what_cannot_be_read_into(view):
    with pytest.raises(ValueError, match="writable view of bytes"):
        opened().read(0, view)


def test_an_export_may_end_within_a_block():
    core = opened(described(1000), sizes(512))
    core.read(512, room(488))


def test_a_status_needs_a_context_and_a_flush_a_server_that_can():
    core = opened(described(flags=1))
    with pytest.raises(ValueError, match="no context"):
        core.block_status(0, 512)
    with pytest.raises(ValueError, match="cannot flush"):
        core.flush()


def test_before_the_handshake_is_over_nothing_can_be_asked():
    with pytest.raises(ValueError, match="not over"):
        Connection(Terms(b"")).read(0, room(512))


# Reads


def test_data_and_holes_in_any_order():
    core, view = reading(2048)
    raw = data(1, AT + 1500, b"c" * 548) + data(1, AT, b"a" * 500) + hole(1, AT + 500, 1000)
    assert hear(core, raw) == []
    assert hear(core, chunk(1, NONE, flags=DONE)) == [Answered(1, None, {})]
    assert bytes(view) == b"a" * 500 + bytes(1000) + b"c" * 548
    assert core.in_flight == 0


def test_a_hole_that_is_larger_than_what_zeros_are_kept():
    core, view = reading(2**20)
    assert hear(core, hole(1, AT, 2**20, DONE)) == [Answered(1, None, {})]
    assert bytes(view) == bytes(2**20)


def test_replies_to_several_reads_mixed():
    core, one, two = opened(), room(4), room(4)
    assert (core.read(0, one), core.read(100, two)) == (1, 2)
    raw = data(1, 0, b"ab") + data(2, 102, b"yz") + data(1, 2, b"cd") + data(2, 100, b"wx", DONE)
    assert hear(core, raw, most=3) == [Answered(2, None, {})]
    assert hear(core, chunk(1, NONE, flags=DONE)) == [Answered(1, None, {})]
    assert bytes(one) + bytes(two) == b"abcdwxyz"


def test_a_simple_reply_is_for_servers_without_chunks():
    core, view = reading(5, structured=False)
    assert hear(core, simple(1, b"hello")) == [Answered(1, None, {})]
    assert bytes(view) == b"hello"


def test_a_simple_error_has_no_data():
    core, _ = reading(5, structured=False)
    assert hear(core, simple(1, number=5)) == [Answered(1, Failure(5), {})]


def test_data_goes_straight_to_where_it_belongs():
    core, view = reading(2**20)
    hear(core, data(1, AT, bytes(2**20))[: 28 + 1000])
    buffer = core.buffer()
    assert buffer.obj is view.obj
    assert len(buffer) == 2**20 - 1000
    buffer[:3] = b"abc"
    core.received(3)
    assert bytes(view[999:1004]) == b"\0abc?"


@pytest.mark.parametrize("raw", [failed(1, 5, b"no"), failed(1, 5, b"no", 0) + chunk(1, 0, b"", 1)])
def test_an_error_is_its_requests_and_the_others_go_on(raw):
    core, _ = reading()
    core.read(0, room(3))
    events = hear(core, data(1, AT, b"part") + raw + data(2, 0, b"abc", DONE))
    assert events == [Answered(1, Failure(5, "no"), {}), Answered(2, None, {})]


def test_an_error_has_a_place_and_others_may_follow():
    core, _ = reading(2048)
    raw = failed_at(1, 5, AT, 0) + failed_at(1, 12, AT + 2047, 0) + data(1, AT + 512, b"x", DONE)
    assert hear(core, raw) == [Answered(1, Failure(5), {})]


def test_an_error_of_an_unknown_type_is_one():
    core, _ = reading()
    raw = chunk(1, 0x8000 + 77, struct.pack(">IH", 22, 1) + b"?and more", DONE)
    assert hear(core, raw) == [Answered(1, Failure(22, "?"), {})]


def test_words_that_are_no_text():
    core, _ = reading()
    assert hear(core, failed(1, 5, b"\xff"))[0].failure == Failure(5, "\\xff")


def test_a_flush_is_answered_in_either_way():
    for raw in (simple(1), chunk(1, NONE, flags=DONE)):
        core = opened()
        core.flush()
        assert hear(core, raw) == [Answered(1, None, {})]


# Reads that nobody waits for.


@pytest.mark.parametrize("before", [0, 10, 28, 1000])
def test_what_is_discarded_is_received_and_goes_nowhere(before):
    core, view = reading(2**16)
    raw = data(1, AT, b"x" * 2**16, DONE)
    hear(core, raw[:before])
    view[:] = b"!" * 2**16
    core.discard(1)
    core.read(0, room(3))
    raw += data(2, 0, b"abc", DONE)
    assert hear(core, raw[before:]) == [Answered(1, None, {}), Answered(2, None, {})]
    assert bytes(view) == b"!" * 2**16


def test_holes_of_what_is_discarded_go_nowhere():
    core, view = reading(2**16)
    core.discard(1)
    hear(core, hole(1, AT, 2**16, DONE))
    assert bytes(view) == b"?" * 2**16


@pytest.mark.parametrize("how", ["answered", "discarded"])
def test_the_buffer_is_the_callers_again(how):
    class Memory(bytearray):
        pass

    core, memory = opened(), Memory(2**16)
    gone = weakref.ref(memory)
    core.read(AT, memoryview(memory))
    hear(core, data(1, AT, bytes(2**16), DONE)[: 2**15 if how == "discarded" else None])
    core.discard(1)
    del memory
    gc.collect()
    assert gone() is None


def test_to_discard_what_was_answered_is_nothing():
    core, _ = reading(2)
    hear(core, data(1, AT, b"ab", DONE))
    core.discard(1)


# Status


def test_the_status_of_all_contexts():
    core = asking(3072)
    raw = status(1, 9, (3072, 1)) + status(1, 7, (512, 3), (512, 0), (2048, 2**32 - 1), flags=DONE)
    (answered,) = hear(core, raw, most=7)
    assert {name: list(extents) for name, extents in answered.statuses.items()} == {
        A: [512, 3, 512, 0, 2048, 2**32 - 1],
        B: [3072, 1],
    }


def test_a_status_may_cover_less_and_more_than_was_asked_for():
    core = asking(2048)
    raw = status(1, 7, (512, 0)) + status(1, 9, (2047, 1), (SIZE - AT - 2047, 0), flags=DONE)
    (answered,) = hear(core, raw)
    assert list(answered.statuses[A]) == [512, 0]


def test_one_extent_is_enough_where_one_was_asked_for():
    core = asking(2048, one=True)
    raw = status(1, 7, (2048, 0)) + status(1, 9, (1, 1), flags=DONE)
    assert hear(core, raw)[0].failure is None


def test_a_status_that_fails():
    for raw in (failed(1, 12), simple(1, number=12), failed_at(1, 12, AT)):
        assert hear(asking(2048), status(1, 7, (1, 0)) + raw)[0].failure == Failure(12)


# Crumbs


def test_crumbs_one_after_the_other_are_taken():
    core, view = reading(8192)
    raw = b"".join(data(1, AT + n, bytes([n % 251])) for n in reversed(range(8192)))
    assert hear(core, raw + chunk(1, NONE, flags=DONE)) == [Answered(1, None, {})]
    assert bytes(view) == bytes(n % 251 for n in range(8192))


def test_crumbs_of_little_are_taken_in_any_order():
    core, view = reading(100)
    ones = [data(1, AT + n, b"x") for n in (*range(0, 100, 2), *range(1, 100, 2))]
    assert hear(core, b"".join(ones) + chunk(1, NONE, flags=DONE)) == [Answered(1, None, {})]
    assert bytes(view) == b"x" * 100


# Any server that keeps to the protocol.


@given(st.data())
def test_whatever_way_a_reply_is_cut_up_it_is_whole(random):
    content = bytes(random.draw(st.lists(st.integers(0, 3), min_size=1, max_size=60)))
    cuts = random.draw(st.sets(st.integers(1, len(content))))
    edges = sorted({0, len(content), *cuts})
    chunks = [
        hole(1, AT + start, stop - start)
        if not any(content[start:stop])
        else data(1, AT + start, content[start:stop])
        for start, stop in pairwise(edges)
    ]
    chunks = random.draw(st.permutations(chunks))
    core, view = reading(len(content))
    raw = b"".join(chunks) + chunk(1, NONE, flags=DONE)
    assert hear(core, raw, random.draw(st.integers(1, 50))) == [Answered(1, None, {})]
    assert bytes(view) == content
