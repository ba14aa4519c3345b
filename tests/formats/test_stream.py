"""Stream nodes and descriptors: one encoding each, and no tree of another shape than its length."""

import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.formats.strategies import (
    DATA,
    LEAF,
    PAGE,
    block_sizes,
    cuts,
    descriptors,
    flipped,
    id_of,
    ids,
    mangled,
)
from transfer.errors import FormatError, NewerFormat
from transfer.formats import stream
from transfer.formats.reference import Kind, Reference, encode_references, tag_of
from transfer.formats.stream import FIXED, Descriptor

levels = st.integers(1, 10)
pools = st.lists(ids, min_size=1, max_size=5)


@st.composite
def slots(draw):
    pool = draw(pools)
    drawn = draw(st.lists(st.none() | st.sampled_from(pool), min_size=1, max_size=256))
    drawn[draw(st.integers(0, len(drawn) - 1))] = pool[0]
    return tuple(drawn)


@given(levels, slots())
def test_a_node_comes_back(level, drawn):
    plain, children = stream.encode_node(level, drawn)
    assert stream.decode_node(level, plain, children, len(drawn)) == drawn
    listed = {Reference(stream.child_tag(level), id) for id in drawn if id is not None}
    assert children == encode_references(listed)


@given(levels, slots(), st.integers(1, 256))
def test_a_node_with_another_number_of_slots_than_its_place_is_refused(level, drawn, expected):
    assume(expected != len(drawn))
    with pytest.raises(FormatError, match="does not fit its place"):
        stream.decode_node(level, *stream.encode_node(level, drawn), expected)


@given(levels, slots(), st.data())
def test_every_cut_of_a_node_is_refused(level, drawn, data):
    plain, children = stream.encode_node(level, drawn)
    for wrong in ((data.draw(cuts(plain)), children), (plain, data.draw(cuts(children)))):
        with pytest.raises(FormatError):
            stream.decode_node(level, *wrong, len(drawn))


@given(levels, slots(), st.data())
def test_a_flipped_bit_of_a_node_is_an_error_or_another_node(level, drawn, data):
    """The seal notices it; the decoder must not give the same for two encodings."""
    plain, children = stream.encode_node(level, drawn)
    for wrong in ((data.draw(flipped(plain)), children), (plain, data.draw(flipped(children)))):
        try:
            assert stream.decode_node(level, *wrong, len(drawn)) != drawn
        except FormatError:
            continue


@st.composite
def mangled_nodes(draw):
    level, drawn = draw(levels), draw(slots())
    plain, children = stream.encode_node(level, drawn)
    if draw(st.booleans()):
        return level, draw(mangled(plain)), children, len(drawn)
    return level, plain, draw(mangled(children)), len(drawn)


garbage = st.tuples(levels, st.binary(max_size=50), st.binary(max_size=66), st.integers(1, 256))


@given(mangled_nodes() | garbage)
def test_what_decodes_as_a_node_is_its_encoding(node):
    level, plain, children, expected = node
    try:
        found = stream.decode_node(level, plain, children, expected)
    except FormatError:
        return
    assert stream.encode_node(level, found) == (plain, children)


def node(slots, bitmap, places):
    return slots.to_bytes(2, "little") + bytes((bitmap,)) + bytes(places)


TWO = encode_references([Reference(DATA, id_of(1)), Reference(DATA, id_of(2))])


def test_a_node_as_it_is_written():
    plain, children = stream.encode_node(1, (id_of(2), None, id_of(1), id_of(2)))
    assert (plain, children) == (node(4, 0b1101, [1, 0, 1]), TWO)


@pytest.mark.parametrize(
    ("plain", "children", "why"),
    [
        (node(4, 0b1101, [0, 0, 0]), TWO, "fit"),  # an unused child
        (node(4, 0b1101, [0, 1, 2]), TWO, "fit"),  # a place out of range
        (node(4, 0b1101, [0, 1]), TWO, "fit"),
        (node(4, 0b1101, [0, 1, 1, 1]), TWO, "fit"),
        (node(4, 0b11101, [0, 1, 1, 1]), TWO, "fit"),  # a bit beyond the slots
        (node(3, 0b1101, [0, 1, 1]), TWO, "fit"),
        (node(5, 0b1101, [0, 1, 1]), TWO, "fit"),
        (node(4, 0, []), TWO, "fit"),
        (node(4, 0, []), b"", "children"),  # it is null, and null nodes are not stored
        (node(4, 0b0001, [0]), TWO[33:] + TWO[:33], "order"),
        (node(4, 0b0011, [0, 1]), TWO[:33] * 2, "order"),
        (node(4, 0b0001, [0]), b"\x10" + bytes(32), "null ID"),
        (node(4, 0b0001, [0]), encode_references([Reference(LEAF, id_of(1))]), "names"),
        (node(4, 0b0001, [0]), encode_references([Reference(PAGE, id_of(1))]), "names"),
        (b"", TWO, "fit"),
        (b"\4", TWO, "fit"),
    ],
)
def test_a_node_that_no_writer_made_is_refused(plain, children, why):
    with pytest.raises(FormatError, match=why):
        stream.decode_node(1, plain, children, 4)


@pytest.mark.parametrize("level", range(1, 11))
def test_children_of_a_node_are_one_level_lower(level):
    plain, children = stream.encode_node(level, (id_of(1),))
    for other in range(1, 11):
        if other != level:
            with pytest.raises(FormatError, match="names one of tag"):
                stream.decode_node(other, plain, children, 1)


