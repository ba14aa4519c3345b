"""The pack codec: what was written whole comes back, and damage is seen or costs itself only."""

import zlib

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import (
    DATA,
    INDEX,
    LEAF,
    PAGE,
    POINT,
    cuts,
    flipped,
    frames,
    id_of,
    mangled,
)
from tests.suites.vault import made_frame
from transfer.errors import FormatError, NewerFormat
from transfer.formats import frame, pack
from transfer.formats.pack import IndexEntry, PackClass

HEADER = pack.PackHeader(b"d" * 16, pack.PackClass.DATA, b"p" * 16)
numbers = st.lists(st.integers(1, 2**64 - 1), max_size=6, unique=True)
blocks = frames(st.just(DATA)).map(lambda drawn: frame.encode(*drawn))


def opened(frames):
    return pack.encode_header(HEADER) + b"".join(frames)


def closed(frames):
    raw = opened(frames)
    entries = [pack.entry_of(one.frame.header, one.offset) for one in pack.walk(raw)]
    return raw + pack.encode_trailer(entries, len(raw), blake3(raw))


@given(numbers)
def test_a_closed_pack_tells_its_frames(drawn):
    made = [made_frame(number) for number in drawn]
    raw = closed([frame for _, frame in made])
    trailer = pack.decode_trailer(raw)
    assert pack.decode_header(raw) == HEADER
    assert pack.digest_holds(raw, trailer)
    assert list(trailer.entries) == sorted(trailer.entries)
    for reference, raw_frame in made:
        (entry,) = [one for one in trailer.entries if one.reference == reference]
        assert raw[entry.offset : entry.offset + entry.frame_length] == raw_frame


@given(st.lists(blocks, max_size=4))
def test_an_index_says_of_each_frame_what_its_header_says(drawn):
    raw = closed(drawn)
    for entry in pack.decode_trailer(raw).entries:
        header = frame.decode_header(raw, entry.offset)
        assert pack.entry_of(header, entry.offset) == entry
        assert entry.frame_length == header.frame_length


@given(st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True), st.data())
def test_a_cut_pack_keeps_its_whole_frames(drawn, data):
    frames = [made_frame(number)[1] for number in drawn]
    raw = closed(frames)
    cut = data.draw(st.integers(pack.HEADER_SIZE, len(raw) - 1))
    assert pack.decode_trailer(raw[:cut]) is None
    whole = [sum(map(len, frames[: n + 1])) + pack.HEADER_SIZE for n in range(len(frames))]
    assert [one.end for one in pack.walk(raw[:cut])] == [end for end in whole if end <= cut]


