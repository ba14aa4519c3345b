"""Entry: one name in a directory, as a value. Its bytes: see entry_codec.py."""

import itertools
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from transfer.errors import FormatError
from transfer.formats.reference import Reference
from transfer.formats.stream import Descriptor

INLINE_MAX = 2048
CONTENT_ID_SIZE = 16
XATTRS_MAX = 4096  # encoded; more goes into a stream
NS = 10**9


class FileType(IntEnum):
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    CHARACTER = 5
    BLOCK = 6
    DISK = 7


class Inline(NamedTuple):
    data: bytes


class Slice(NamedTuple):
    """*content_id* is the beginning of the ID that its bytes alone would have, or empty."""

    block: Reference
    offset: int
    length: int
    content_id: bytes = b""


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
    """As in a field of an entry, or the content of a stream of its own."""
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
        name = raw[at + 1 : name_end]
        if end > len(raw) or not name or b"\0" in name:
            raise FormatError("extended attributes are cut short, or one has no name")
        found.append((name, raw[value_at:end]))
        at = end
    if any(left[0] >= right[0] for left, right in itertools.pairwise(found)):
        raise FormatError("extended attributes are out of order")
    return tuple(found)