def test_a_node_names_256_blocks_and_not_one_more():
    full = tuple(map(id_of, range(1, 257)))
    assert stream.decode_node(1, *stream.encode_node(1, full), 256) == full
    for wrong in ((*full, id_of(257)), (), (None,), (None,) * 256):
        with pytest.raises(ValueError, match="1 to 256"):
            stream.encode_node(1, wrong)
    children = encode_references(Reference(DATA, id_of(number)) for number in range(1, 258))
    with pytest.raises(FormatError, match="257 children"):
        stream.decode_node(1, node(4, 1, [0]), children, 4)


# Descriptors.

raw_descriptor = struct.Struct("<QBBH").pack


@given(descriptors(), st.lists(ids, max_size=3))
def test_a_descriptor_comes_back(descriptor, others):
    children = [*(Reference(DATA, id) for id in others), descriptor.root]
    slot = 0 if descriptor.root is None else len(children)
    raw = stream.encode_descriptor(descriptor, slot)
    assert len(raw) == stream.DESCRIPTOR_SIZE
    assert stream.decode_descriptor(raw, children) == descriptor


@given(st.binary(min_size=12, max_size=12) | st.binary(max_size=14), st.integers(1, 6))
def test_what_decodes_as_a_descriptor_is_its_encoding(raw, level):
    children = [Reference(DATA, id_of(1)), Reference(tag_of(Kind.STREAM, level), id_of(2))]
    try:
        found = stream.decode_descriptor(raw, children)
    except (FormatError, NewerFormat):
        return
    slot = 0 if found.root is None else children.index(found.root) + 1
    assert stream.encode_descriptor(found, slot) == raw


def test_a_descriptor_at_the_limits_comes_back():
    for largest in (Descriptor(2**63 - 1, 2**16, FIXED, None), Descriptor(0, 2**22, FIXED, None)):
        assert stream.decode_descriptor(stream.encode_descriptor(largest, 0), []) == largest
    sizes = (stream.MIN_BLOCK, stream.DEFAULT_BLOCK, stream.MAX_BLOCK)
    assert sizes == (64 * 1024, 1024 * 1024, 4 * 1024 * 1024)


BLOCK = Reference(DATA, id_of(1))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (raw_descriptor(5, 20, 1, 1)[:11], "size"),
        (raw_descriptor(5, 20, 1, 1) + b"\0", "size"),
        (raw_descriptor(5, 15, 1, 1), "limits"),
        (raw_descriptor(5, 23, 1, 1), "limits"),
        (raw_descriptor(5, 255, 1, 1), "limits"),
        (raw_descriptor(5, 20, 0, 1), "limits"),
        (raw_descriptor(2**63, 20, 1, 0), "limits"),
        (raw_descriptor(5, 20, 1, 3), "no child"),
        (raw_descriptor(0, 20, 1, 1), "another kind"),
        (raw_descriptor(2**20 + 1, 20, 1, 1), "another kind"),  # a block cannot be the root of two
        (raw_descriptor(2**20, 20, 1, 2), "another kind"),  # nor a node the root of one block
        (raw_descriptor(2**28 + 1, 20, 1, 2), "another kind"),
    ],
)
def test_a_descriptor_that_no_writer_made_is_refused(raw, why):
    with pytest.raises(FormatError, match=why):
        stream.decode_descriptor(raw, [BLOCK, Reference(LEAF, id_of(2))])


def test_a_stream_of_a_later_cut_is_refused_by_name():
    with pytest.raises(NewerFormat, match="cut 2"):
        stream.decode_descriptor(raw_descriptor(5, 20, 2, 1), [BLOCK])


@pytest.mark.parametrize(
    "wrong",
    [
        Descriptor(5, 2**20 + 1, FIXED, None),
        Descriptor(5, 2**15, FIXED, None),
        Descriptor(5, 2**23, FIXED, None),
        Descriptor(5, 0, FIXED, None),
        Descriptor(5, 2**20, 2, None),
        Descriptor(-1, 2**20, FIXED, None),
        Descriptor(2**63, 2**20, FIXED, None),
        Descriptor(0, 2**20, FIXED, BLOCK),
        Descriptor(5, 2**20, FIXED, Reference(LEAF, id_of(1))),
    ],
)
def test_a_descriptor_that_no_reader_would_take_is_not_written(wrong):
    with pytest.raises(FormatError):
        stream.encode_descriptor(wrong, 1)


# The shape of a tree follows from length and block size.


@given(st.integers(0, 2**63 - 1), block_sizes)
def test_the_slots_of_a_level_are_the_nodes_below_it(length, block_size):
    below = stream.block_count(length, block_size)
    for level in range(1, stream.depth(length, block_size) + 1):
        nodes = -(-below // 256)
        last = stream.slot_count(length, block_size, level, nodes - 1)
        assert 1 <= last <= 256
        assert (nodes - 1) * 256 + last == below
        if nodes > 1:
            assert stream.slot_count(length, block_size, level, 0) == 256
        below = nodes
    assert below == (1 if length else 0)


@pytest.mark.parametrize(
    ("length", "tag"),
    [
        (0, 0x10),
        (1, 0x10),
        (2**20, 0x10),
        (2**20 + 1, 0x21),
        (2**28, 0x21),
        (2**28 + 1, 0x22),
        (2**36, 0x22),
        (2**36 + 1, 0x23),
        (2**63 - 1, 0x26),
    ],
)
def test_the_root_of_a_stream_of_1_mib_blocks(length, tag):
    assert stream.root_tag(length, 2**20) == tag
