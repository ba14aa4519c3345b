"""Entry: one name in a directory, with its metadata and where its content is.

    size  field
       2  length   of all that follows
       1  name length, then the name: 1 to 255 bytes without "/" and NUL, not "." or ".."
       1  type     FileType
       2  mode     permission bits, 0o7777
       4  uid
       4  gid
      12  mtime    seconds (signed), nanoseconds
      12  ctime    the same; only to detect changes
       .  fields   tag 1, length 2, value; tags ascend, none twice

Tags below 128 are refuse-if-unknown, the others ignore-if-unknown. There is no atime and no device
number of the file system: they would make an unchanged tree look new. Children of the page are
named by their place in its clear child list, counted from 1; 0 stands for null.
"""

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from transfer.errors import FormatError, NewerFormat
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import Descriptor, decode_descriptor, encode_descriptor

INLINE_MAX = 2048
XATTRS_MAX = 4096  # encoded; more goes into a stream
NS = 10**9
_HEAD = struct.Struct("<BHIIqIqI")
_SLICE = struct.Struct("<HII")
_DEVICE = struct.Struct("<II")


class FileType(IntEnum):
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    CHARACTER = 5
    BLOCK = 6
    DISK = 7


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


class Inline(NamedTuple):
    data: bytes


class Slice(NamedTuple):
    block: Reference
    offset: int
    length: int


class Root(NamedTuple):
    """Where a directory's entries are; null for an empty one."""

    reference: Reference | None


Content = Inline | Descriptor | Slice | Root | None
Xattrs = tuple[tuple[bytes, bytes], ...]


class Entry(NamedTuple):
    name: bytes
    type: FileType
    mode: int
    uid: int
    gid: int
    mtime: int
    ctime: int
    content: Content = None
    target: bytes = b""
    xattrs: Xattrs = ()
    xattr_stream: Descriptor | None = None
    link_group: bytes = b""
    device: tuple[int, int] = (0, 0)
    sparse: bool = False
    user: bytes = b""
    group: bytes = b""
    handle: bytes = b""

    @property
    def size(self) -> int:
        match self.content:
            case Inline(data):
                return len(data)
            case Descriptor(length=length) | Slice(length=length):
                return length
        return 0


def check_name(name: bytes) -> None:
    if not 1 <= len(name) <= 255 or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise FormatError(f"{name[:64]!r} cannot be the name of an entry")


def references_of(entry: Entry) -> Iterator[Reference]:
    """The frames that *entry* names."""
    match entry.content:
        case Descriptor(root=Reference() as reference) | Root(Reference() as reference):
            yield reference
        case Slice(block=reference):
            yield reference
    if entry.xattr_stream is not None and entry.xattr_stream.root is not None:
        yield entry.xattr_stream.root


def encode_xattrs(xattrs: Xattrs) -> bytes:
    """name length 1, name, value length 4, value; sorted by name."""
    return b"".join(
        bytes((len(name),)) + name + len(value).to_bytes(4, "little") + value
        for name, value in sorted(xattrs)
    )


def decode_xattrs(raw: bytes) -> Xattrs:
    found: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(raw):
        name_end = at + 1 + raw[at]
        value_at = name_end + 4
        end = value_at + int.from_bytes(raw[name_end:value_at], "little")
        if end > len(raw) or value_at > len(raw):
            raise FormatError("extended attributes are cut short")
        found.append((raw[at + 1 : name_end], raw[value_at:end]))
        at = end
    if any(left[0] >= right[0] for left, right in itertools.pairwise(found)):
        raise FormatError("extended attributes are out of order")
    return tuple(found)


def encode(entry: Entry, place: Callable[[Reference], int]) -> bytes:
    """The bytes of *entry*; *place* gives a reference's number in the page's child list."""
    check_name(entry.name)
    head = _HEAD.pack(
        entry.type, entry.mode, entry.uid, entry.gid, *divmod(entry.mtime, NS),
        *divmod(entry.ctime, NS),
    )  # fmt: skip
    body = bytes((len(entry.name),)) + entry.name + head + _encode_fields(entry, place)
    return len(body).to_bytes(2, "little") + body


