"""Entry: one name in a directory, with its metadata and where its content is.

    size  field
       2  length   of all that follows
       1  name length, then the name: 1 to 255 bytes without "/" and NUL, not "." or ".."
       1  type     1 file, 2 directory, 3 symlink, 4 fifo, 5 character and 6 block device, 7 disk
       2  mode     permission bits, 0o7777
       4  uid
       4  gid
      12  mtime    seconds (signed), nanoseconds
      12  ctime    the same; only to detect changes
       .  fields   tag 1, length 2, value; tags ascend, none twice

    tag  field         value                                       of the types
      1  inline        the content itself, at most 2048 bytes      file
      2  stream        a descriptor (see stream.py)                file, disk
      3  slice         block 2, offset 4, length 4                 file
      4  root          page or index 2; 0 for an empty directory   directory
      5  target        1 to 4095 bytes without NUL                 symlink
      6  xattrs        see below, at most 4096 bytes               any
      7  xattr stream  a descriptor: attributes that take more     any, instead of xattrs
      8  link group    16 bytes that all names of an inode share   any but directory, disk
      9  device        major 4, minor 4; left out for (0, 0)       character, block
     10  sparse        empty                                       file, disk
    128  user          name, without NUL                           any
    129  group         name, without NUL                           any
    130  handle        1 to 255 bytes; only to detect changes      any
    131  content ID    16 bytes, see below                         file, with a slice

Each extended attribute: name length 1, name without NUL, value length 4, value; sorted by name,
none twice.

**The content ID of a slice** is the first 16 bytes of the ID that its bytes would have as a block
of their own: keyed with the data ID key of the point's generation. It tells who reads the file
again that its content is what it was. Readers may ignore it, and writers may leave it out. It
stands in the sealed page alone, and is compared only with content that the same domain has under
the same name; so 128 bits suffice: without the key nobody can look for a collision, and who has it
and writes files would lose content of his own, for 2^64 work.

A file has exactly one content, a disk a stream, a directory a root, a symlink a target. What is
empty is left out, so that an entry has one encoding. Tags below 128 are refuse-if-unknown, the
others ignore-if-unknown. There is no atime and no device number of the file system: they would
make an unchanged tree look new. Children of the page are named by their place in its clear child
list, counted from 1; 0 stands for null.
"""

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum

from transfer.errors import FormatError, NewerFormat
from transfer.formats.entry import (
    CONTENT_ID_SIZE,
    INLINE_MAX,
    NS,
    XATTRS_MAX,
    Content,
    Entry,
    FileType,
    Inline,
    Root,
    Slice,
    check_name,
    decode_xattrs,
    encode_xattrs,
)
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import (
    DESCRIPTOR_SIZE,
    MAX_BLOCK,
    Descriptor,
    decode_descriptor,
    encode_descriptor,
)

MAX_ENTRY = 0xFFFF
_HEAD = struct.Struct("<BHIIqIqI")
_SLICE = struct.Struct("<HII")
_DEVICE = struct.Struct("<II")


class Tag(IntEnum):
    INLINE = 1
    STREAM = 2
    SLICE = 3
    ROOT = 4
    TARGET = 5
    XATTRS = 6
    XATTR_STREAM = 7
    LINK_GROUP = 8
    DEVICE = 9
    SPARSE = 10
    USER = 128
    GROUP = 129
    HANDLE = 130
    CONTENT_ID = 131


_SIZES: dict[int, tuple[int, int]] = {
    Tag.INLINE: (0, INLINE_MAX), Tag.STREAM: (DESCRIPTOR_SIZE, DESCRIPTOR_SIZE),
    Tag.SLICE: (_SLICE.size, _SLICE.size), Tag.ROOT: (2, 2), Tag.TARGET: (1, 4095),
    Tag.XATTRS: (1, XATTRS_MAX), Tag.XATTR_STREAM: (DESCRIPTOR_SIZE, DESCRIPTOR_SIZE),
    Tag.LINK_GROUP: (16, 16), Tag.DEVICE: (_DEVICE.size, _DEVICE.size), Tag.SPARSE: (0, 0),
    Tag.USER: (1, MAX_ENTRY), Tag.GROUP: (1, MAX_ENTRY), Tag.HANDLE: (1, 255),
    Tag.CONTENT_ID: (CONTENT_ID_SIZE, CONTENT_ID_SIZE),
}  # fmt: skip
_ANY_SIZE = 0, MAX_ENTRY
_TEXTS = {Tag.TARGET, Tag.USER, Tag.GROUP}
_ANY = {Tag.XATTRS, Tag.XATTR_STREAM, Tag.USER, Tag.GROUP, Tag.HANDLE}
_CONTENTS = {Tag.INLINE, Tag.STREAM, Tag.SLICE, Tag.ROOT}
_TAGS_OF = {
    FileType.FILE: _CONTENTS - {Tag.ROOT} | {Tag.CONTENT_ID, Tag.LINK_GROUP, Tag.SPARSE},
    FileType.DIRECTORY: {Tag.ROOT},
    FileType.SYMLINK: {Tag.TARGET, Tag.LINK_GROUP},
    FileType.FIFO: {Tag.LINK_GROUP},
    FileType.CHARACTER: {Tag.DEVICE, Tag.LINK_GROUP},
    FileType.BLOCK: {Tag.DEVICE, Tag.LINK_GROUP},
    FileType.DISK: {Tag.STREAM, Tag.SPARSE},
}
_ALLOWED = {type: tags | _ANY for type, tags in _TAGS_OF.items()}
_TYPES = {int(type): type for type in FileType}
_NEEDS_ONE_OF = {
    FileType.FILE: _CONTENTS, FileType.DIRECTORY: _CONTENTS, FileType.DISK: _CONTENTS,
    FileType.SYMLINK: {Tag.TARGET},
}  # fmt: skip


