"""Pages and indexes: sorted, each child named, one encoding each; cuts depend on names alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import (
    DATA,
    INDEX,
    PAGE,
    cuts,
    file_names,
    flipped,
    id_of,
    ids,
    mangled,
    pages,
)
from transfer.errors import FormatError, NewerFormat
from transfer.formats import directory
from transfer.formats.directory import IndexEntry
from transfer.formats.entry import Entry, FileType, Inline, Root, Slice, references_of
from transfer.formats.reference import Kind, Reference, encode_references, tag_of

levels = st.integers(1, 10)


@st.composite
def indexes(draw):
    """(level, entries in order)."""
    level = draw(levels)
    tag = tag_of(Kind.INDEX, level - 1) if level > 1 else PAGE
    names = draw(st.lists(file_names, min_size=1, max_size=5, unique=True))
    children = draw(st.lists(ids, min_size=len(names), max_size=len(names), unique=True))
    return level, [
        IndexEntry(name, Reference(tag, id))
        for name, id in zip(sorted(names), children, strict=True)
    ]


TEXT = Inline(b"text")


def file(name, content=TEXT):
    kind = FileType.DIRECTORY if isinstance(content, Root) else FileType.FILE
    return Entry(name, kind, 0o644, 1, 2, 3, 4, content)


@given(pages)
def test_a_page_comes_back(page):
    plain, children = directory.encode_page(page)
    assert directory.decode_page(plain, children) == page
    assert directory.decode_page(memoryview(plain), children) == page
    assert children == encode_references(r for entry in page for r in references_of(entry))


@given(indexes())
def test_an_index_comes_back(drawn):
    level, index = drawn
    plain, children = directory.encode_index(level, index)
    assert directory.decode_index(level, plain, children) == index
    assert children == encode_references(child for _, child in index)


@given(pages, indexes(), st.data())
def test_every_cut_and_every_byte_more_is_refused(page, drawn, data):
    level, index = drawn
    plain, children = directory.encode_page(page)
    for wrong in (data.draw(cuts(plain)), plain + b"\0"):
        with pytest.raises(FormatError):
            directory.decode_page(wrong, children)
    plain, children = directory.encode_index(level, index)
    for wrong in (data.draw(cuts(plain)), plain + b"\0"):
        with pytest.raises(FormatError):
            directory.decode_index(level, wrong, children)
    with pytest.raises(FormatError):
        directory.decode_index(level, plain, data.draw(cuts(children)))


@given(pages, indexes(), st.data())
def test_a_flipped_bit_is_an_error_or_another_page(page, drawn, data):
    level, index = drawn
    plain, children = directory.encode_page(page)
    wrong = [(data.draw(flipped(plain)), children)]
    wrong += [(plain, data.draw(flipped(children)))] if children else []
    for damaged in wrong:
        try:
            assert directory.decode_page(*damaged) != page
        except (FormatError, NewerFormat):
            continue
    plain, children = directory.encode_index(level, index)
    for damaged in ((data.draw(flipped(plain)), children), (plain, data.draw(flipped(children)))):
        try:
            assert directory.decode_index(level, *damaged) != index
        except FormatError:
            continue


@st.composite
def mangled_indexes(draw):
    level, index = draw(indexes())
    plain, children = directory.encode_index(level, index)
    return level, draw(mangled(plain)), children


garbage = st.tuples(levels, st.binary(max_size=40), st.binary(max_size=66))


@given(mangled_indexes() | garbage)
def test_what_decodes_as_an_index_is_its_encoding(drawn):
    level, plain, children = drawn
    try:
        found = directory.decode_index(level, plain, children)
    except FormatError:
        return
    assert directory.encode_index(level, found) == (plain, children)


@given(pages.map(lambda page: directory.encode_page(page)).flatmap(
    lambda encoded: st.tuples(mangled(encoded[0]), st.just(encoded[1]))
) | st.tuples(st.binary(max_size=80), st.binary(max_size=66)))  # fmt: skip
def test_a_page_of_anything_decodes_or_raises_a_sorted_error(drawn):
    """Canonical but for fields that may be ignored: see the entries' own test."""
    try:
        found = directory.decode_page(*drawn)
    except (FormatError, NewerFormat):
        return
    assert directory.decode_page(*directory.encode_page(found)) == found


