"""Messages: what an agent and a vault behind HTTPS say to each other. See docs/openapi.json.

Numbers that name a session, a kind or a version stand in the query, everything else in the body:

    have      n IDs of 32 bytes           answer: n bits, ID i's is bit i % 8 of byte i // 8
    frames    whole frames, back to back  answer: JSON, an outcome for each
    fetch     n references of 33 bytes    answer: the frames that are there, back to back
    damaged   n references of 33 bytes
    points    a signed point              answer: JSON; listed as JSON, one point to a line
    keyring   a keyring
    others    JSON                        answer: JSON

Bytes in JSON are base64, times are ns since 1970. Errors are `Problem`s (RFC 9457). A reader
ignores fields that it does not know, and checks the size of each before it uses one.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from transfer.errors import FormatError
from transfer.formats.documents import Bytes16, Bytes32, Count, Label, Number, Time
from transfer.formats.point import MAX_POINT
from transfer.formats.reference import (
    ID_SIZE,
    REFERENCE_SIZE,
    Buffer,
    Reference,
    check_tag,
)

VERSION = "v1"
MAX_ASKED = 8192  # IDs in one question
MAX_CONTROL = 64 * 1024  # bytes of a JSON body
MAX_PROBLEM = 512 * 1024  # bytes; it may list MAX_ASKED references
MAX_LINE = 2 * MAX_POINT
MAX_TEXT = 4096

FRAMES = "application/vnd.transfer.frames"
OCTETS = "application/octet-stream"
JSON = "application/json"
LINES = "application/jsonl"
PROBLEM = "application/problem+json"

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Der = Annotated[bytes, Meta(min_length=1, max_length=4096)]


class Announced(msgspec.Struct, frozen=True):
    """A certificate authority, and its key signed by the one before it."""

    certificate: Der
    cross: Der


class VaultView(msgspec.Struct, frozen=True):
    """The vault as one machine sees it; *domains* are those of its own that have a keyring."""

    vault: Bytes16
    incarnation: Number
    time: Time
    machine: Bytes16
    name: Label
    domain: Bytes16
    role: Label
    domains: Annotated[list[Bytes16], Meta(max_length=64)]
    authorities: Annotated[list[Announced], Meta(max_length=16)] = []


class NewSession(msgspec.Struct, frozen=True):
    domain: Bytes16
    item: Bytes16 | None = None
    owner: Annotated[bytes, Meta(max_length=64)] = b""
    resume: Number | None = None


class Session(msgspec.Struct, frozen=True):
    number: Number
    fence: Number
    keyring_version: Count
    incarnation: Number


class Outcomes(msgspec.Struct, frozen=True):
    """For each frame in its order: 1 stored, 2 existed, 3 rejected."""

    outcomes: Annotated[list[Annotated[int, Meta(ge=1, le=3)]], Meta(max_length=1024)]


class ListedPoint(msgspec.Struct, frozen=True):
    record: Annotated[bytes, Meta(min_length=1, max_length=MAX_POINT)]
    arrival_number: Number
    arrival_time: Time


class Committing(msgspec.Struct, frozen=True):
    """A commit that takes longer: ask there how it stands."""

    progress: Text


class Item(msgspec.Struct, frozen=True):
    """*newest* is the arrival time of its newest point."""

    item: Bytes16
    points: Number
    newest: Time


class Items(msgspec.Struct, frozen=True):
    items: list[Item]


class Register(msgspec.Struct, frozen=True):
    """*keyring* and *proof* come with a new domain; see vault/registry.py."""

    credential: Bytes16
    secret: Bytes32
    machine: Bytes16
    name: Label
    request: Der
    keyring: Annotated[bytes, Meta(max_length=32 * 1024)] | None = None
    proof: Annotated[bytes, Meta(max_length=64)] | None = None

    def __repr__(self) -> str:
        return f"<registration of {self.name} with credential {self.credential.hex()}>"


class Registered(msgspec.Struct, frozen=True):
    certificate: Der
    machine: Bytes16
    name: Label
    domain: Bytes16
    role: Label


class Renew(msgspec.Struct, frozen=True):
    request: Der


class Renewed(msgspec.Struct, frozen=True):
    certificate: Der


class Problem(msgspec.Struct, frozen=True):
    """*code* is stable; the rest is for people. *references* are those that a commit misses."""

    status: int
    code: Annotated[str, Meta(max_length=64)]
    detail: Text
    title: Text = ""
    type: Text = "about:blank"
    hint: Text = ""
    references: bytes = b""
    more: bool = False


def encode_ids(ids: Sequence[bytes]) -> bytes:
    return b"".join(ids)


def decode_ids(raw: Buffer) -> list[bytes]:
    """Raises FormatError for more than MAX_ASKED, and for an ID that is cut short."""
    return _pieces(raw, ID_SIZE, MAX_ASKED)


def encode_asked(references: Iterable[Reference]) -> bytes:
    """In the order asked; a child list is another thing (see reference.py)."""
    return b"".join(bytes((tag,)) + id for tag, id in references)


def decode_asked(raw: Buffer, limit: int = MAX_ASKED) -> list[Reference]:
    """Raises FormatError for more than *limit*, one that is cut short, and an unknown kind."""
    pieces = _pieces(raw, REFERENCE_SIZE, limit)
    for tag in {piece[0] for piece in pieces}:
        check_tag(tag)
    return [Reference(piece[0], piece[1:]) for piece in pieces]


def _pieces(raw: Buffer, size: int, limit: int) -> list[bytes]:
    whole = bytes(raw)
    if len(whole) % size or len(whole) > limit * size:
        raise FormatError(
            f"a list of {len(whole)} bytes; at most {limit} of {size} bytes are taken"
        )
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def encode_bitmap(answers: Sequence[bool]) -> bytes:
    raw = bytearray((len(answers) + 7) // 8)
    for number, answer in enumerate(answers):
        raw[number >> 3] |= answer << (number & 7)
    return bytes(raw)


def decode_bitmap(raw: bytes, count: int) -> list[bool]:
    """Raises FormatError for another number of answers than *count*."""
    if len(raw) != (count + 7) // 8:
        raise FormatError(f"{len(raw)} bytes do not answer {count} questions")
    return [bool(raw[number >> 3] >> (number & 7) & 1) for number in range(count)]