def encode(entry: Entry, place: Callable[[Reference], int]) -> bytes:
    """The bytes of *entry*; *place* gives a reference's number in the page's child list.

    Raises FormatError for an entry that no reader would take.
    """
    check_name(entry.name)
    fields = _fields(entry, place)
    _check_fields(entry.type, entry.name, fields)
    _check_mode(entry.name, entry.mode)
    head = _HEAD.pack(
        entry.type, entry.mode, entry.uid, entry.gid, *divmod(entry.mtime, NS),
        *divmod(entry.ctime, NS),
    )  # fmt: skip
    body = bytes((len(entry.name),)) + entry.name + head
    body += b"".join(
        bytes((tag,)) + len(value).to_bytes(2, "little") + value for tag, value in fields.items()
    )
    if len(body) > MAX_ENTRY:
        raise FormatError(f"entry {entry.name!r} takes {len(body)} bytes")
    return len(body).to_bytes(2, "little") + body


def _fields(entry: Entry, place: Callable[[Reference], int]) -> dict[int, bytes]:
    """In ascending order of tags."""
    fields: dict[int, bytes] = {}
    content_id = b""
    match entry.content:
        case Inline(data):
            fields[Tag.INLINE] = data
        case Descriptor() as stream:
            fields[Tag.STREAM] = _encode_stream(stream, place)
        case Slice(block, offset, length, content_id):
            _check_slice(entry.content)
            fields[Tag.SLICE] = _SLICE.pack(place(block), offset, length)
        case Root(reference):
            _check_root(reference)
            number = 0 if reference is None else place(reference)
            fields[Tag.ROOT] = number.to_bytes(2, "little")
    if entry.target:
        fields[Tag.TARGET] = entry.target
    if entry.xattrs:
        fields[Tag.XATTRS] = encode_xattrs(entry.xattrs)
        decode_xattrs(fields[Tag.XATTRS])
    if entry.xattr_stream is not None:
        fields[Tag.XATTR_STREAM] = _encode_stream(entry.xattr_stream, place)
    if entry.link_group:
        fields[Tag.LINK_GROUP] = entry.link_group
    if entry.device != (0, 0):
        fields[Tag.DEVICE] = _DEVICE.pack(*entry.device)
    if entry.sparse:
        fields[Tag.SPARSE] = b""
    ignorable = {
        Tag.USER: entry.user, Tag.GROUP: entry.group, Tag.HANDLE: entry.handle,
        Tag.CONTENT_ID: content_id,
    }  # fmt: skip
    return fields | {tag: value for tag, value in ignorable.items() if value}


def _encode_stream(stream: Descriptor, place: Callable[[Reference], int]) -> bytes:
    return encode_descriptor(stream, 0 if stream.root is None else place(stream.root))


def _check_mode(name: bytes, mode: int) -> None:
    if mode > 0o7777:
        raise FormatError(f"entry {name!r} has mode {mode:#o}")


def _check_fields(type: FileType, name: bytes, fields: dict[int, bytes]) -> None:
    """Raise FormatError unless sizes hold and the fields are those that *type* has."""
    for tag, value in fields.items():
        low, high = _SIZES.get(tag, _ANY_SIZE)
        if not low <= len(value) <= high:
            raise FormatError(f"entry {name!r}: {Tag(tag).name} has {len(value)} bytes")
    known = fields.keys() & _SIZES.keys()
    if not known <= _ALLOWED[type]:
        raise FormatError(f"entry {name!r} has a field that a {type.name.lower()} cannot have")
    if type in _NEEDS_ONE_OF and len(known & _NEEDS_ONE_OF[type]) != 1:
        raise FormatError(f"entry {name!r} does not have one content")
    if Tag.CONTENT_ID in known and Tag.SLICE not in known:
        raise FormatError(f"entry {name!r} has the ID of a slice's content and no slice")
    if {Tag.XATTRS, Tag.XATTR_STREAM} <= known:
        raise FormatError(f"entry {name!r} has extended attributes twice")
    if any(0 in fields[tag] for tag in known & _TEXTS):
        raise FormatError(f"entry {name!r} has a NUL in a name")
    if fields.get(Tag.DEVICE) == bytes(_DEVICE.size):
        raise FormatError(f"entry {name!r} writes out a device that is left out")


