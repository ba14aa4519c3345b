"""The frame codec: limits before trust, and no bit of a header or payload goes unnoticed."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import (
    DATA,
    INDEX,
    LEAF,
    PAGE,
    POINT,
    TAGS,
    child_lists,
    child_tags,
    cuts,
    flipped,
    frames,
    id_of,
    mangled,
)
from transfer.errors import FormatError, NewerFormat
from transfer.formats import frame
from transfer.formats.frame import HEADER_SIZE, Header
from transfer.formats.reference import Kind, Reference, encode_references, tag_of


def encoded(drawn):
    return frame.encode(*drawn)


def header_of(tag=DATA, **fields):
    child_count = frame.MIN_CHILDREN[Kind(tag >> 4)]
    header = Header(
        tag >> 4, tag & 15, 0, child_count, 0, 16, b"epoch-01", 1, b"c" * 16, 5, id_of(1)
    )
    return header._replace(**fields)


def with_check(raw):
    """The header *raw* with the check that belongs to it."""
    return raw[:-4] + zlib.crc32(raw[:-4]).to_bytes(4, "little")


def with_byte(at, value, header=None):
    raw = bytearray(frame.encode_header(header or header_of()))
    raw[at] = value
    return with_check(bytes(raw))


@given(st.lists(frames(), max_size=4))
def test_frames_come_back_in_order(sent):
    raw = b"".join(map(encoded, sent))
    offset = 0
    for header, children, payload in sent:
        assert frame.decode_header(raw, offset) == header
        found, offset = frame.decode(raw, offset)
        assert (found.header, found.children, bytes(found.payload)) == (header, children, payload)
        assert encode_references(found.references) == children
    assert offset == len(raw)
    assert frame.decode(raw, offset) is frame.decode_header(raw, offset) is None


@given(frames(), st.data())
def test_every_cut_asks_for_more(drawn, data):
    assert frame.decode(data.draw(cuts(encoded(drawn)))) is None


@given(frames(), st.data())
def test_every_flipped_bit_is_noticed(drawn, data):
    with pytest.raises(FormatError):
        frame.decode(data.draw(flipped(encoded(drawn))))


@given(frames().map(encoded).flatmap(mangled) | st.binary(max_size=200))
def test_anything_else_is_refused_or_asks_for_more(raw):
    try:
        found = frame.decode(raw)
    except (FormatError, NewerFormat):
        return
    if found is not None:
        (header, children, payload), end = found
        assert frame.encode(header, children, payload) == raw[:end]


@given(frames(), st.integers(0, HEADER_SIZE - 5), st.integers(0, 255))
def test_a_header_under_a_good_check_is_canonical_or_refused(drawn, at, value):
    """What a forger could make: the check says nothing about the fields."""
    raw = with_byte(at, value, drawn[0])
    try:
        found = frame.decode_header(raw)
    except (FormatError, NewerFormat):
        return
    assert frame.encode_header(found) == raw


@given(st.sampled_from(TAGS), st.binary(min_size=1, max_size=99))
def test_a_child_list_of_anything_is_refused_or_canonical(tag, raw):
    try:
        found = frame.decode_children(tag, raw)
    except FormatError:
        return
    assert encode_references(found) == raw


LIMITS = [
    (header_of(kind=0), "kind 0"),
    (header_of(kind=16), "kind 16"),
    (header_of(level=1), "level 1"),
    (header_of(level=16), "level 16"),  # in a tag it would be another kind
    (header_of(LEAF, level=10 + 16), "level 26"),
    (header_of(kind=Kind.STREAM), "level 0"),
    (header_of(LEAF, level=11), "level 11"),
    (header_of(INDEX, level=0), "level 0"),
    (header_of(PAGE, level=1), "level 1"),
    (header_of(DATA, plain_length=4 * 2**20 + 1), "beyond the limits"),
    (header_of(LEAF, plain_length=291), "beyond the limits"),
    (header_of(PAGE, plain_length=256 * 1024 + 1), "beyond the limits"),
    (header_of(INDEX, plain_length=256 * 1024 + 1), "beyond the limits"),
    (header_of(POINT, plain_length=60 * 1024 + 1), "beyond the limits"),
    (header_of(payload_length=15), "beyond the limits"),
    (header_of(payload_length=1025), "beyond the limits"),
    (header_of(plain_length=10, payload_length=1035), "beyond the limits"),
    (header_of(DATA, child_count=1), "beyond the limits"),
    (header_of(POINT, child_count=1), "beyond the limits"),
    (header_of(LEAF, child_count=0), "beyond the limits"),
    (header_of(INDEX, child_count=0), "beyond the limits"),
    (header_of(LEAF, child_count=257), "beyond the limits"),
    (header_of(PAGE, child_count=513), "beyond the limits"),
    (header_of(INDEX, child_count=513), "beyond the limits"),
    (header_of(id=bytes(32)), "beyond the limits"),
]


@pytest.mark.parametrize(("header", "why"), LIMITS)
def test_a_header_beyond_the_limits_is_refused_before_any_body(header, why):
    with pytest.raises(FormatError, match=why):
        frame.decode_header(frame.encode_header(header))


@pytest.mark.parametrize(
    "header",
    [
        header_of(DATA, plain_length=4 * 2**20, payload_length=4 * 2**20 + 1024),
        header_of(LEAF, plain_length=290, child_count=256),
        header_of(tag_of(Kind.STREAM, 10)),
        header_of(PAGE, plain_length=256 * 1024, child_count=512),
        header_of(PAGE, child_count=0),
        header_of(tag_of(Kind.INDEX, 10), plain_length=256 * 1024, child_count=512),
        header_of(POINT, plain_length=60 * 1024),
    ],
)
def test_a_header_at_the_limits_comes_back(header):
    assert frame.decode_header(frame.encode_header(header)) == header
    assert header.frame_length <= frame.MAX_FRAME


@pytest.mark.parametrize("at", [21, 22, 23])
def test_reserved_bytes_are_zero(at):
    with pytest.raises(FormatError, match="beyond the limits"):
        frame.decode_header(with_byte(at, 1))


@pytest.mark.parametrize(
    ("at", "value", "named"),
    [(4, 2, "version 2"), (4, 0, "version 0"), (5, 2, "scheme 2"), (20, 1, "dictionary 1")]
    + [(6, kind, f"kind {kind}") for kind in range(6, 16)]
    + [(8, 1 << bit, f"flags 0x00{1 << bit:02x}") for bit in range(1, 8)],
)
def test_what_a_later_version_needs_is_refused_by_name(at, value, named):
    with pytest.raises(NewerFormat, match=named):
        frame.decode_header(with_byte(at, value))


@pytest.mark.parametrize("bit", range(16))
def test_flags_are_needed_to_read_or_to_write_or_ignored(bit):
    raw = frame.encode_header(header_of(flags=1 << bit))
    if 0 < bit < 8:
        with pytest.raises(NewerFormat):
            frame.decode_header(raw)
        return
    found = frame.decode_header(raw)
    assert found.flags == 1 << bit  # kept, and so under the seal
    assert found.may_be_copied == (not 8 <= bit < 12)


def test_the_check_comes_before_the_version():
    """Damage is no newer version."""
    raw = bytearray(frame.encode_header(header_of()))
    raw[4] = 2
    with pytest.raises(FormatError, match="no intact frame header"):
        frame.decode_header(raw)


ALLOWED = {
    DATA: [], POINT: [], PAGE: [tag for tag in TAGS if tag != POINT],
    LEAF: [DATA], tag_of(Kind.STREAM, 2): [LEAF], tag_of(Kind.STREAM, 10): [tag_of(Kind.STREAM, 9)],
    INDEX: [PAGE], tag_of(Kind.INDEX, 2): [INDEX], tag_of(Kind.INDEX, 10): [tag_of(Kind.INDEX, 9)],
}  # fmt: skip


@pytest.mark.parametrize("tag", ALLOWED)
def test_children_are_one_level_lower_and_nothing_names_a_point(tag):
    assert child_tags(tag) == ALLOWED[tag]
    for child in TAGS:
        raw = encode_references([Reference(child, id_of(1))])
        if child in ALLOWED[tag]:
            assert frame.decode_children(tag, raw) == (Reference(child, id_of(1)),)
        else:
            with pytest.raises(FormatError):
                frame.decode_children(tag, raw)


@pytest.mark.parametrize("tag", [LEAF, PAGE, INDEX, DATA])
def test_a_child_list_has_as_many_as_such_a_frame_can_have(tag):
    low, high = frame.MIN_CHILDREN[Kind(tag >> 4)], frame.MAX_CHILDREN[Kind(tag >> 4)]
    child = child_tags(tag)[0] if high else DATA
    listed = [Reference(child, id_of(number)) for number in range(1, high + 2)]
    for count in {low, high}:
        assert len(frame.decode_children(tag, encode_references(listed[:count]))) == count
    for count in {max(low - 1, 0), high + 1} - {low}:
        with pytest.raises(FormatError, match="children"):
            frame.decode_children(tag, encode_references(listed[:count]))


@given(child_lists(PAGE, 9).filter(lambda raw: len(raw) > 33))
def test_a_child_list_in_disorder_is_refused(raw):
    for wrong in (raw[33:] + raw[:33], raw[:33] + raw, raw[:-1]):
        with pytest.raises(FormatError):
            frame.decode_children(PAGE, wrong)


def test_the_child_list_of_a_frame_is_checked_when_it_is_asked_for():
    listed = encode_references([Reference(POINT, id_of(2))])
    found, _ = frame.decode(frame.encode(header_of(PAGE, child_count=1), listed, bytes(16)))
    with pytest.raises(FormatError, match="names one of tag 0x50"):
        _ = found.references


@pytest.mark.parametrize(
    "wrong", [{"epoch": b"short"}, {"context": b"c" * 17}, {"id": b"i" * 31}, {"id": b"i" * 33}]
)
def test_a_header_of_other_sizes_is_not_written(wrong):
    with pytest.raises(ValueError, match="a frame needs"):
        frame.encode_header(header_of(**wrong))
