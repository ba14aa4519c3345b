"""Recovery point: the signed, committed root of an item at one moment.

    offset  size  field
         0     4  magic         b"TPNT"
         4     1  version       1
         5     1  consistency   0 none, 1 crash, 2 file system, 3 application
         6     2  reserved      zero
         8    24  features      three sets of 64 bits: ignore, needed to write, needed to read
        32    16  domain
        48    16  item          keyed hash of (machine ID, item name)
        64     8  number        parent's + 1, from 1
        72    32  parent        point ID, or zeros
       104     1  root tag      0 for an empty root
       105    32  root ID
       137     4  generation    of the domain's ID key; a tree never mixes generations
       141     8  view time     ns since 1970, signed
       149    32  point ID      keyed BLAKE3 of bytes 0 to 148 and the sealed part
       181     4  sealed length
       185     n  sealed part   a frame of kind POINT: PointDetails as JSON
     185+n    64  signature     Ed25519 of all before, by the domain's signing key

Whoever knows the domain's public key can check a point; only who holds the keyring can read its
details or make one. `latest` is the highest number, then the latest view time.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

import msgspec

from transfer.errors import FormatError, NewerFormat
from transfer.formats.reference import NULL_ID, Reference, check_tag

MAX_POINT = 64 * 1024
_BODY = struct.Struct("<4sBBHQQQ16s16sQ32sB32sIq")
_TAIL = struct.Struct("<32sI")
BODY_SIZE = _BODY.size
_SEALED_AT = _BODY.size + _TAIL.size
SIGNATURE_SIZE = 64


class Consistency(IntEnum):
    NONE = 0
    CRASH = 1
    FILE_SYSTEM = 2
    APPLICATION = 3


class Point(NamedTuple):
    domain: bytes
    item: bytes
    number: int
    parent: bytes
    root: Reference | None
    generation: int
    view_time: int
    consistency: Consistency
    point_id: bytes = NULL_ID
    sealed: bytes = b""
    signature: bytes = b""

    @property
    def signed_part(self) -> bytes:
        return encode_body(self) + _TAIL.pack(self.point_id, len(self.sealed)) + self.sealed

    @property
    def order(self) -> tuple[int, int]:
        """`latest` is the point of an item for which this is highest."""
        return self.number, self.view_time


class Counts(msgspec.Struct, frozen=True):
    bytes_source: int = 0
    files: int = 0
    entries: int = 0
    sockets: int = 0
    warnings: int = 0


class Mark(msgspec.Struct, frozen=True):
    """A moment in a change source's life; only the source that made it reads the token."""

    source: str
    epoch: str
    token: bytes
    size: int = 0


class PointDetails(msgspec.Struct, frozen=True):
    item: str
    machine: str
    machine_id: bytes
    paths: list[bytes]
    tool: str
    counts: Counts
    marks: list[Mark] = []


def encode_body(point: Point) -> bytes:
    tag, root = (0, NULL_ID) if point.root is None else point.root
    return _BODY.pack(
        b"TPNT", 1, point.consistency, 0, 0, 0, 0, point.domain, point.item, point.number,
        point.parent, tag, root, point.generation, point.view_time,
    )  # fmt: skip


def encode(point: Point) -> bytes:
    return point.signed_part + point.signature


def decode(record: bytes) -> Point:
    """Raises FormatError; whether the signature holds is the caller's to ask."""
    if not _SEALED_AT + SIGNATURE_SIZE <= len(record) <= MAX_POINT:
        raise FormatError(f"no recovery point has {len(record)} bytes")
    (magic, version, consistency, reserved, _, _, needed, domain, item, number, parent, tag, root,
     generation, view_time) = _BODY.unpack_from(record)  # fmt: skip
    point_id, length = _TAIL.unpack_from(record, BODY_SIZE)
    if magic != b"TPNT" or len(record) != _SEALED_AT + length + SIGNATURE_SIZE or reserved:
        raise FormatError("not a recovery point")
    if version != 1 or needed:
        raise NewerFormat(
            f"a recovery point of version {version} with features {needed:#x}",
            "use a newer version of transfer",
        )
    if consistency > 3 or (tag == 0) != (root == NULL_ID) or not number:
        raise FormatError("a recovery point beyond the limits")
    if tag:
        check_tag(tag)
    sealed = record[_SEALED_AT : _SEALED_AT + length]
    return Point(
        domain, item, number, parent, Reference(tag, root) if tag else None, generation, view_time,
        Consistency(consistency), point_id, sealed, record[-SIGNATURE_SIZE:],
    )  # fmt: skip
