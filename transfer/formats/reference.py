"""Reference: what a frame holds and which one it is; how frames name each other.

    offset  size  field
         0     1  tag    kind * 16 + level
         1    32  ID     keyed BLAKE3 of child list, plaintext, and the list's length (4)

The kind stands in each reference, and each kind and level has an ID key of its own: content that
looks like a node can never take the node's place. Lists of references are sorted by these bytes,
without duplicates, and never hold the null ID.

Kinds: 1 data, 2 stream node, 3 directory page, 4 directory index, 5 point. Stream nodes and
indexes have levels 1 to MAX_LEVEL, the others level 0. A list with a later kind comes only with a
frame flag that is needed to read.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from transfer.errors import FormatError

Buffer = bytes | bytearray | memoryview  # collections.abc.Buffer is there from 3.12 only

ID_SIZE = 32
NULL_ID = bytes(ID_SIZE)
REFERENCE_SIZE = 1 + ID_SIZE
MAX_LEVEL = 10


class Kind(IntEnum):
    DATA = 1
    STREAM = 2
    PAGE = 3
    INDEX = 4
    POINT = 5


_WITH_LEVEL = (Kind.STREAM, Kind.INDEX)


class Reference(NamedTuple):
    tag: int
    id: bytes

    @property
    def kind(self) -> Kind:
        return Kind(self.tag >> 4)

    @property
    def level(self) -> int:
        return self.tag & 15

    def __str__(self) -> str:
        return f"{Kind(self.tag >> 4).name.lower()} {self.id.hex()[:16]}"


def tag_of(kind: Kind, level: int = 0) -> int:
    return kind << 4 | level


def check_tag(tag: int) -> None:
    """Raise FormatError unless *tag* is a known kind with a level that it can have."""
    kind, level = tag >> 4, tag & 15
    if kind not in Kind.__members__.values() or not (
        1 <= level <= MAX_LEVEL if kind in _WITH_LEVEL else level == 0
    ):
        raise FormatError(f"no frame has kind {kind} and level {level}")


def encode_references(references: Iterable[Reference]) -> bytes:
    """The bytes of *references*, sorted and without duplicates."""
    return b"".join(sorted({bytes((tag,)) + id for tag, id in references}))


def decode_references(buffer: Buffer) -> tuple[Reference, ...]:
    """Raise FormatError for a wrong length, disorder, a duplicate, a null ID, an unknown kind."""
    raw = bytes(buffer)
    if len(raw) % REFERENCE_SIZE:
        raise FormatError(f"a reference list of {len(raw)} bytes is cut short")
    parts = [raw[at : at + REFERENCE_SIZE] for at in range(0, len(raw), REFERENCE_SIZE)]
    if parts != sorted(distinct := set(parts)):
        raise FormatError("a reference list is out of order")
    for tag in {part[0] for part in parts}:
        check_tag(tag)
        if bytes((tag,)) + NULL_ID in distinct:
            raise FormatError("a reference list holds the null ID")
    return tuple([Reference(part[0], part[1:]) for part in parts])
