"""Stream: a hash tree over a run of bytes, and the descriptor that refers to it.

Blocks are named 256 to a leaf (level 1), nodes 256 to the next level, up to one root. A stream of
one block has the block as its root; one of zeros only has no root. The descriptor (length, block
size, cut, root) stands in the sealed entry that owns the stream, so no root can be paired with
another length. Depth follows from length and block size.

A node's plaintext:

    size         field
       2         slots       1 to 256; fewer than 256 only at the end of the stream
       (n+7)/8   bitmap      bit i % 8 of byte i / 8: slot i has a child; else all zeros
       1 each    places      for each such slot: place of its child in the clear child list

The clear list is sorted and without duplicates, so order and repetition stand here alone. Each of
its references has a place, and a node without children is null: it is never stored.

A descriptor, in an entry's field:

    size  field
       8  length      of the stream, below 2^63
       1  block size  as a power of two, 16 to 22
       1  cut         1 = fixed
       2  root        its place in the page's child list, from 1; 0 = all zeros
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from transfer.errors import FormatError, NewerFormat
from transfer.formats.frame import decode_children
from transfer.formats.reference import Buffer, Kind, Reference, tag_of

FANOUT = 256
MIN_BLOCK, DEFAULT_BLOCK, MAX_BLOCK = 2**16, 2**20, 2**22
MAX_LENGTH = 2**63 - 1
FIXED = 1  # the only cut so far
_DESCRIPTOR = struct.Struct("<QBBH")
DESCRIPTOR_SIZE = _DESCRIPTOR.size
Slots = tuple[bytes | None, ...]


class Descriptor(NamedTuple):
    length: int
    block_size: int
    cut: int
    root: Reference | None


def block_count(length: int, block_size: int) -> int:
    return -(-length // block_size)


def depth(length: int, block_size: int) -> int:
    """How many levels of nodes stand above the blocks; 0 when the root is a block."""
    blocks, levels = block_count(length, block_size), 0
    while blocks > 1:
        blocks, levels = -(-blocks // FANOUT), levels + 1
    return levels


def root_tag(length: int, block_size: int) -> int:
    levels = depth(length, block_size)
    return tag_of(Kind.STREAM, levels) if levels else tag_of(Kind.DATA)


def slot_count(length: int, block_size: int, level: int, index: int) -> int:
    """How many slots node *index* of *level* has."""
    below = block_count(length, block_size)
    for _ in range(level - 1):
        below = -(-below // FANOUT)
    return min(FANOUT, below - index * FANOUT)


def child_tag(level: int) -> int:
    return tag_of(Kind.STREAM, level - 1) if level > 1 else tag_of(Kind.DATA)


def encode_node(level: int, slots: Sequence[bytes | None]) -> tuple[bytes, bytes]:
    """(plaintext, child list) of a node whose slots hold these IDs."""
    if not 1 <= len(slots) <= FANOUT or not any(slots):
        raise ValueError(f"a node has 1 to {FANOUT} slots, and not only null ones")
    tag = bytes((child_tag(level),))
    ids = sorted({id for id in slots if id is not None})
    place = {id: number for number, id in enumerate(ids)}
    bitmap = sum(1 << number for number, id in enumerate(slots) if id is not None)
    places = bytes(place[id] for id in slots if id is not None)
    plain = len(slots).to_bytes(2, "little") + bitmap.to_bytes((len(slots) + 7) // 8, "little")
    return plain + places, b"".join(tag + id for id in ids)


def decode_node(level: int, plain: Buffer, children: bytes, expected: int) -> Slots:
    """The IDs in a node's *expected* slots; raises FormatError for anything not canonical."""
    raw, references = bytes(plain), decode_children(tag_of(Kind.STREAM, level), children)
    bitmap_end = 2 + (expected + 7) // 8
    bitmap = int.from_bytes(raw[2:bitmap_end], "little")
    places = raw[bitmap_end:]
    if (
        int.from_bytes(raw[:2], "little") != expected
        or bitmap >> expected
        or bitmap.bit_count() != len(places)
        or set(places) != set(range(len(references)))
    ):
        raise FormatError(f"a stream node of level {level} does not fit its place")
    ids = [reference.id for reference in references]
    following = map(ids.__getitem__, places)
    if len(places) == expected:
        return tuple(following)
    bits = f"{bitmap:0{expected}b}"  # the last slot's first
    return tuple([next(following) if bit == "1" else None for bit in reversed(bits)])


def encode_descriptor(descriptor: Descriptor, slot: int) -> bytes:
    check_descriptor(descriptor)
    length, block_size, cut, _ = descriptor
    return _DESCRIPTOR.pack(length, block_size.bit_length() - 1, cut, slot)


def decode_descriptor(raw: bytes, children: Sequence[Reference]) -> Descriptor:
    """Raises FormatError, also for a root that is not in *children* or of another kind."""
    if len(raw) != DESCRIPTOR_SIZE:
        raise FormatError("a stream descriptor has another size")
    length, exponent, cut, slot = _DESCRIPTOR.unpack(raw)
    if cut > FIXED:
        raise NewerFormat(f"a stream of cut {cut}", "use a newer version of transfer")
    if slot > len(children):
        raise FormatError("a stream's root is no child of its page")
    found = Descriptor(length, 1 << exponent, cut, children[slot - 1] if slot else None)
    check_descriptor(found)
    return found


def check_descriptor(descriptor: Descriptor) -> None:
    length, block_size, cut, root = descriptor
    in_range = block_size.bit_count() == 1 and MIN_BLOCK <= block_size <= MAX_BLOCK
    if not in_range or cut != FIXED or not 0 <= length <= MAX_LENGTH:
        raise FormatError("a stream descriptor beyond the limits")
    if root is not None and (not length or root.tag != root_tag(length, block_size)):
        raise FormatError("a stream's root has another kind than its length asks for")
