"""Pack: many frames of one domain and one class, written strictly forward.

    offset  size  field
         0     4  magic          b"TPCK"
         4     1  version        1
         5     1  class          1 = data, 2 = metadata (nodes and pages)
         6     2  reserved       zero
         8    16  domain
        24    16  pack ID        random
        40     4  check          CRC-32 of bytes 0 to 39
        44        frames, verbatim, back to back (see frame.py)

    index, sorted by tag, ID, offset; 63 bytes an entry
         0     1  tag
         1    32  ID
        33     8  offset         of the frame in the pack
        41     2  child count
        43     4  plain length
        47     4  payload length
        51     8  epoch
        59     4  generation

    footer, the last 60 bytes
         0     4  magic          b"TEND"
         4     1  version        1
         5     3  reserved       zero
         8     8  index offset
        16     8  entry count
        24    32  BLAKE3-256     of all bytes before the footer
        56     4  check          CRC-32 of bytes 0 to 55 of the footer

Integers are little-endian. Index and footer are the trailer. An open pack has none, and only
grows; after a crash it keeps its whole frames and gets a trailer.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

from blake3 import blake3

from transfer.errors import FormatError, NewerFormat
from transfer.formats import frame
from transfer.formats.reference import REFERENCE_SIZE, Buffer, Kind, Reference, check_tag

MAX_PACK = 256 * 2**20
FULL_PACK = 64 * 2**20
_HEADER = struct.Struct("<4sBB2s16s16sI")
_ENTRY = struct.Struct("<B32sQHII8sI")
_FOOTER = struct.Struct("<4sB3sQQ32sI")
HEADER_SIZE, ENTRY_SIZE, FOOTER_SIZE = _HEADER.size, _ENTRY.size, _FOOTER.size
_MIN_FRAME = frame.HEADER_SIZE + 16


class PackClass(IntEnum):
    DATA = 1
    METADATA = 2


class PackHeader(NamedTuple):
    domain: bytes
    pack_class: PackClass
    pack_id: bytes


class IndexEntry(NamedTuple):
    """Sorts as the index does."""

    tag: int
    id: bytes
    offset: int
    child_count: int
    plain_length: int
    payload_length: int
    epoch: bytes
    generation: int

    @property
    def reference(self) -> Reference:
        return Reference(self.tag, self.id)

    @property
    def frame_length(self) -> int:
        return frame.HEADER_SIZE + self.child_count * REFERENCE_SIZE + self.payload_length


class PlacedFrame(NamedTuple):
    offset: int
    frame: frame.Frame

    @property
    def end(self) -> int:
        return self.offset + self.frame.header.frame_length


class Trailer(NamedTuple):
    entries: tuple[IndexEntry, ...]
    index_at: int
    digest: bytes


def class_of(tag: int) -> PackClass:
    return PackClass.DATA if tag >> 4 == Kind.DATA else PackClass.METADATA


def entry_of(header: frame.Header, offset: int) -> IndexEntry:
    return IndexEntry(
        header.tag, header.id, offset, header.child_count, header.plain_length,
        header.payload_length, header.epoch, header.generation,
    )  # fmt: skip


def encode_header(header: PackHeader) -> bytes:
    head = _HEADER.pack(b"TPCK", 1, header.pack_class, bytes(2), header.domain, header.pack_id, 0)
    return head[:-4] + zlib.crc32(head[:-4]).to_bytes(4, "little")


def decode_header(buffer: Buffer) -> PackHeader:
    """Raises FormatError for damage, NewerFormat for an intact header of a later version."""
    raw = bytes(memoryview(buffer)[:HEADER_SIZE])
    if len(raw) < HEADER_SIZE:
        raise FormatError(f"no pack has {len(raw)} bytes")
    magic, version, pack_class, reserved, domain, pack_id, check = _HEADER.unpack(raw)
    if magic != b"TPCK" or check != zlib.crc32(raw[:-4]):
        raise FormatError("no intact pack header")
    if version != 1:
        raise NewerFormat(f"a pack of version {version}", "use a newer version of transfer")
    if pack_class not in (1, 2) or reserved != bytes(2):
        raise FormatError("a pack header beyond the limits")
    return PackHeader(domain, PackClass(pack_class), pack_id)


def encode_index(entries: Iterable[IndexEntry]) -> bytes:
    return b"".join(_ENTRY.pack(*entry) for entry in sorted(entries))


def encode_footer(index_at: int, count: int, digest: bytes) -> bytes:
    """The footer; *digest* is BLAKE3-256 of header, frames and index."""
    footer = _FOOTER.pack(b"TEND", 1, bytes(3), index_at, count, digest, 0)[:-4]
    return footer + zlib.crc32(footer).to_bytes(4, "little")


def encode_trailer(entries: Iterable[IndexEntry], index_at: int, before: blake3) -> bytes:
    """Index and footer; *before* has seen the pack's first *index_at* bytes, and is kept."""
    index = encode_index(entries)
    digest = before.copy().update(index).digest()
    return index + encode_footer(index_at, len(index) // ENTRY_SIZE, digest)


def decode_trailer(pack: Buffer) -> Trailer | None:
    """The trailer of a whole pack, limits checked; None when no footer is there (an open pack).

    Does not read the frames; `digest_holds` does.
    """
    view = memoryview(pack)
    footer_at = len(view) - FOOTER_SIZE
    if footer_at < HEADER_SIZE or bytes(view[footer_at : footer_at + 4]) != b"TEND":
        return None
    raw = bytes(view[footer_at:])
    _, version, reserved, index_at, count, digest, check = _FOOTER.unpack(raw)
    if check != zlib.crc32(raw[:-4]):
        return None
    if version != 1:
        raise NewerFormat(f"a pack trailer of version {version}", "use a newer version of transfer")
    if reserved != bytes(3) or index_at < HEADER_SIZE or index_at + count * ENTRY_SIZE != footer_at:
        raise FormatError("a pack footer beyond the limits")
    entries = tuple(IndexEntry(*fields) for fields in _ENTRY.iter_unpack(view[index_at:footer_at]))
    _check_entries(entries, index_at)
    return Trailer(entries, index_at, digest)


def _check_entries(entries: tuple[IndexEntry, ...], index_at: int) -> None:
    if any(left >= right for left, right in pairwise(entries)):
        raise FormatError("a pack index is out of order")
    for entry in entries:
        check_tag(entry.tag)
        if (
            entry.plain_length > frame.MAX_PLAIN
            or entry.payload_length > entry.plain_length + frame.MAX_EXPANSION
            or entry.child_count > frame.MAX_CHILDREN[Kind(entry.tag >> 4)]
            or not HEADER_SIZE <= entry.offset <= index_at - entry.frame_length
        ):
            raise FormatError("a pack index entry beyond the limits")


def digest_holds(pack: Buffer, trailer: Trailer) -> bool:
    view = memoryview(pack)
    return blake3(view[: len(view) - FOOTER_SIZE]).digest() == trailer.digest


def walk(pack: Buffer, start: int = HEADER_SIZE, end: int | None = None) -> Iterator[PlacedFrame]:
    """Each intact frame of an open, cut or damaged pack, ascending; the last one's end is the cut.

    A damaged frame in the middle costs itself only: frames after it were acknowledged as well.
    """
    view = memoryview(pack)[:end]
    offset = start
    while offset + _MIN_FRAME <= len(view):
        try:
            found = frame.decode(view, offset)
        except (FormatError, NewerFormat):
            found = None
        if found is None:
            offset = _next_magic(view, offset + 1)
            continue
        yield PlacedFrame(offset, found[0])
        offset = found[1]


def _next_magic(view: memoryview, offset: int) -> int:
    step = 2**20
    while offset < len(view):
        # Three bytes more, so that a magic across two steps is seen.
        at = bytes(view[offset : offset + step + 3]).find(frame.MAGIC)
        if at >= 0:
            return offset + at
        offset += step
    return len(view)