def _encode_fields(entry: Entry, place: Callable[[Reference], int]) -> bytes:
    fields: list[tuple[int, bytes]] = []
    match entry.content:
        case Inline(data):
            fields.append((Tag.INLINE, data))
        case Descriptor() as stream:
            fields.append((Tag.STREAM, _encode_stream(stream, place)))
        case Slice(block, offset, length):
            fields.append((Tag.SLICE, _SLICE.pack(place(block), offset, length)))
        case Root(reference):
            number = 0 if reference is None else place(reference)
            fields.append((Tag.ROOT, number.to_bytes(2, "little")))
    if entry.target:
        fields.append((Tag.TARGET, entry.target))
    if entry.xattrs:
        fields.append((Tag.XATTRS, encode_xattrs(entry.xattrs)))
    if entry.xattr_stream is not None:
        fields.append((Tag.XATTR_STREAM, _encode_stream(entry.xattr_stream, place)))
    if entry.link_group:
        fields.append((Tag.LINK_GROUP, entry.link_group))
    if entry.device != (0, 0):
        fields.append((Tag.DEVICE, _DEVICE.pack(*entry.device)))
    if entry.sparse:
        fields.append((Tag.SPARSE, b""))
    fields += [
        (tag, value)
        for tag, value in (
            (Tag.USER, entry.user), (Tag.GROUP, entry.group), (Tag.HANDLE, entry.handle),
        ) if value
    ]  # fmt: skip
    return b"".join(
        bytes((tag,)) + len(value).to_bytes(2, "little") + value for tag, value in fields
    )


def _encode_stream(stream: Descriptor, place: Callable[[Reference], int]) -> bytes:
    return encode_descriptor(stream, 0 if stream.root is None else place(stream.root))


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
    if kind not in FileType.__members__.values() or mode > 0o7777 or max(ns, changed_ns) >= NS:
        raise FormatError(f"entry {name!r} beyond the limits")
    fields = _split_fields(raw, fields_at, end)
    return (
        Entry(
            name, FileType(kind), mode, uid, gid, seconds * NS + ns, changed * NS + changed_ns,
            _content(fields, children),
            fields.get(Tag.TARGET, b""),
            decode_xattrs(fields.get(Tag.XATTRS, b"")),
            _optional_stream(fields, children),
            _sized(fields, Tag.LINK_GROUP, 16),
            _DEVICE.unpack(_sized(fields, Tag.DEVICE, 8) or bytes(8)),
            Tag.SPARSE in fields,
            fields.get(Tag.USER, b""), fields.get(Tag.GROUP, b""), fields.get(Tag.HANDLE, b""),
        ),
        end,
    )  # fmt: skip


def _split_fields(raw: bytes, at: int, end: int) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    last = 0
    while at < end:
        tag, value_at = raw[at], at + 3
        at = value_at + int.from_bytes(raw[at + 1 : value_at], "little")
        if at > end or value_at > end or tag <= last:
            raise FormatError("an entry's fields are cut short or out of order")
        if tag < 128 and tag not in Tag.__members__.values():
            raise NewerFormat(f"entry field {tag} is unknown", "use a newer version of transfer")
        fields[tag], last = raw[value_at:at], tag
    return fields


def _sized(fields: dict[int, bytes], tag: Tag, size: int) -> bytes:
    value = fields.get(tag, b"")
    if value and len(value) != size:
        raise FormatError(f"field {tag.name} of an entry has {len(value)} bytes")
    return value


def _reference(number: int, children: Sequence[Reference]) -> Reference:
    if not 1 <= number <= len(children):
        raise FormatError("an entry names a child that its page does not have")
    return children[number - 1]


def _optional_stream(fields: dict[int, bytes], children: Sequence[Reference]) -> Descriptor | None:
    raw = fields.get(Tag.XATTR_STREAM)
    return None if raw is None else decode_descriptor(raw, children)


def _content(fields: dict[int, bytes], children: Sequence[Reference]) -> Content:
    present = [tag for tag in (Tag.INLINE, Tag.STREAM, Tag.SLICE, Tag.ROOT) if tag in fields]
    if not present:
        return None
    if len(present) > 1:
        raise FormatError("an entry has more than one content")
    value = fields[present[0]]
    if present[0] is Tag.INLINE:
        if len(value) > INLINE_MAX:
            raise FormatError("inline content beyond the limit")
        return Inline(value)
    if present[0] is Tag.STREAM:
        return decode_descriptor(value, children)
    if present[0] is Tag.SLICE:
        return _decode_slice(value, children)
    if len(value) != 2:
        raise FormatError("a directory's root has another size")
    number = int.from_bytes(value, "little")
    root = _reference(number, children) if number else None
    if root is not None and root.kind not in (Kind.PAGE, Kind.INDEX):
        raise FormatError("a directory's root is no directory page or index")
    return Root(root)


def _decode_slice(value: bytes, children: Sequence[Reference]) -> Slice:
    if len(value) != _SLICE.size:
        raise FormatError("a slice has another size")
    number, offset, length = _SLICE.unpack(value)
    block = _reference(number, children)
    if block.tag != tag_of(Kind.DATA) or offset + length > 2**22:
        raise FormatError("a slice beyond its block")
    return Slice(block, offset, length)
