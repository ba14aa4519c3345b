"""Record: a checked envelope around one of the vault's small objects.

    offset  size  field
         0     4  magic     b"TREC"
         4     1  version   1
         5     1  kind      1 point, 2 keyring version, 3 tombstone
         6     2  reserved  zero
         8     4  length    of the body, at most MAX_BODY
        12    16  check     xxh3-128 of bytes 0 to 11 and the body
        28     n  body      points and tombstones: JSON; keyring versions: the keyring itself

Integers are little-endian. Records and packs together are the vault: the catalog can be made
again from them.
"""

import struct
from enum import IntEnum

import msgspec
import xxhash

from transfer.errors import FormatError, NewerFormat

MAX_BODY = 512 * 1024
_HEADER = struct.Struct("<4sBB2sI16s")
HEADER_SIZE = _HEADER.size
_CHECK_AT = 12


class RecordKind(IntEnum):
    POINT = 1
    KEYRING = 2
    TOMBSTONE = 3


class PointRecord(msgspec.Struct, frozen=True):
    """A point as it arrived; *counter* is the vault's session counter at that moment."""

    point: bytes
    arrival_number: int
    arrival_time: int
    counter: int


class Tombstone(msgspec.Struct, frozen=True):
    """A point was deleted on purpose, and never comes back."""

    domain: bytes
    point_id: bytes
    time: int


def encode(kind: RecordKind, body: bytes) -> bytes:
    if len(body) > MAX_BODY:
        raise ValueError(f"a record of {len(body)} bytes is beyond the limit")
    head = _HEADER.pack(b"TREC", 1, kind, bytes(2), len(body), bytes(16))[:_CHECK_AT]
    return head + xxhash.xxh3_128_digest(head + body) + body


def decode(raw: bytes, kind: RecordKind) -> bytes:
    """The body of a whole record; raises FormatError for damage and for another kind."""
    if not HEADER_SIZE <= len(raw) <= HEADER_SIZE + MAX_BODY:
        raise FormatError(f"no record has {len(raw)} bytes")
    magic, version, found, reserved, length, check = _HEADER.unpack_from(raw)
    body = raw[HEADER_SIZE:]
    if magic != b"TREC" or check != xxhash.xxh3_128_digest(raw[:_CHECK_AT] + body):
        raise FormatError("a record's check failed")
    if version != 1:
        raise NewerFormat(f"a record of version {version}", "use a newer version of transfer")
    if length != len(body) or found != kind or reserved != bytes(2):
        raise FormatError(f"not a whole record of kind {kind.name.lower()}")
    return body


def encode_point(point: PointRecord) -> bytes:
    return encode(RecordKind.POINT, msgspec.json.encode(point))


def decode_point(raw: bytes) -> PointRecord:
    try:
        return msgspec.json.decode(decode(raw, RecordKind.POINT), type=PointRecord)
    except msgspec.MsgspecError as error:
        raise FormatError(f"a point's record does not parse: {error}") from error


def encode_tombstone(tombstone: Tombstone) -> bytes:
    return encode(RecordKind.TOMBSTONE, msgspec.json.encode(tombstone))


def decode_tombstone(raw: bytes) -> Tombstone:
    try:
        return msgspec.json.decode(decode(raw, RecordKind.TOMBSTONE), type=Tombstone)
    except msgspec.MsgspecError as error:
        raise FormatError(f"a tombstone does not parse: {error}") from error
