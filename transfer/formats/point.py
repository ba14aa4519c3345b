"""Recovery point: the signed, committed root of an item at one moment.

    offset  size  field
         0     4  magic         b"TPNT"
         4     1  version       1
         5     1  consistency   0 none, 1 crash, 2 file system, 3 application
         6     1  point kind    0 = full view; later: a segment of a log, on top of its parent
         7     1  reserved      zero
         8    24  features      three sets of 64 bits: ignored, needed to write, needed to read
        32    16  domain
        48    16  item          keyed hash of (machine ID, item name)
        64     8  number        parent's + 1, from 1
        72    32  parent        point ID, or zeros
       104     1  root tag      of a directory page or index; 0 for an empty root
       105    32  root ID
       137     4  generation    of the domain's ID key; a tree never mixes generations
       141     8  view time     ns since 1970, signed
       149    32  point ID      keyed BLAKE3 of bytes 0 to 148, the sealed part, and 4 zeros
       181     4  sealed length
       185     n  sealed part   one frame of kind POINT, of the point's generation: PointDetails
                                as JSON, at most 60 KiB
     185+n    64  signature     Ed25519 of all before, by the domain's signing key

Integers are little-endian; the whole has at most 64 KiB. Whoever knows the domain's public key can
check a point; only who holds the keyring can read its details or make one. `latest` is the highest
number, then the latest view time.

A point with an unknown feature that is needed to write can be read, and is no parent: what comes
after it would lose what it is about. Features that may be ignored stay in the point; they are under
its signature.
"""

import struct
from enum import IntEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from transfer.errors import FormatError, NewerFormat, UsageError
from transfer.formats import documents, frame
from transfer.formats.documents import Bytes16, Count, Label
from transfer.formats.features import FeatureBits
from transfer.formats.frame import MAX_PLAIN_OF
from transfer.formats.reference import NULL_ID, Kind, Reference, check_tag

MAX_POINT = 64 * 1024
MAX_DETAILS = MAX_PLAIN_OF[Kind.POINT]
MAX_NUMBER = 2**63 - 1
FULL_VIEW = 0
_BODY = struct.Struct("<4sBBBBQQQ16s16sQ32sB32sIq")
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
    features: FeatureBits = FeatureBits()

    @property
    def signed_part(self) -> bytes:
        return encode_body(self) + _TAIL.pack(self.point_id, len(self.sealed)) + self.sealed

    @property
    def order(self) -> tuple[int, int]:
        """`latest` is the point of an item for which this is highest."""
        return self.number, self.view_time

    def check_parent(self) -> None:
        """Raise NewerFormat if this version must not make a point that follows this one."""
        self.features.require(f"point {self.point_id.hex()[:16]}", writing=True)


class Counts(msgspec.Struct, frozen=True):
    bytes_source: Count = 0
    files: Count = 0
    entries: Count = 0
    sockets: Count = 0
    warnings: Count = 0


class Mark(msgspec.Struct, frozen=True):
    """A moment in a change source's life; only the source that made it reads the token."""

    source: Label
    epoch: str
    token: bytes
    size: Count = 0
    compared: Count = 0
    """When the stream was last read as a whole, ns since 1970."""


class PointDetails(msgspec.Struct, frozen=True):
    item: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
    machine: str
    machine_id: Bytes16
    paths: list[bytes]
    tool: str
    counts: Counts
    marks: list[Mark] = []


def encode_details(details: PointDetails) -> bytes:
    """Raises UsageError if the point would be too large, ValueError for fields beyond limits."""
    raw = documents.encode(details)
    if len(raw) > MAX_DETAILS:
        raise UsageError(
            f"paths and marks of one point take {len(raw)} bytes, and may take {MAX_DETAILS}",
            "name fewer or shorter PATHs, or make several items of them",
        )
    return raw


def decode_details(raw: bytes) -> PointDetails:
    """Raises FormatError."""
    return documents.decode(raw, PointDetails, "a recovery point's sealed part")


def encode_body(point: Point) -> bytes:
    """The bytes that the point's ID covers, together with the sealed part."""
    # struct would silently pad or cut bytes of another length.
    if (len(point.domain), len(point.item), len(point.parent)) != (16, 16, 32):
        raise ValueError("a point needs a domain and an item of 16 bytes, and a parent of 32")
    tag, root = (0, NULL_ID) if point.root is None else point.root
    return _BODY.pack(
        b"TPNT", 1, point.consistency, FULL_VIEW, 0, *point.features, point.domain, point.item,
        point.number, point.parent, tag, root, point.generation, point.view_time,
    )  # fmt: skip


def encode(point: Point) -> bytes:
    return point.signed_part + point.signature


def decode(record: bytes) -> Point:
    """Raises FormatError, NewerFormat; whether the signature holds is the caller's to ask."""
    if not _SEALED_AT + SIGNATURE_SIZE <= len(record) <= MAX_POINT:
        raise FormatError(f"no recovery point has {len(record)} bytes")
    (magic, version, consistency, kind, reserved, ignored, write, read, domain, item, number,
     parent, tag, root, generation, view_time) = _BODY.unpack_from(record)  # fmt: skip
    if magic != b"TPNT":
        raise FormatError("not a recovery point")
    if version != 1 or kind != FULL_VIEW:
        raise NewerFormat(
            f"a recovery point of version {version}, kind {kind}", "use a newer version of transfer"
        )
    features = FeatureBits(ignored, write, read)
    features.require("a recovery point", writing=False)
    point_id, length = _TAIL.unpack_from(record, BODY_SIZE)
    if len(record) != _SEALED_AT + length + SIGNATURE_SIZE or reserved or consistency > 3:
        raise FormatError("a recovery point is cut short or beyond the limits")
    point = Point(
        domain, item, number, parent, _root(tag, root), generation, view_time,
        Consistency(consistency), point_id, record[_SEALED_AT : _SEALED_AT + length],
        record[-SIGNATURE_SIZE:], features,
    )  # fmt: skip
    _check(point)
    return point


def _root(tag: int, id: bytes) -> Reference | None:
    if not tag and id == NULL_ID:
        return None
    check_tag(tag)
    root = Reference(tag, id)
    if root.kind not in (Kind.PAGE, Kind.INDEX) or id == NULL_ID:
        raise FormatError("a recovery point's root is no directory page or index")
    return root


def _check(point: Point) -> None:
    if (
        not 1 <= point.number <= MAX_NUMBER
        or (point.number == 1 and point.parent != NULL_ID)
        or point.point_id == NULL_ID
        or not point.generation
    ):
        raise FormatError("a recovery point beyond the limits")
    found = frame.decode(point.sealed)
    if found is None or found[1] != len(point.sealed):
        raise FormatError("a recovery point's sealed part is not one whole frame")
    header = found[0].header
    if (header.kind, header.generation) != (Kind.POINT, point.generation):
        raise FormatError("a recovery point's sealed part is of another kind or generation")