@given(st.data())
def test_a_flipped_bit_costs_one_frame(data):
    frames = [made_frame(number)[1] for number in (1, 2, 3)]
    raw = bytearray(opened(frames))
    at = data.draw(st.integers(pack.HEADER_SIZE, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    hit = (at - pack.HEADER_SIZE) // len(frames[0])
    expected = [number for number in range(3) if number != hit]
    found = [(one.offset - pack.HEADER_SIZE) // len(frames[0]) for one in pack.walk(raw)]
    assert found == expected


@given(st.lists(blocks, min_size=1, max_size=3), st.data())
def test_every_flipped_bit_of_a_closed_pack_is_noticed(drawn, data):
    raw = data.draw(flipped(closed(drawn)))
    try:
        trailer = pack.decode_trailer(raw)
    except FormatError:
        return
    assert trailer is None or not pack.digest_holds(raw, trailer)


@given(st.lists(blocks, max_size=3).map(closed).flatmap(mangled) | st.binary(max_size=300))
def test_a_pack_of_anything_is_walked_and_raises_nothing_but_a_format_error(raw):
    ends = [one.end for one in pack.walk(raw)]
    assert ends == sorted(set(ends))
    try:
        trailer = pack.decode_trailer(raw)
        header = pack.decode_header(raw)
    except (FormatError, NewerFormat):
        return
    assert pack.encode_header(header) == raw[: pack.HEADER_SIZE]
    if trailer is not None:
        assert pack.encode_index(trailer.entries) == raw[trailer.index_at : -pack.FOOTER_SIZE]


# The header.


def with_check(raw):
    return raw[:-4] + zlib.crc32(raw[:-4]).to_bytes(4, "little")


def header_with(at, value):
    raw = bytearray(pack.encode_header(HEADER))
    raw[at] = value
    return with_check(bytes(raw))


@given(flipped(pack.encode_header(HEADER)), cuts(pack.encode_header(HEADER)))
def test_every_flipped_bit_and_every_cut_of_a_header_is_refused(damaged, cut):
    for wrong in (damaged, cut):
        with pytest.raises(FormatError):
            pack.decode_header(wrong)


@pytest.mark.parametrize(("at", "value"), [(0, 0), (5, 0), (6, 1), (7, 1)])
def test_a_header_that_no_writer_made_is_refused(at, value):
    with pytest.raises(FormatError):
        pack.decode_header(header_with(at, value))


@pytest.mark.parametrize(("at", "value", "named"), [(4, 2, "version 2"), (5, 3, "class 3")])
def test_a_later_header_says_so(at, value, named):
    with pytest.raises(NewerFormat, match=named):
        pack.decode_header(header_with(at, value))


def test_a_header_says_the_class():
    header = HEADER._replace(pack_class=PackClass.METADATA)
    assert pack.decode_header(pack.encode_header(header)) == header
    assert [pack.class_of(tag) for tag in (DATA, LEAF, PAGE, INDEX)] == [1, 2, 2, 2]


@pytest.mark.parametrize("wrong", [{"domain": b"d" * 15}, {"pack_id": b"p" * 17}])
def test_a_header_of_other_sizes_is_not_written(wrong):
    with pytest.raises(ValueError, match="a pack needs"):
        pack.encode_header(HEADER._replace(**wrong))


# The trailer.

INDEX_AT = 3000


def block_entry(number=1, offset=pack.HEADER_SIZE, **fields):
    entry = IndexEntry(DATA, id_of(number), offset, 0, 0, 16, b"epoch-01", 1)
    return entry._replace(**fields)


def trailer_of(*entries, index_at=INDEX_AT, count=None, reserved=bytes(3), version=1):
    """A pack that is only a trailer, with a digest that holds, as an evil writer would make it."""
    raw = pack.encode_header(HEADER).ljust(INDEX_AT, b"?")
    raw += b"".join(pack._ENTRY.pack(*entry) for entry in entries)
    footer = pack._FOOTER.pack(
        b"TEND", version, reserved, index_at, len(entries) if count is None else count,
        blake3(raw).digest(), 0,
    )  # fmt: skip
    return raw + with_check(footer)


LONG = block_entry(1, payload_length=1024)  # 1,136 bytes
REFUSED = {
    "out of order": [block_entry(2, 44), block_entry(1, 300)],
    "an entry twice": [block_entry(), block_entry()],
    "kind 6": [block_entry(tag=0x60)],
    "a point": [block_entry(tag=POINT)],
    "level 0 of a stream": [block_entry(tag=0x20, child_count=1)],
    "the null ID": [block_entry(0)],
    "a block with children": [block_entry(child_count=1)],
    "a node without children": [block_entry(tag=LEAF)],
    "a node with 257 children": [block_entry(tag=LEAF, child_count=257)],
    "a page with 513 children": [block_entry(tag=PAGE, child_count=513)],
    "a block beyond 4 MiB": [block_entry(plain_length=4 * 2**20 + 1)],
    "a node beyond 290 bytes": [block_entry(tag=LEAF, child_count=1, plain_length=291)],
    "no room for a tag": [block_entry(payload_length=15)],
    "payload beyond the plaintext": [block_entry(payload_length=1025)],
    "a frame in the header": [block_entry(offset=pack.HEADER_SIZE - 1)],
    "a frame in the index": [block_entry(offset=INDEX_AT - 127)],
    "a frame beyond the pack": [block_entry(offset=2**64 - 1)],
    "overlap": [LONG, block_entry(2, 44 + 1135)],
    "one frame under two IDs": [block_entry(1), block_entry(2)],
    "two classes": [block_entry(1), block_entry(1, 300, tag=LEAF, child_count=1)],
}


@pytest.mark.parametrize("entries", REFUSED.values(), ids=REFUSED)
def test_an_index_that_no_writer_made_is_refused(entries):
    with pytest.raises(FormatError):
        pack.decode_trailer(trailer_of(*entries))


@pytest.mark.parametrize("entries", [
    [],
    [block_entry(offset=INDEX_AT - 128)],
    [LONG, block_entry(2, 44 + 1136)],
    [block_entry(2, 44), block_entry(3, 500)],  # damaged frames left a gap
    [block_entry(1, 44), block_entry(1, 300)],  # two copies
    [block_entry(tag=LEAF, child_count=1, plain_length=290, payload_length=290 + 1024)],
])  # fmt: skip
def test_an_index_at_the_limits_comes_back(entries):
    raw = trailer_of(*entries)
    found = pack.decode_trailer(raw)
    assert list(found.entries) == entries
    assert found.index_at == INDEX_AT
    assert pack.digest_holds(raw, found)


@pytest.mark.parametrize("wrong", [
    {"index_at": INDEX_AT - 1}, {"index_at": INDEX_AT + 1}, {"index_at": pack.HEADER_SIZE - 1},
    {"count": 0}, {"count": 2}, {"count": 2**64 - 1}, {"reserved": b"\0\0\1"},
])  # fmt: skip
def test_a_footer_beyond_the_limits_is_refused(wrong):
    with pytest.raises(FormatError, match="footer beyond the limits"):
        pack.decode_trailer(trailer_of(block_entry(), **wrong))


def test_a_pack_that_is_shorter_than_header_and_footer_has_no_trailer():
    for raw in (b"", bytes(103), opened([])):
        assert pack.decode_trailer(raw) is None
    assert pack.decode_trailer(closed([])).entries == ()


def test_a_pack_has_at_most_256_mib():
    assert pack.decode_trailer(bytes(pack.MAX_PACK)) is None
    with pytest.raises(FormatError, match="no pack has"):
        pack.decode_trailer(bytes(pack.MAX_PACK + 1))


def test_a_trailer_of_a_later_version_says_so():
    with pytest.raises(NewerFormat, match="version 2"):
        pack.decode_trailer(trailer_of(version=2))


@pytest.mark.parametrize("version", [1, 2])
def test_a_client_cannot_end_a_crashed_pack_with_a_trailer_of_its_own(version):
    """It chooses its payload, and not the digest of all before: the pack ID is not told."""
    footer = pack._FOOTER.pack(b"TEND", version, bytes(3), 300, 0, blake3(b"?").digest(), 0)
    raw = opened([made_frame(1)[1], made_frame(2, payload=b"x" * 16 + with_check(footer))[1]])
    try:
        found = pack.decode_trailer(raw)
    except FormatError:
        found = None
    assert found is None or not pack.digest_holds(raw, found)
    assert len(list(pack.walk(raw))) == 2


def test_an_index_of_other_sizes_is_not_written():
    for wrong in ({"id": b"i" * 31}, {"epoch": b"e" * 9}):
        with pytest.raises(ValueError, match="an index entry needs"):
            pack.encode_index([block_entry(**wrong)])


# Frames of a later version.

NEWER = frame.encode_header(frame.decode_header(made_frame(7)[1])._replace(flags=2)) + bytes(48)


def test_a_frame_of_a_later_version_is_no_damage():
    raw = opened([made_frame(1)[1], NEWER, made_frame(2)[1]])
    found = pack.walk(raw)
    assert next(found).frame.header.id == id_of(1)
    with pytest.raises(NewerFormat):
        next(found)


def test_a_client_cannot_feign_a_later_version_inside_of_a_torn_frame():
    """Its payload holds a sound frame and a newer one; the crash tore the frame around them."""
    inside = made_frame(3)[1] + NEWER
    torn = made_frame(2, payload=inside + bytes(100))[1][:-50]
    raw = opened([made_frame(1)[1], torn])
    assert [one.frame.header.id for one in pack.walk(raw)] == [id_of(1), id_of(3)]


def test_a_magic_across_two_steps_of_the_search_is_found():
    torn = bytes(2**20 + 3)
    for before in range(6):
        raw = opened([torn[before:], made_frame(1)[1]])
        (found,) = pack.walk(raw)
        assert found.frame.header.id == id_of(1)


def test_a_walk_keeps_to_its_bounds():
    frames = [made_frame(number)[1] for number in (1, 2, 3)]
    raw, size = opened(frames), len(frames[0])
    second = pack.HEADER_SIZE + size
    assert [one.offset for one in pack.walk(raw, second)] == [second, second + size]
    assert [one.offset for one in pack.walk(raw, end=second + size - 1)] == [pack.HEADER_SIZE]
