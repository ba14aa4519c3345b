"""Record: a checked envelope around one of the vault's small objects.

    offset  size  field
         0     4  magic     b"TREC"
         4     1  version   1
         5     1  kind      see below
         6     2  reserved  zero
         8     4  length    of the body, at most MAX_BODY
        12    16  check     xxh3-128 of bytes 0 to 11 and the body
        28     n  body

    kind  what             body
       1  point            JSON: the signed point as it arrived, and when
       2  keyring version  the keyring itself
       3  tombstone        JSON: a point that was deleted on purpose
       4  machine          reserved
       5  revocation       reserved
       6  policy           reserved
       7  damage           JSON: copies that are known to be bad, at most MAX_COPIES, sorted by
                           tag, ID, pack, offset, each copy once
       8  medium           reserved

Integers are little-endian. Records and packs together are the vault: the catalog can be made
again from them. What the catalog alone knew would be forgotten by that, so marks of bad copies are
records too: a client's report is proof that no checksum can give again.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from itertools import pairwise
from typing import Annotated, TypeVar

import msgspec
import xxhash
from msgspec import Meta

from transfer.errors import FormatError, NewerFormat
from transfer.formats import documents
from transfer.formats.documents import Bytes16, Bytes32, Count, Number, Time
from transfer.formats.point import MAX_POINT
from transfer.formats.reference import NULL_ID, Reference, check_tag

MAX_BODY = 512 * 1024
MAX_COPIES = 4096
_HEADER = struct.Struct("<4sBB2sI16s")
HEADER_SIZE = _HEADER.size
_CHECK_AT = 12


class RecordKind(IntEnum):
    POINT = 1
    KEYRING = 2
    TOMBSTONE = 3
    DAMAGE = 7


class PointRecord(msgspec.Struct, frozen=True):
    """A point as it arrived; *counter* is the vault's session counter at that moment."""

    point: Annotated[bytes, Meta(min_length=1, max_length=MAX_POINT)]
    arrival_number: Number
    arrival_time: Time
    counter: Count


class Tombstone(msgspec.Struct, frozen=True):
    """A point was deleted on purpose, and never comes back."""

    domain: Bytes16
    point_id: Bytes32
    time: Time


class CopyState(IntEnum):
    SUSPECT = 2  # a client could not open it
    DAMAGED = 3  # its checksum fails, or its pack lacks it


class BadCopy(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One copy of a frame, by its place; an array in JSON, because there may be thousands."""

    tag: Annotated[int, Meta(ge=0, le=255)]
    id: Bytes32
    pack: Bytes16
    offset: Count
    state: CopyState

    @property
    def reference(self) -> Reference:
        return Reference(self.tag, self.id)

    @property
    def place(self) -> tuple[int, bytes, bytes, int]:
        return self.tag, self.id, self.pack, self.offset


class Damage(msgspec.Struct, frozen=True):
    """Copies of one domain that are not to be believed."""

    domain: Bytes16
    copies: Annotated[tuple[BadCopy, ...], Meta(min_length=1, max_length=MAX_COPIES)]


def encode(kind: RecordKind, body: bytes) -> bytes:
    if len(body) > MAX_BODY:
        raise ValueError(f"a record of {len(body)} bytes is beyond the limit")
    head = _HEADER.pack(b"TREC", 1, kind, bytes(2), len(body), bytes(16))[:_CHECK_AT]
    return head + check_of(head, body) + body


def check_of(head: bytes, body: bytes) -> bytes:
    return xxhash.xxh3_128_digest(head + body)


def decode(raw: bytes, kind: RecordKind) -> bytes:
    """The body of a whole record.

    Raises FormatError for damage and for another kind, NewerFormat for a later version.
    """
    if not HEADER_SIZE <= len(raw) <= HEADER_SIZE + MAX_BODY:
        raise FormatError(f"no record has {len(raw)} bytes")
    magic, version, found, reserved, length, check = _HEADER.unpack_from(raw)
    body = raw[HEADER_SIZE:]
    if magic != b"TREC" or check != check_of(raw[:_CHECK_AT], body):
        raise FormatError("a record's check failed")
    if version != 1:
        raise NewerFormat(f"a record of version {version}", "use a newer version of transfer")
    if length != len(body) or found != kind or reserved != bytes(2):
        raise FormatError(f"not a whole record of kind {kind.name.lower()}")
    return body


_Body = TypeVar("_Body", PointRecord, Tombstone, Damage)


def _decode(raw: bytes, kind: RecordKind, body: type[_Body]) -> _Body:
    return documents.decode(decode(raw, kind), body, f"a record of kind {kind.name.lower()}")


def encode_point(point: PointRecord) -> bytes:
    return encode(RecordKind.POINT, documents.encode(point))


def decode_point(raw: bytes) -> PointRecord:
    return _decode(raw, RecordKind.POINT, PointRecord)


def encode_tombstone(tombstone: Tombstone) -> bytes:
    return encode(RecordKind.TOMBSTONE, documents.encode(tombstone))


def decode_tombstone(raw: bytes) -> Tombstone:
    return _decode(raw, RecordKind.TOMBSTONE, Tombstone)


def damage_of(domain: bytes, copies: Iterable[BadCopy]) -> Damage:
    """*copies* in the order that a record asks for; of two marks of a copy the worse counts."""
    worst = {copy.place: copy for copy in sorted(copies)}
    return Damage(domain, tuple(worst.values()))


def encode_damage(damage: Damage) -> bytes:
    _check_copies(damage.copies)
    return encode(RecordKind.DAMAGE, documents.encode(damage))


def decode_damage(raw: bytes) -> Damage:
    found = _decode(raw, RecordKind.DAMAGE, Damage)
    _check_copies(found.copies)
    return found


def _check_copies(copies: tuple[BadCopy, ...]) -> None:
    for tag in {copy.tag for copy in copies}:
        check_tag(tag)
    if any(copy.id == NULL_ID for copy in copies):
        raise FormatError("a damage record names the null ID")
    if any(left.place >= right.place for left, right in pairwise(copies)):
        raise FormatError("a damage record is out of order")