def decode(raw: bytes, at: int, children: Sequence[Reference]) -> tuple[Entry, int]:
    """The entry at *at* and the offset after it.

    Raises FormatError for damage, NewerFormat for a field that must be understood and is not.
    """
    end = at + 2 + int.from_bytes(raw[at : at + 2], "little")
    name_end = at + 3 + (raw[at + 2] if at + 2 < len(raw) else 0)
    fields_at = name_end + _HEAD.size
    if end > len(raw) or fields_at > end:
        raise FormatError("an entry is cut short")
    name = raw[at + 3 : name_end]
    check_name(name)
    kind, mode, uid, gid, seconds, ns, changed, changed_ns = _HEAD.unpack_from(raw, name_end)
    type = _type(name, kind)
    _check_mode(name, mode)
    if max(ns, changed_ns) >= NS:
        raise FormatError(f"entry {name!r} has a second of more than 10^9 ns")
    fields = _split_fields(raw, fields_at, end)
    _check_fields(type, name, fields)
    return (
        Entry(
            name, type, mode, uid, gid, seconds * NS + ns, changed * NS + changed_ns,
            _content(fields, children),
            fields.get(Tag.TARGET, b""),
            decode_xattrs(fields[Tag.XATTRS]) if Tag.XATTRS in fields else (),
            _optional_stream(fields, children),
            fields.get(Tag.LINK_GROUP, b""),
            _DEVICE.unpack(fields[Tag.DEVICE]) if Tag.DEVICE in fields else (0, 0),
            Tag.SPARSE in fields,
            fields.get(Tag.USER, b""), fields.get(Tag.GROUP, b""), fields.get(Tag.HANDLE, b""),
        ),
        end,
    )  # fmt: skip


def _type(name: bytes, number: int) -> FileType:
    if number in _TYPES:
        return _TYPES[number]
    if not number:
        raise FormatError(f"entry {name!r} has no type")
    raise NewerFormat(f"entry {name!r} has type {number}", "use a newer version of transfer")


def _split_fields(raw: bytes, at: int, end: int) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    last = 0
    while at < end:
        tag, value_at = raw[at], at + 3
        at = value_at + int.from_bytes(raw[at + 1 : value_at], "little")
        if at > end or tag <= last:
            raise FormatError("an entry's fields are cut short or out of order")
        if tag < 128 and tag not in _SIZES:
            raise NewerFormat(f"entry field {tag} is unknown", "use a newer version of transfer")
        fields[tag], last = raw[value_at:at], tag
    return fields


def _reference(number: int, children: Sequence[Reference]) -> Reference:
    if not 1 <= number <= len(children):
        raise FormatError("an entry names a child that its page does not have")
    return children[number - 1]


def _optional_stream(fields: dict[int, bytes], children: Sequence[Reference]) -> Descriptor | None:
    raw = fields.get(Tag.XATTR_STREAM)
    return None if raw is None else decode_descriptor(raw, children)


def _content(fields: dict[int, bytes], children: Sequence[Reference]) -> Content:
    if Tag.INLINE in fields:
        return Inline(fields[Tag.INLINE])
    if Tag.STREAM in fields:
        return decode_descriptor(fields[Tag.STREAM], children)
    if Tag.SLICE in fields:
        number, offset, length = _SLICE.unpack(fields[Tag.SLICE])
        block, content_id = _reference(number, children), fields.get(Tag.CONTENT_ID, b"")
        found = Slice(block, offset, length, content_id)
        _check_slice(found)
        return found
    if Tag.ROOT in fields:
        number = int.from_bytes(fields[Tag.ROOT], "little")
        root = _reference(number, children) if number else None
        _check_root(root)
        return Root(root)
    return None


def _check_slice(found: Slice) -> None:
    beyond = found.length < 1 or found.offset < 0 or found.offset + found.length > MAX_BLOCK
    if found.block.tag != tag_of(Kind.DATA) or beyond:
        raise FormatError("a slice beyond its block")


def _check_root(root: Reference | None) -> None:
    if root is not None and root.kind not in (Kind.PAGE, Kind.INDEX):
        raise FormatError("a directory's root is no directory page or index")
