"""Entries: one encoding each, nothing that a file of that type cannot have, and no crash."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import (
    DATA,
    LEAF,
    PAGE,
    entries,
    file_names,
    flipped,
    id_of,
    mangled,
    xattrs,
)
from transfer.errors import FormatError, NewerFormat
from transfer.formats import entry_codec as codec
from transfer.formats.entry import (
    Entry,
    FileType,
    Inline,
    Root,
    Slice,
    check_name,
    decode_xattrs,
    encode_xattrs,
    references_of,
)
from transfer.formats.entry_codec import Tag
from transfer.formats.reference import Reference
from transfer.formats.stream import FIXED, Descriptor

BLOCK, NODE, DIRECTORY = Reference(DATA, id_of(1)), Reference(LEAF, id_of(2)), Reference(PAGE, b"p")
CHILDREN = [BLOCK, NODE, DIRECTORY._replace(id=id_of(3))]
ROOT = Root(CHILDREN[2])
STREAM = Descriptor(2**21, 2**20, FIXED, NODE)


def file(**fields):
    return Entry(b"name", FileType.FILE, 0o644, 1, 2, 3, 4, Inline(b"text"))._replace(**fields)


def children_of(entry):
    return sorted(set(references_of(entry)))


def encoded(entry, children=None):
    children = children_of(entry) if children is None else children
    return codec.encode(entry, lambda reference: children.index(reference) + 1)


def raw_entry(*fields, type=FileType.FILE, name=b"name", mode=0o644, ns=(0, 0)):
    """What an evil writer makes of (tag, value) fields."""
    head = struct.pack("<BHIIqIqI", type, mode, 1, 2, 3, ns[0], 4, ns[1])
    body = bytes((len(name),)) + name + head
    for tag, value in fields:
        body += bytes((tag,)) + len(value).to_bytes(2, "little") + value
    return len(body).to_bytes(2, "little") + body


@given(entries(), st.binary(max_size=9), st.binary(max_size=9))
def test_an_entry_comes_back_wherever_it_stands(entry, before, after):
    raw = before + encoded(entry) + after
    assert codec.decode(raw, len(before), children_of(entry)) == (entry, len(raw) - len(after))


@given(entries())
def test_every_cut_of_an_entry_is_refused(entry):
    raw = encoded(entry)
    for end in range(len(raw)):
        with pytest.raises(FormatError):
            codec.decode(raw[:end], 0, children_of(entry))


@given(entries(), st.data())
def test_a_flipped_bit_of_an_entry_is_an_error_or_another_entry(entry, data):
    raw = data.draw(flipped(encoded(entry)))
    try:
        found, end = codec.decode(raw, 0, children_of(entry))
    except (FormatError, NewerFormat):
        return
    assert (found, end) != (entry, len(raw))


@given(entries().map(encoded).flatmap(mangled) | st.binary(max_size=80))
def test_what_decodes_as_an_entry_is_its_encoding(raw):
    try:
        found, end = codec.decode(raw, 0, CHILDREN)
    except (FormatError, NewerFormat):
        return
    if not has_ignored_fields(raw[:end]):
        assert encoded(found, CHILDREN) == raw[:end]


def has_ignored_fields(raw):
    at = 3 + raw[2] + 35
    while at < len(raw):
        if raw[at] > max(Tag):
            return True
        at += 3 + int.from_bytes(raw[at + 1 : at + 3], "little")
    return False


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=14)), max_size=4),
       st.integers(0, 9))  # fmt: skip
def test_fields_of_anything_are_canonical_or_refused(fields, type):
    raw = raw_entry(*sorted(fields), type=type)
    try:
        found, _ = codec.decode(raw, 0, CHILDREN)
    except (FormatError, NewerFormat):
        return
    if not has_ignored_fields(raw):
        assert encoded(found, CHILDREN) == raw


INLINE = (Tag.INLINE, b"text")
GOOD_STREAM = (Tag.STREAM, struct.pack("<QBBH", 2**21, 20, 1, 2))
XATTR_STREAM = (Tag.XATTR_STREAM, struct.pack("<QBBH", 9, 20, 1, 1))


def slice_of(number, offset, length):
    return (Tag.SLICE, struct.pack("<HII", number, offset, length))


def root(number, size=2):
    return (Tag.ROOT, number.to_bytes(size, "little"))


REFUSED = {
    "a field twice": [INLINE, INLINE],
    "disorder": [GOOD_STREAM, INLINE],
    "tag 0": [(0, b""), INLINE],
    "no content": [],
    "two contents": [INLINE, GOOD_STREAM],
    "inline beyond the limit": [(Tag.INLINE, bytes(2049))],
    "a stream of another size": [(Tag.STREAM, GOOD_STREAM[1] + b"\0")],
    "a stream with a root out of range": [(Tag.STREAM, struct.pack("<QBBH", 2**21, 20, 1, 4))],
    "a stream with a root of another kind": [(Tag.STREAM, struct.pack("<QBBH", 2**21, 20, 1, 1))],
    "a slice of another size": [(Tag.SLICE, bytes(9))],
    "a slice of nothing": [slice_of(0, 0, 5)],
    "a slice of a child out of range": [slice_of(4, 0, 5)],
    "a slice of a node": [slice_of(2, 0, 5)],
    "a slice without length": [slice_of(1, 5, 0)],
    "a slice beyond its block": [slice_of(1, 2**22 - 4, 5)],
    "a content ID of 15 bytes": [slice_of(1, 0, 5), (Tag.CONTENT_ID, bytes(15))],
    "a content ID of 17 bytes": [slice_of(1, 0, 5), (Tag.CONTENT_ID, bytes(17))],
    "a content ID without a slice": [INLINE, (Tag.CONTENT_ID, bytes(16))],
    "a file with a root": [root(3)],
    "a file with a target": [INLINE, (Tag.TARGET, b"t")],
    "a file with a device": [INLINE, (Tag.DEVICE, b"12345678")],
    "empty xattrs": [INLINE, (Tag.XATTRS, b"")],
    "xattrs beyond the limit": [INLINE, (Tag.XATTRS, b"\1n\xfc\x0f\0\0" + bytes(4092))],
    "xattrs cut short": [INLINE, (Tag.XATTRS, b"\1n\2\0\0\0v")],
    "xattrs twice": [INLINE, (Tag.XATTRS, b"\1n\1\0\0\0v"), XATTR_STREAM],
    "a link group of 15 bytes": [INLINE, (Tag.LINK_GROUP, bytes(15))],
    "a link group of 17 bytes": [INLINE, (Tag.LINK_GROUP, bytes(17))],
    "an empty link group": [INLINE, (Tag.LINK_GROUP, b"")],
    "sparse with a value": [INLINE, (Tag.SPARSE, b"\1")],
    "an empty user": [INLINE, (Tag.USER, b"")],
    "an empty group": [INLINE, (Tag.GROUP, b"")],
    "a user with NUL": [INLINE, (Tag.USER, b"a\0b")],
    "a group with NUL": [INLINE, (Tag.GROUP, b"\0")],
    "an empty handle": [INLINE, (Tag.HANDLE, b"")],
    "a handle beyond the limit": [INLINE, (Tag.HANDLE, bytes(256))],
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_fields_that_no_writer_made_are_refused(fields):
    with pytest.raises(FormatError):
        codec.decode(raw_entry(*fields), 0, CHILDREN)


OF_TYPES = {
    "a directory without root": (FileType.DIRECTORY, []),
    "a directory with content": (FileType.DIRECTORY, [INLINE]),
    "a directory with a target": (FileType.DIRECTORY, [root(3), (Tag.TARGET, b"t")]),
    "a directory in a link group": (FileType.DIRECTORY, [root(3), (Tag.LINK_GROUP, bytes(16))]),
    "a sparse directory": (FileType.DIRECTORY, [root(3), (Tag.SPARSE, b"")]),
    "a root of another size": (FileType.DIRECTORY, [root(3, 3)]),
    "a root out of range": (FileType.DIRECTORY, [root(4)]),
    "a block as root": (FileType.DIRECTORY, [root(1)]),
    "a stream as root": (FileType.DIRECTORY, [root(2)]),
    "a symlink without target": (FileType.SYMLINK, []),
    "a symlink with an empty target": (FileType.SYMLINK, [(Tag.TARGET, b"")]),
    "a symlink with NUL": (FileType.SYMLINK, [(Tag.TARGET, b"a\0b")]),
    "a target beyond the limit": (FileType.SYMLINK, [(Tag.TARGET, b"t" * 4096)]),
    "a symlink with content": (FileType.SYMLINK, [INLINE, (Tag.TARGET, b"t")]),
    "a fifo with content": (FileType.FIFO, [INLINE]),
    "a fifo with a device": (FileType.FIFO, [(Tag.DEVICE, b"12345678")]),
    "a device of another size": (FileType.BLOCK, [(Tag.DEVICE, b"1234567")]),
    "a device that is left out": (FileType.CHARACTER, [(Tag.DEVICE, bytes(8))]),
    "a device with content": (FileType.BLOCK, [INLINE]),
    "a fifo with xattrs twice": (FileType.FIFO, [(Tag.XATTRS, b"\1n\1\0\0\0v"), XATTR_STREAM]),
    "a disk without stream": (FileType.DISK, []),
    "a disk with inline content": (FileType.DISK, [INLINE]),
    "a disk in a link group": (FileType.DISK, [GOOD_STREAM, (Tag.LINK_GROUP, bytes(16))]),
}


@pytest.mark.parametrize(("type", "fields"), OF_TYPES.values(), ids=OF_TYPES)
def test_an_entry_has_what_its_type_has(type, fields):
    with pytest.raises(FormatError):
        codec.decode(raw_entry(*fields, type=type), 0, CHILDREN)


@pytest.mark.parametrize(
    "raw",
    [
        raw_entry(INLINE, mode=0o10000),
        raw_entry(INLINE, ns=(10**9, 0)),
        raw_entry(INLINE, ns=(0, 10**9)),
        raw_entry(INLINE, type=0),
        b"\xff\xff" + raw_entry(INLINE)[2:],
        b"\0\0" + raw_entry(INLINE)[2:],
        b"\4\0" + raw_entry(INLINE)[2:],
        b"",
        b"\1",
        b"\1\0",
    ],
)
def test_a_head_that_no_writer_made_is_refused(raw):
    with pytest.raises(FormatError):
        codec.decode(raw, 0, CHILDREN)


def test_a_length_that_ends_in_the_head_is_refused_though_more_bytes_follow():
    raw = raw_entry(type=FileType.FIFO)
    assert codec.decode(raw, 0, [])[1] == len(raw)
    for length in range(len(raw) - 2):
        with pytest.raises(FormatError, match="cut short"):
            codec.decode(length.to_bytes(2, "little") + raw[2:] + bytes(99), 0, [])


AT_THE_LIMITS = [
    file(mode=0o7777, mtime=(2**63 - 1) * 10**9 + 10**9 - 1, ctime=-(2**63) * 10**9),
    file(content=Inline(bytes(2048)), name=b"n" * 255),
    file(content=Slice(BLOCK, 2**22 - 1, 1)),
    file(content=Slice(BLOCK, 0, 2**22)),
    file(user=b"u" * 60_000, group=b"g" * (65_535 - 60_000 - 53)),
    file(xattrs=((b"n", bytes(4090)),), handle=b"h" * 255),
    Entry(b"link", FileType.SYMLINK, 0, 0, 0, 0, 0, target=b"t" * 4095),
    Entry(b"whiteout", FileType.CHARACTER, 0, 0, 0, 0, 0, device=(0, 0)),
    Entry(b"device", FileType.BLOCK, 0, 0, 0, 0, 0, device=(0, 1)),
]


@pytest.mark.parametrize("entry", AT_THE_LIMITS)
def test_an_entry_at_the_limits_comes_back(entry):
    assert codec.decode(encoded(entry), 0, children_of(entry))[0] == entry


BEYOND = [
    file(mode=0o10000),
    file(content=None),
    file(content=ROOT),
    file(content=Inline(bytes(2049))),
    file(content=Slice(BLOCK, 2**22, 1)),
    file(content=Slice(BLOCK, -1, 5)),
    file(content=Slice(NODE, 0, 5)),
    file(content=Slice(BLOCK, 0, 5, b"i" * 15)),
    file(content=Descriptor(2**21, 2**20, FIXED, BLOCK)),
    file(target=b"t"),
    file(device=(1, 2)),
    file(link_group=b"g" * 15),
    file(handle=bytes(256)),
    file(user=b"a\0"),
    file(user=b"u" * 60_000, group=b"g" * (65_536 - 60_000 - 53)),
    file(xattrs=((b"n", bytes(4091)),)),
    file(xattrs=((b"n", b"1"), (b"n", b"2"))),
    file(xattrs=((b"", b"v"),)),
    file(xattrs=((b"n", b"v"),), xattr_stream=STREAM),
    file(type=FileType.DIRECTORY, content=None),
    file(type=FileType.DIRECTORY, content=Root(BLOCK)),
    file(type=FileType.DISK),
    file(type=FileType.SYMLINK, content=None),
    file(type=FileType.FIFO, content=None, sparse=True),
]


@pytest.mark.parametrize("entry", BEYOND)
def test_an_entry_that_no_reader_would_take_is_not_written(entry):
    with pytest.raises(FormatError):
        encoded(entry, [*CHILDREN, DIRECTORY])


@pytest.mark.parametrize("tag", [11, 127])
def test_a_field_of_a_later_version_is_refused(tag):
    with pytest.raises(NewerFormat, match=f"field {tag}"):
        codec.decode(raw_entry(INLINE, (tag, b"?")), 0, [])


@pytest.mark.parametrize("tag", [132, 255])
def test_a_field_that_may_be_ignored_is(tag):
    raw = raw_entry(INLINE, (tag, b"?"))
    assert codec.decode(raw, 0, []) == (codec.decode(raw_entry(INLINE), 0, [])[0], len(raw))


def test_a_type_of_a_later_version_is_refused_by_name():
    with pytest.raises(NewerFormat, match="type 8"):
        codec.decode(raw_entry(INLINE, type=8), 0, [])


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"n" * 256])
def test_a_name_that_leads_elsewhere_is_neither_read_nor_written(name):
    with pytest.raises(FormatError, match="cannot be the name"):
        encoded(file(name=name))
    if len(name) < 256:  # a length of one byte cannot say more
        with pytest.raises(FormatError, match="cannot be the name"):
            codec.decode(raw_entry(INLINE, name=name), 0, [])


@pytest.mark.parametrize("name", [b"...", b".a", b"a.", b" ", b"\n", b"\xff", b"n" * 255])
def test_any_other_name_is_a_name(name):
    check_name(name)
    assert codec.decode(encoded(file(name=name)), 0, [])[0].name == name


@given(xattrs)
def test_extended_attributes_come_back_sorted(drawn):
    raw = encode_xattrs(tuple(reversed(drawn)))
    assert decode_xattrs(raw) == drawn


@given(xattrs.map(encode_xattrs).flatmap(mangled) | st.binary(max_size=20))
def test_what_decodes_as_extended_attributes_is_their_encoding(raw):
    try:
        found = decode_xattrs(raw)
    except FormatError:
        return
    assert encode_xattrs(found) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\0\0\0\0",
        b"\1n\0\0\0",
        b"\1n\1\0\0\0",
        b"\1\0\1\0\0\0v",
        b"\1n\1\0\0\0v" * 2,
        b"\1o\1\0\0\0v" + b"\1n\1\0\0\0v",
        b"\xff",
    ],
)
def test_extended_attributes_that_no_writer_made_are_refused(raw):
    with pytest.raises(FormatError):
        decode_xattrs(raw)


def test_an_entry_names_its_content_and_its_attributes():
    attributes = Descriptor(9, 2**16, FIXED, BLOCK)
    assert list(references_of(file(content=STREAM, xattr_stream=attributes))) == [NODE, BLOCK]
    assert list(references_of(file(content=Slice(BLOCK, 0, 1)))) == [BLOCK]
    assert list(references_of(file(type=FileType.DIRECTORY, content=ROOT))) == [ROOT.reference]
    empty = Descriptor(9, 2**16, FIXED, None)
    assert list(references_of(file(content=empty, xattr_stream=empty))) == []
    assert list(references_of(file(content=Root(None)))) == []


@given(file_names)
def test_the_size_of_an_entry_is_that_of_its_content(name):
    sizes = [file(name=name, content=content).size for content in (
        Inline(b"text"), STREAM, Slice(BLOCK, 7, 9), Root(None), None,
    )]  # fmt: skip
    assert sizes == [4, 2**21, 9, 0, 0]