ONE, TWO = Reference(PAGE, id_of(1)), Reference(PAGE, id_of(2))
BOTH = encode_references([ONE, TWO])


def raw_index(*pairs, count=None):
    parts = [bytes((len(name),)) + name + place.to_bytes(2, "little") for name, place in pairs]
    return (len(pairs) if count is None else count).to_bytes(2, "little") + b"".join(parts)


@pytest.mark.parametrize(
    ("plain", "children", "why"),
    [
        (raw_index((b"b", 1), (b"a", 2)), BOTH, "out of order"),
        (raw_index((b"a", 1), (b"a", 2)), BOTH, "duplicate"),
        (raw_index((b"a", 1), (b"b", 1)), BOTH, "each of its children once"),
        (raw_index((b"a", 1), (b"b", 1)), BOTH[:33], "each of its children once"),
        (raw_index((b"a", 1)), BOTH, "each of its children once"),
        (raw_index((b"a", 1), (b"b", 2), (b"c", 2)), BOTH, "each of its children once"),
        (raw_index((b"a", 0), (b"b", 2)), BOTH, "no child of its own"),
        (raw_index((b"a", 1), (b"b", 3)), BOTH, "no child of its own"),
        (raw_index((b"", 1), (b"b", 2)), BOTH, "cannot be the name"),
        (raw_index((b"..", 1), (b"b", 2)), BOTH, "cannot be the name"),
        (raw_index((b"a/b", 1), (b"b", 2)), BOTH, "cannot be the name"),
        (raw_index((b"a", 1), (b"b", 2), count=3), BOTH, "cut short"),
        (raw_index((b"a", 1), (b"b", 2), count=1), BOTH, "behind its end"),
        (raw_index(count=0), BOTH, "beyond the limits"),
        (raw_index(), b"", "0 children"),
        (raw_index((b"a", 1), (b"b", 2)), BOTH[33:] + BOTH[:33], "out of order"),
        (raw_index((b"a", 1)), encode_references([Reference(DATA, id_of(1))]), "names one of tag"),
        (raw_index((b"a", 1)), encode_references([Reference(INDEX, id_of(1))]), "names one of tag"),
    ],
)
def test_an_index_that_no_writer_made_is_refused(plain, children, why):
    with pytest.raises(FormatError, match=why):
        directory.decode_index(1, plain, children)


@pytest.mark.parametrize("level", range(1, 11))
def test_children_of_an_index_are_one_level_lower(level):
    tag = tag_of(Kind.INDEX, level - 1) if level > 1 else PAGE
    plain, children = directory.encode_index(level, [IndexEntry(b"a", Reference(tag, id_of(1)))])
    for other in range(1, 11):
        if other != level:
            with pytest.raises(FormatError, match="names one of tag"):
                directory.decode_index(other, plain, children)


def raw_page(*entries):
    """Entries in any order, as an evil writer would put them."""
    parts = [directory.encode_page([entry])[0][2:] for entry in entries]
    return len(entries).to_bytes(2, "little") + b"".join(parts)


BLOCK = Reference(DATA, id_of(1))


