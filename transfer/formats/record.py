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
       4  machine          JSON: a registered machine, with its certificates
       5  revocation       reserved
       6  policy           reserved
       7  damage           JSON: copies that are known to be bad, at most MAX_COPIES, sorted by
                           tag, ID, pack, offset, each copy once
       8  medium           reserved
       9  credential       JSON: a vault credential; of its secret the SHA-256 alone

A machine's and a credential's record are replaced, each as a whole, when they change; all others
are written once. A vault finds machine and domain, number and ID, in the record's name as well.

Integers are little-endian. Records and packs together are the vault: the catalog can be made
again from them. What the catalog alone knew would be forgotten by that, so marks of bad copies are
records too: a client's report is proof that no checksum can give again.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import Annotated, TypeVar

import msgspec
import xxhash
from msgspec import Meta

from transfer.errors import FormatError, NewerFormat, UsageError
from transfer.formats import documents
from transfer.formats.credential import CredentialKind
from transfer.formats.documents import Bytes16, Bytes32, Count, Number, Time
from transfer.formats.point import MAX_POINT
from transfer.formats.reference import NULL_ID, Reference, check_tag

MAX_BODY = 512 * 1024
MAX_COPIES = 4096
MAX_NAME = 64  # characters of a machine's name
MAX_CERTIFICATE, MAX_CERTIFICATES = 4096, 16
_HEADER = struct.Struct("<4sBB2sI16s")
HEADER_SIZE = _HEADER.size
_CHECK_AT = 12


class RecordKind(IntEnum):
    POINT = 1
    KEYRING = 2
    TOMBSTONE = 3
    MACHINE = 4
    DAMAGE = 7
    CREDENTIAL = 9


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


class CertificateState(StrEnum):
    NEW = "new"  # issued, and never seen in use: the answer may have been lost
    USED = "used"
    REVOKED = "revoked"


class IssuedCertificate(msgspec.Struct, frozen=True):
    """*number* is that of the credential that it, or what it renews, was issued for."""

    der: Annotated[bytes, Meta(min_length=1, max_length=MAX_CERTIFICATE)]
    key: Bytes32  # SHA-256 of the public key
    number: Number
    state: CertificateState


class MachineRecord(msgspec.Struct, frozen=True):
    """*certificates* stand in the order in which they were issued."""

    machine: Bytes16
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    domain: Bytes16
    role: Annotated[str, Meta(pattern=r"^(machine|reader|copier|operator)\Z")]
    registered: Time
    last_used: Time | None
    last_address: Annotated[str, Meta(max_length=64)] | None
    credential: Bytes16  # the newest with which a certificate was issued
    certificates: Annotated[
        tuple[IssuedCertificate, ...], Meta(min_length=1, max_length=MAX_CERTIFICATES)
    ]
    revoked: Time | None


class CredentialRecord(msgspec.Struct, frozen=True):
    """*number* grows with each credential of the vault; *target* is the machine that it names."""

    id: Bytes16
    secret_hash: Bytes32
    kind: CredentialKind
    target: Bytes16 | None
    number: Number
    made: Time
    expires: Time
    used_key: Bytes32 | None  # SHA-256 of the public key, where the credential is good for one
    used_by: Bytes16 | None

    @property
    def scope(self) -> tuple[CredentialKind, bytes | None]:
        """Of those of one scope the newest alone is good."""
        return self.kind, self.target


def checked_name(name: str) -> str:
    """A machine's name; MACHINE/ITEM@POINT must be read in one way only. Raises UsageError."""
    if not (1 <= len(name) <= MAX_NAME and name.isprintable()) or set(name) & set("/@"):
        raise UsageError(
            f"{name!r} is no machine name", f"1 to {MAX_NAME} printable characters without / and @"
        )
    return name


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


_Body = TypeVar("_Body", PointRecord, Tombstone, Damage, MachineRecord, CredentialRecord)


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


def encode_machine(machine: MachineRecord) -> bytes:
    _check_machine(machine)
    return encode(RecordKind.MACHINE, documents.encode(machine))


def decode_machine(raw: bytes) -> MachineRecord:
    found = _decode(raw, RecordKind.MACHINE, MachineRecord)
    _check_machine(found)
    return found


def _check_machine(machine: MachineRecord) -> None:
    try:
        checked_name(machine.name)
    except UsageError as error:
        raise FormatError(f"a machine record: {error}") from error


def encode_credential(credential: CredentialRecord) -> bytes:
    _check_credential(credential)
    return encode(RecordKind.CREDENTIAL, documents.encode(credential))


def decode_credential(raw: bytes) -> CredentialRecord:
    found = _decode(raw, RecordKind.CREDENTIAL, CredentialRecord)
    _check_credential(found)
    return found


def _check_credential(credential: CredentialRecord) -> None:
    if (credential.target is None) != (credential.kind is CredentialKind.REGISTER):
        raise FormatError("a credential record's kind and target do not go together")
    if (credential.used_key is None) != (credential.used_by is None):
        raise FormatError("a credential record is used by half")
