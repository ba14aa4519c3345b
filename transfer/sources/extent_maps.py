"""Extent maps: where on its disk a file's bytes stand, and what two maps tell about two copies.

Linux gives a map in FIEMAP's buffers (linux/fiemap.h), integers in the machine's byte order:

    offset  size  field
         0     8  start     first byte of the file that is asked about
         8     8  length    how many are
        16     4  flags     bit 0: first write what is only in memory yet
        20     4  mapped    extents in the answer
        24     4  room      extents that fit
        28     4  reserved
        32  56 n  extents   offset 8, address 8, length 8, reserved 16, flags 4, reserved 12

Two copies that both still hold their extents have the same bytes where they have the same address:
no file system writes in place what two files hold. Where one of them has no address of its own
(its flags say so), or a flag that is not known here, that proves nothing. Holes, and extents that
were reserved and never written, read as zeros.
"""

import struct
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import chain
from typing import NamedTuple

from transfer.errors import FormatError
from transfer.formats.reference import Buffer

_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQ16xI12x")
_SYNC = 1
_END = 2**64

LAST, UNKNOWN, DELALLOC, ENCODED = 0x1, 0x2, 0x4, 0x8
DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE, DATA_TAIL = 0x80, 0x100, 0x200, 0x400
UNWRITTEN, MERGED, SHARED = 0x800, 0x1000, 0x2000
_PROVING = LAST | UNWRITTEN | MERGED | SHARED
_ABOUT_OTHERS = LAST | MERGED | SHARED  # they change without a change of this file


class Mapped(NamedTuple):
    """*length* bytes from *offset* of the file stand at the address *physical* of its disk."""

    offset: int
    length: int
    physical: int
    flags: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.length

    def within(self, start: int, end: int) -> "Mapped | None":
        """The part of it from *start* to *end*."""
        first, last = max(self.offset, start), min(self.end, end)
        if first >= last:
            return None
        return Mapped(first, last - first, self.physical + first - self.offset, self.flags)


def buffer_for(room: int) -> bytearray:
    """A buffer for calls that answer with up to *room* extents each."""
    return bytearray(_HEADER.size + room * _EXTENT.size)


def ask(buffer: bytearray, start: int, length: int, sync: bool) -> None:
    """Write a question about *length* bytes from *start* into a buffer of `buffer_for`."""
    room = (len(buffer) - _HEADER.size) // _EXTENT.size
    _HEADER.pack_into(buffer, 0, start, length, _SYNC if sync else 0, 0, room, 0)


def answered(buffer: Buffer) -> list[Mapped]:
    """The extents in an answer: ascending, disjoint, not empty, none before what was asked about.

    Raises FormatError for any other bytes.
    """
    if len(buffer) < _HEADER.size:
        raise FormatError(f"{len(buffer)} bytes are no extent map")
    start, _, _, count, _, _ = _HEADER.unpack_from(buffer)
    if len(buffer) < _HEADER.size + count * _EXTENT.size:
        raise FormatError(f"an extent map of {count} extents does not fit {len(buffer)} bytes")
    extents, at = [], 0
    for number in range(count):
        offset, physical, length, flags = _EXTENT.unpack_from(
            buffer, _HEADER.size + number * _EXTENT.size
        )
        end = offset + length
        if offset < at or length == 0 or end <= start or max(end, physical + length) > _END:
            raise FormatError(f"an extent map has {length} bytes at {offset} after {at}")
        extents.append(Mapped(offset, length, physical, flags))
        at = end
    return extents


def merged(extents: Iterable[Mapped]) -> Iterator[Mapped]:
    """The same map in as few extents as it takes, without what its flags say about other files.

    Two readings of a map that did not change are the same then, whoever else came to share it.
    """
    last: Mapped | None = None
    for extent in extents:
        extent = extent._replace(flags=extent.flags & ~_ABOUT_OTHERS)
        if last is not None and extent == last._replace(
            offset=last.end, length=extent.length, physical=last.physical + last.length
        ):
            last = last._replace(length=last.length + extent.length)
            continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last


class _Special(Enum):
    ZEROS = "zeros"
    DOUBT = "doubt"


# The address of the file's first byte if all of it stood as this run does: equal for equal bytes.
_Content = int | _Special


def changed(
    old: Iterable[Mapped], new: Iterable[Mapped], size_old: int, size_new: int
) -> Iterator[tuple[int, int]]:
    """(offset, length) of what may differ in a copy of *size_new* bytes from an older one.

    They ascend and neither overlap nor touch; what the file grew by is one of them. The maps are
    read along with it, a few extents at a time. Raises FormatError for a map that does not ascend.
    """
    size = min(size_old, size_new)
    differing = _differing(_runs(old, size), _runs(new, size), size)
    start = end = 0
    for first, last in chain(differing, [(size, size_new)]):
        if first > end:
            if end > start:
                yield start, end - start
            start = first
        end = last
    if end > start:
        yield start, end - start


def _differing(
    old: Iterator[tuple[int, _Content]], new: Iterator[tuple[int, _Content]], size: int
) -> Iterator[tuple[int, int]]:
    at = old_end = new_end = 0
    was: _Content = _Special.ZEROS
    now: _Content = _Special.ZEROS
    while at < size:
        if old_end == at:
            old_end, was = next(old)
        if new_end == at:
            new_end, now = next(new)
        end = min(old_end, new_end, size)
        if was != now or was is _Special.DOUBT:
            yield at, end
        at = end


def _runs(extents: Iterable[Mapped], size: int) -> Iterator[tuple[int, _Content]]:
    """(end, content) of one run after the other, without a gap, to *size* at least."""
    at = 0
    for extent in extents:
        if extent.offset < at:
            raise FormatError(f"an extent map goes back from {at} to {extent.offset}")
        if extent.offset > at:
            yield extent.offset, _Special.ZEROS
        at = extent.end
        yield at, _content_of(extent)
    if at < size:
        yield size, _Special.ZEROS


def _content_of(extent: Mapped) -> _Content:
    if extent.flags & ~_PROVING:
        return _Special.DOUBT
    if extent.flags & UNWRITTEN:
        return _Special.ZEROS
    return extent.physical - extent.offset
