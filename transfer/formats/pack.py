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
grows; after a crash it keeps its whole frames and gets a trailer. All later versions keep the
footer's 60 bytes.

A pack has at most 256 MiB. Frames of the index do not overlap; between them may lie what was
damaged when a crashed pack got its trailer. Points are in no pack.

A client chooses the payload of its frames, so an open pack may end in bytes that look like a
trailer. It cannot forge the digest: that covers the pack ID, which it is never told.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from blake3 import blake3

from transfer.errors import FormatError, NewerFormat
from transfer.formats import frame
from transfer.formats.reference import NULL_ID, REFERENCE_SIZE, Buffer, Kind, Reference, check_tag

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
    if (len(header.domain), len(header.pack_id)) != (16, 16):
        raise ValueError("a pack needs a domain and an ID of 16 bytes")
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
    if version != 1 or pack_class > max(PackClass):
        raise NewerFormat(
            f"a pack of version {version}, class {pack_class}", "use a newer version of transfer"
        )
    if not pack_class or reserved != bytes(2):
        raise FormatError("a pack header beyond the limits")
    return PackHeader(domain, PackClass(pack_class), pack_id)


def encode_index(entries: Iterable[IndexEntry]) -> bytes:
    ordered = sorted(entries)
    if any((len(entry.id), len(entry.epoch)) != (32, 8) for entry in ordered):
        raise ValueError("an index entry needs an ID of 32 bytes and an epoch of 8")
    return b"".join(_ENTRY.pack(*entry) for entry in ordered)


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

    Raises FormatError for damage. Does not read the frames; `digest_holds` does.
    """
    view = memoryview(pack)
    if len(view) > MAX_PACK:
        raise FormatError(f"no pack has {len(view)} bytes")
    footer_at = len(view) - FOOTER_SIZE
    if footer_at < HEADER_SIZE or bytes(view[footer_at : footer_at + 4]) != b"TEND":
        return None
    raw = bytes(view[footer_at:])
    _, version, reserved, index_at, count, digest, check = _FOOTER.unpack(raw)
    if check != zlib.crc32(raw[:-4]):
        return None
    if version != 1:
        if blake3(view[:footer_at]).digest() != digest:
            return None  # a client's bytes, and no trailer
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
        _check_entry(entry)
    end = HEADER_SIZE
    for entry in sorted(entries, key=attrgetter("offset")):
        if entry.offset < end:
            raise FormatError("a pack index names frames that overlap")
        end = entry.offset + entry.frame_length
    if end > index_at:
        raise FormatError("a pack index names a frame beyond the last one")
    if len({class_of(entry.tag) for entry in entries}) > 1:
        raise FormatError("a pack index names frames of two classes")


def _check_entry(entry: IndexEntry) -> None:
    check_tag(entry.tag)
    kind = Kind(entry.tag >> 4)
    if (
        kind is Kind.POINT
        or entry.id == NULL_ID
        or entry.plain_length > frame.MAX_PLAIN_OF[kind]
        or not 16 <= entry.payload_length <= entry.plain_length + frame.MAX_EXPANSION
        or not frame.MIN_CHILDREN[kind] <= entry.child_count <= frame.MAX_CHILDREN[kind]
    ):
        raise FormatError("a pack index entry beyond the limits")


def digest_holds(pack: Buffer, trailer: Trailer) -> bool:
    view = memoryview(pack)
    return blake3(view[: len(view) - FOOTER_SIZE]).digest() == trailer.digest


def walk(pack: Buffer, start: int = HEADER_SIZE, end: int | None = None) -> Iterator[PlacedFrame]:
    """Each intact frame of an open, cut or damaged pack, ascending; the last one's end is the cut.

    A damaged frame in the middle costs itself only: frames after it were acknowledged as well.
    Raises NewerFormat for a frame of a later version, as long as all before it were whole: to cut
    it off would lose it. After damage its bytes may be a client's, inside of another frame.
    """
    view = memoryview(pack)[:end]
    offset, whole = start, True
    while offset + _MIN_FRAME <= len(view):
        try:
            found = frame.decode(view, offset)
        except FormatError:
            found = None
        except NewerFormat:
            if whole:
                raise
            found = None
        if found is None:
            whole = False
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
