"""Journal: append-only local record of what a run has durably in the vault.

    offset  size  field
         0     4  magic     b"TJRN"
         4     1  version   1
         5     1  kind      see below
         6     2  reserved  zero
         8     4  length    of the body, at most MAX_BODY
        12     8  check     xxh3-64 of bytes 0 to 11 and the body
        20     n  body

    kind  what    body
       1  begin   JSON: what the run is bound to; first, and again after an end
       2  stored  references (see reference.py) that the vault acknowledged
       3  point   JSON: ID of the point that is posted next
       4  end     JSON: whether the vault has the point
       6  read    extents that were read, and what is in the vault of them; back to back:
                  key (16), number of IDs (4), the ID of each block (32), zeros for zeros; of files
                  that share a block its ID, and then that of the content of each

Kind 5 is never written. Integers are little-endian. Records stand back to back. All later versions
keep these 20 bytes, so a record is of a later version only if its check holds.

**A point is in doubt from its record on, until an end follows**: it may be in the vault or not,
and only the vault can say. What else a journal says is a list of questions: it proves that a frame
was in the vault when that session was open, and only in that vault and incarnation.

A crash leaves a torn tail. It ends the reading and is cut off before the next record is written;
nothing that was journalled stands behind it. Damage in the middle ends the reading as well: then
records are lost, and so a reader that stops early must ask the vault whether a point was posted.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec
import xxhash
from msgspec import Meta

from transfer.errors import FormatError, NewerFormat
from transfer.formats import documents
from transfer.formats.documents import Bytes16, Bytes32, Count, Generation
from transfer.formats.reference import (
    ID_SIZE,
    NULL_ID,
    REFERENCE_SIZE,
    Buffer,
    Reference,
    decode_references,
    encode_references,
)
from transfer.formats.stream import MAX_BLOCK, MIN_BLOCK

MAX_STORED = 8192
KEY_SIZE = 16
MAX_BODY = MAX_STORED * REFERENCE_SIZE
_HEADER = struct.Struct("<4sBB2sI8s")
_EXTENT = struct.Struct(f"<{KEY_SIZE}sI")
HEADER_SIZE = _HEADER.size
_CHECK_AT = 12


class Begin(msgspec.Struct, frozen=True):
    """What the run is bound to; *view* names a view that is still held, and is empty without."""

    vault: Bytes16
    incarnation: Count
    session: Count
    item: Bytes16
    parent: Bytes32
    generation: Generation
    block_size: Annotated[int, Meta(ge=MIN_BLOCK, le=MAX_BLOCK)]
    view: Annotated[bytes, Meta(max_length=256)] = b""

    def __post_init__(self) -> None:
        if self.block_size.bit_count() != 1:
            raise ValueError(f"a block size of {self.block_size}")


class Stored(NamedTuple):
    """Sorted and without duplicates; at most MAX_STORED."""

    references: tuple[Reference, ...]


Ids = tuple[bytes | None, ...]
"""Of an extent's blocks in order; None is zeros, which no vault stores."""


class Read(NamedTuple):
    """(key, IDs) of extents; the key is a hash of what proves that an extent is still the same."""

    extents: tuple[tuple[bytes, Ids], ...]


class PointPosted(msgspec.Struct, frozen=True):
    """Written before the point is posted: it is in doubt from here on."""

    point: Bytes32


class End(msgspec.Struct, frozen=True):
    """The run's fate is known; *committed* says that the vault has its point."""

    committed: bool


Record = Begin | Stored | PointPosted | End | Read
_KINDS: dict[type[Record], int] = {Begin: 1, Stored: 2, PointPosted: 3, End: 4, Read: 6}


class Journal(NamedTuple):
    records: list[Record]
    good_length: int


def encode(record: Record) -> bytes:
    """Raises ValueError for a record that no reader would take."""
    if isinstance(record, Stored):
        body = encode_references(record.references)
    elif isinstance(record, Read):
        body = b"".join(_encode_extent(key, ids) for key, ids in record.extents)
    else:
        body = documents.encode(record)
    if not 0 < len(body) <= MAX_BODY:
        raise ValueError(f"a journal record has 1 to {MAX_BODY} bytes, not {len(body)}")
    head = _HEADER.pack(b"TJRN", 1, _KINDS[type(record)], bytes(2), len(body), bytes(8))
    return head[:_CHECK_AT] + xxhash.xxh3_64_digest(head[:_CHECK_AT] + body) + body


def decode_all(raw: Buffer) -> Journal:
    """The records up to a torn or damaged one, and the length of what was read.

    Whoever needs to know what the rest said compares *good_length* with the whole. Raises only
    NewerFormat.
    """
    records: list[Record] = []
    at = 0
    for record, end in walk(raw):
        records.append(record)
        at = end
    return Journal(records, at)


def walk(raw: Buffer | mmap.mmap) -> Iterator[tuple[Record, int]]:
    """As `decode_all`: each record and where it ends."""
    at, before = 0, None
    with memoryview(raw) as view:
        while at < len(view):
            try:
                record, at = _decode(view, at)
                _check_place(record, before)
            except FormatError:
                return
            yield record, at
            before = record


def _decode(view: memoryview, at: int) -> tuple[Record, int]:
    body_at = at + HEADER_SIZE
    if body_at > len(view):
        raise FormatError("a journal record is cut short")
    magic, version, kind, reserved, length, check = _HEADER.unpack_from(view, at)
    end = body_at + length
    if magic != b"TJRN" or end > len(view):
        raise FormatError("a journal record is cut short")
    body = bytes(view[body_at:end])
    if check != xxhash.xxh3_64_digest(bytes(view[at : at + _CHECK_AT]) + body):
        raise FormatError("a journal record's check failed")
    if version != 1 or kind not in _KINDS.values():
        raise NewerFormat(
            f"a journal record of version {version}, kind {kind}", "use a newer version of transfer"
        )
    if not 0 < length <= MAX_BODY or reserved != bytes(2):
        raise FormatError("a journal record beyond the limits")
    return _record(kind, body), end


def _record(kind: int, body: bytes) -> Record:
    what = "a journal record"
    match kind:
        case 1:
            return documents.decode(body, Begin, what)
        case 2:
            return Stored(decode_references(body))
        case 3:
            return documents.decode(body, PointPosted, what)
        case 4:
            return documents.decode(body, End, what)
        case _:
            return Read(tuple(_extents(body)))


def _encode_extent(key: bytes, ids: Ids) -> bytes:
    return _EXTENT.pack(key, len(ids)) + b"".join(id or NULL_ID for id in ids)


def _extents(body: bytes) -> Iterator[tuple[bytes, Ids]]:
    at = 0
    while at < len(body):
        if at + _EXTENT.size > len(body):
            raise FormatError("a journal's extent is cut short")
        key, count = _EXTENT.unpack_from(body, at)
        at, end = at + _EXTENT.size, at + _EXTENT.size + count * ID_SIZE
        if not count or end > len(body):
            raise FormatError("a journal's extent is cut short")
        ids = (body[each : each + ID_SIZE] for each in range(at, end, ID_SIZE))
        yield key, tuple(id if id != NULL_ID else None for id in ids)
        at = end


def _check_place(record: Record, before: Record | None) -> None:
    """What stands before a begin belongs to no run."""
    between_runs = before is None or isinstance(before, End)
    if between_runs != isinstance(record, Begin):
        raise FormatError("a journal record is out of place")
