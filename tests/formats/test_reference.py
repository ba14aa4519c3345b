"""References: one encoding for each set of them, and no place for what is no reference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import DATA, INDEX, LEAF, TAGS, id_of, mangled, references
from transfer.errors import FormatError
from transfer.formats.reference import (
    Kind,
    Reference,
    check_tag,
    decode_references,
    encode_references,
    tag_of,
)

lists = st.lists(references, max_size=6)


@given(lists)
def test_a_set_of_references_comes_back_sorted(drawn):
    raw = encode_references(drawn + drawn)
    assert list(decode_references(raw)) == sorted(set(drawn))
    assert decode_references(memoryview(raw)) == decode_references(raw)


@given(lists.map(encode_references).flatmap(mangled) | st.binary(max_size=99))
def test_what_decodes_is_the_encoding_of_what_it_says(raw):
    try:
        found = decode_references(raw)
    except FormatError:
        return
    assert encode_references(found) == raw


@pytest.mark.parametrize("length", [1, 32, 34, 65])
def test_a_list_that_is_cut_is_refused(length):
    raw = encode_references([Reference(DATA, id_of(1)), Reference(DATA, id_of(2))])
    with pytest.raises(FormatError, match="cut short"):
        decode_references(raw[:length])


def raw_list(*pairs):
    return b"".join(bytes((tag,)) + id_of(number) for tag, number in pairs)


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([(DATA, 1), (DATA, 1)], "out of order"),
        ([(DATA, 2), (DATA, 1)], "out of order"),
        ([(LEAF, 1), (DATA, 2)], "out of order"),
        ([(DATA, 0)], "null ID"),
        ([(DATA, 0), (DATA, 1)], "null ID"),
        ([(DATA, 1), (LEAF, 0)], "null ID"),
        ([(0x60, 1)], "kind 6"),
        ([(0x0F, 1)], "kind 0"),
        ([(0x2B, 1)], "level 11"),
    ],
)
def test_disorder_duplicates_null_ids_and_unknown_kinds_are_refused(pairs, why):
    with pytest.raises(FormatError, match=why):
        decode_references(raw_list(*pairs))


def test_only_stream_nodes_and_indexes_have_levels():
    def known(tag):
        try:
            check_tag(tag)
        except FormatError:
            return False
        return True

    assert [tag for tag in range(256) if known(tag)] == sorted(TAGS)
    assert len(TAGS) == 23
    assert not known(0x110) and not known(-1)


def test_a_tag_is_kind_and_level():
    assert (tag_of(Kind.DATA), tag_of(Kind.STREAM, 3), INDEX) == (0x10, 0x23, 0x41)
    reference = Reference(0x23, id_of(255))
    assert (reference.kind, reference.level) == (Kind.STREAM, 3)
    assert str(Reference(0x41, b"\xab" * 32)) == "index abababababababab"
