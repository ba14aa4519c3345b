"""What two maps say about two copies, against two files made of blocks that stand somewhere."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import FormatError
from transfer.sources import extent_maps
from transfer.sources.extent_maps import (
    LAST,
    MERGED,
    SHARED,
    UNWRITTEN,
    Mapped,
    answered,
    ask,
    buffer_for,
    changed,
    merged,
)

BLOCK = 4
DOUBTFUL = [
    getattr(extent_maps, name)
    for name in (
        "UNKNOWN", "DELALLOC", "ENCODED", "DATA_ENCRYPTED", "NOT_ALIGNED", "DATA_INLINE",
        "DATA_TAIL",
    )
] + [0x10, 0x4000, 0x80000000]  # fmt: skip

# A block of a file: a hole, space that was never written, or what stands at an address, and
# whether its flags say that this proves something.
HOLE, RESERVED = "hole", "reserved"
proven = st.one_of(st.just(HOLE), st.just(RESERVED), st.integers(1, 8))
doubtful = st.tuples(st.integers(1, 4), st.sampled_from(DOUBTFUL), st.integers(0, 3))
harmless = st.sampled_from([0, SHARED, MERGED, LAST])


def addresses(blocks):
    """Neighbours in the file are often neighbours on the disk, and blocks wander in the file."""
    for number, block in enumerate(blocks):
        yield block * 100 + number if isinstance(block, int) and block < 5 else block


def files(*kinds):
    return st.lists(st.one_of(*kinds), max_size=12).map(lambda blocks: list(addresses(blocks)))


def content(blocks, size):
    """The file's bytes; what stands at an address is that address, or what nobody can tell."""
    found = []
    for number in range(-(-size // BLOCK)):
        block = blocks[number] if number < len(blocks) else HOLE
        found += [0 if block in (HOLE, RESERVED) else block] * BLOCK
        if isinstance(block, tuple):
            found[-BLOCK:] = [-block[2]] * BLOCK
    return found[:size]


@st.composite
def maps(draw, blocks):
    """A map of the file, its extents cut anywhere, with flags that say nothing."""
    extents = []
    for number, block in enumerate(blocks):
        if block == HOLE:
            continue
        flags = draw(harmless)
        if isinstance(block, tuple):
            address, flags = block[0], flags | block[1]
        else:
            address, flags = (99, flags | UNWRITTEN) if block == RESERVED else (block, flags)
        extents.append(Mapped(number * BLOCK, BLOCK, address * BLOCK, flags))
        joined = joint(*extents[-2:])
        if joined and draw(st.booleans()):
            extents[-2:] = [joined]
    return extents


def joint(one, two=None):
    fits = two and one.flags == two.flags and one.end == two.offset
    if fits and one.physical + one.length == two.physical:
        return one._replace(length=one.length + two.length)
    return None


sizes = st.integers(0, 13 * BLOCK)


def differing(old, new, size_old, size_new):
    """The places that *new* has, and *old* has not or has otherwise."""
    was, now = content(old, size_old), content(new, size_new)
    return {at for at in range(size_new) if at >= size_old or was[at] != now[at]}


def places(extents):
    return {at for offset, length in extents for at in range(offset, offset + length)}


@given(st.data(), files(proven), files(proven), sizes, sizes)
def test_the_result_is_exactly_what_stands_elsewhere(data, old, new, size_old, size_new):
    found = changed(data.draw(maps(old)), data.draw(maps(new)), size_old, size_new)
    assert places(found) == differing(old, new, size_old, size_new)


@given(st.data(), files(proven, doubtful), files(proven, doubtful), sizes, sizes)
def test_whatever_differs_is_in_the_result_in_order(data, old, new, size_old, size_new):
    found = list(changed(data.draw(maps(old)), data.draw(maps(new)), size_old, size_new))
    assert places(found) >= differing(old, new, size_old, size_new)
    ends = [0, *(offset + length for offset, length in found)]
    assert all(length > 0 for _, length in found)
    assert all(start > end for (start, _), end in zip(found[1:], ends[1:], strict=False))
    assert ends[-1] <= size_new


@pytest.mark.parametrize("flag", DOUBTFUL, ids=hex)
@pytest.mark.parametrize("other", [0, UNWRITTEN], ids=["written", "unwritten"])
def test_one_doubtful_flag_in_either_map_counts_as_changed(flag, other):
    doubt, sure = [Mapped(8, 8, 800, flag | other)], [Mapped(8, 8, 800, other)]
    for old, new in [(doubt, sure), (sure, doubt), (doubt, doubt)]:
        assert list(changed(old, new, 16, 16)) == [(8, 8)]
    assert list(changed(sure, sure, 16, 16)) == []
    assert list(changed(doubt, [], 16, 16)) == list(changed([], doubt, 16, 16)) == [(8, 8)]


def test_maps_are_read_along_with_the_result():
    """Of two maps without an end, and with one difference in a thousand extents."""
    read = []

    def endless(change):
        for number in itertools.count():
            read.append(number)
            yield Mapped(number * 8, 8, number * 80 + (change if number % 1000 == 0 else 0))

    found = changed(endless(0), endless(1), 2**62, 2**62)
    for number in range(3):
        assert next(found) == (number * 8000, 8)
        assert len(read) <= 2 * ((number + 1) * 1000 + 2)


@pytest.mark.parametrize("map_", [[(0, 9), (8, 8)], [(8, 8), (0, 8)]])
def test_a_map_that_goes_back_is_refused(map_):
    wrong = [Mapped(offset, length, 800) for offset, length in map_]
    for old, new in [(wrong, []), ([], wrong)]:
        with pytest.raises(FormatError):
            list(changed(old, new, 100, 100))


@given(st.data(), files(proven, doubtful))
def test_two_readings_of_one_map_are_the_same_once_merged(data, blocks):
    one, other = (list(merged(data.draw(maps(blocks)))) for _ in range(2))
    assert one == other
    assert not any(joint(*pair) for pair in itertools.pairwise(one))


@given(st.data(), files(proven), files(proven))
def test_merging_leaves_the_meaning(data, old, new):
    found = changed(merged(data.draw(maps(old))), merged(data.draw(maps(new))), 48, 48)
    assert places(found) == differing(old, new, 48, 48)


@given(st.integers(0, 100), st.integers(0, 100), st.data(), files(proven))
def test_the_part_of_an_extent_stands_where_it_stood(start, length, data, blocks):
    parts = [e.within(start, start + length) for e in data.draw(maps(blocks))]
    places_of = {
        at: extent.physical + at - extent.offset
        for extent in data.draw(maps(blocks))
        for at in range(extent.offset, extent.end)
        if start <= at < start + length
    }
    assert {
        part.offset + at: part.physical + at for part in parts if part for at in range(part.length)
    } == places_of


def answer(start, *extents, count=None):
    """As the kernel gives it (linux/fiemap.h)."""
    head = struct.pack(
        "=QQIIII", start, 2**64 - 1, 1, len(extents) if count is None else count, 9, 0
    )
    return head + b"".join(
        struct.pack("=QQQQQIIII", offset, physical, length, 1, 1, flags, 1, 1, 1)
        for offset, length, physical, flags in extents
    )


def test_an_answer_of_the_kernel():
    one, two = Mapped(4096, 8192, 2**40, SHARED), Mapped(2**63, 2**63, 0, LAST | UNWRITTEN)
    assert answered(answer(0, one, two)) == [one, two]
    assert answered(answer(0, one, two, count=1)) == [one]
    assert answered(answer(12287, one)) == [one]
    assert answered(answer(2**63)) == []


def test_a_question_says_how_much_fits():
    buffer = buffer_for(17)
    ask(buffer, 2**40, 2**41, sync=True)
    assert len(buffer) == 32 + 17 * 56
    assert struct.unpack_from("=QQIIII", buffer) == (2**40, 2**41, 1, 0, 17, 0)
    ask(buffer, 0, 1, sync=False)
    assert struct.unpack_from("=QQIIII", buffer) == (0, 1, 0, 0, 17, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        answer(0)[:-1],
        answer(0, Mapped(0, 8, 8))[:-1],
        answer(0, Mapped(0, 8, 8), count=2),
        answer(0, Mapped(8, 0, 8)),
        answer(0, Mapped(8, 8, 8), Mapped(0, 8, 80)),
        answer(0, Mapped(8, 8, 8), Mapped(15, 8, 80)),
        answer(16, Mapped(8, 8, 8)),
        answer(0, Mapped(2**64 - 8, 9, 8)),
        answer(0, Mapped(8, 9, 2**64 - 8)),
    ],
    ids=["nothing", "cut head", "cut extent", "more than there are", "empty", "disorder",
         "overlap", "before the question", "offset too high", "address too high"],
)  # fmt: skip
def test_a_bad_answer_is_a_declared_error(wrong):
    with pytest.raises(FormatError):
        answered(wrong)


@given(st.binary(max_size=300), st.integers(0, 5))
def test_no_bytes_are_another_error(noise, count):
    noise = noise[:20] + struct.pack("=I", count) + noise[24:]
    try:
        extents = answered(noise)
    except FormatError:
        return
    assert len(extents) == count
    assert all(one.end <= two.offset for one, two in itertools.pairwise(extents))