@pytest.mark.parametrize(
    ("plain", "children", "why"),
    [
        (raw_page(file(b"b"), file(b"a")), b"", "out of order"),
        (raw_page(file(b"a"), file(b"a")), b"", "duplicate"),
        (raw_page(file(b"a", Slice(BLOCK, 0, 1))), b"", "does not have"),
        (raw_page(file(b"a", Root(ONE))), BOTH, "no entry names"),
        (raw_page(file(b"a", Root(ONE))), BOTH[33:] + BOTH[:33], "out of order"),
        (raw_page(file(b"a", Root(ONE))), b"\x50" + id_of(1), "names one of tag 0x50"),
        (b"\0\0", b"", "beyond the limits"),
        (b"", b"", "beyond the limits"),
        (b"\1", b"", "cut short"),
    ],
)
def test_a_page_that_no_writer_made_is_refused(plain, children, why):
    with pytest.raises(FormatError, match=why):
        directory.decode_page(plain, children)


def many(count, **fields):
    return [file(b"%06d" % number)._replace(**fields) for number in range(count)]


def test_a_page_holds_512_entries_and_512_children_and_not_one_more():
    full = [file(b"%06d" % n, Slice(Reference(DATA, id_of(n)), 0, 1)) for n in range(1, 513)]
    assert directory.decode_page(*directory.encode_page(full)) == full
    with pytest.raises(FormatError):
        directory.encode_page(many(513))
    with pytest.raises(FormatError):
        directory.encode_page([])
    with pytest.raises(FormatError, match="beyond the limits"):
        directory.decode_page(raw_page(*many(513)), b"")
    block = Reference(DATA, id_of(513))
    attributes = directory.encode_page([file(b"a", Slice(block, 0, 1))])
    assert directory.decode_page(*attributes)
    listed = encode_references([*(Reference(DATA, id_of(n)) for n in range(1, 514))])
    with pytest.raises(FormatError, match="513 children"):
        directory.decode_page(directory.encode_page(full)[0], listed)


def test_a_page_has_at_most_256_kib():
    room = 256 * 1024 - 2
    size = len(directory.encode_page([file(b"000000")])[0]) - 2
    entries = many(500, content=Inline(bytes(room // 500 - size + 4)))
    left = room - (len(directory.encode_page(entries)[0]) - 2)
    entries[-1] = entries[-1]._replace(content=Inline(bytes(len(entries[-1].content.data) + left)))
    plain, children = directory.encode_page(entries)
    assert len(plain) == 256 * 1024
    assert directory.decode_page(plain, children) == entries
    more = [*entries[:-1], entries[-1]._replace(handle=b"h")]
    with pytest.raises(FormatError):
        directory.encode_page(more)
    with pytest.raises(FormatError, match="beyond the limits"):
        directory.decode_page(raw_page(*more), b"")


def test_an_index_holds_512_children_and_not_one_more():
    full = [IndexEntry(b"%06d" % n, Reference(PAGE, id_of(n))) for n in range(1, 514)]
    assert directory.decode_index(1, *directory.encode_index(1, full[:512])) == full[:512]
    for wrong in (full, []):
        with pytest.raises(FormatError):
            directory.encode_index(1, wrong)
    with pytest.raises(FormatError, match="513 children"):
        directory.decode_index(
            1, raw_index((b"a", 1)), encode_references(child for _, child in full)
        )


def test_what_is_out_of_order_is_not_written():
    with pytest.raises(FormatError):
        directory.encode_page([file(b"b"), file(b"a")])
    with pytest.raises(FormatError):
        directory.encode_index(1, [IndexEntry(b"b", ONE), IndexEntry(b"a", TWO)])


def test_an_index_that_names_a_child_twice_is_not_written():
    with pytest.raises(FormatError):
        directory.encode_index(1, [IndexEntry(b"a", ONE), IndexEntry(b"b", ONE)])


@pytest.mark.parametrize(
    ("name_hash", "level"),
    [(0b111111, 0), (1, 0), (1 << 5, 0), (1 << 6, 1), (1 << 11, 1), (1 << 12, 2), (1 << 53, 8),
     (1 << 54, 9), (1 << 63, 9), (0, 9)],
)  # fmt: skip
def test_the_cut_level_counts_lowest_groups_of_6_zero_bits(name_hash, level):
    assert directory.cut_level(name_hash) == level
