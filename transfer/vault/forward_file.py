"""Writing a file forward, around the page cache.

    append -> an aligned buffer -> whole sectors, straight to the disk (O_DIRECT)
    flush  -> what is left of a sector, through the page cache

A copy in the page cache would cost a vault more CPU than all else that it does with a frame, and
push out what is read. The file has at each moment only bytes that were appended, and after `flush`
all of them. Where a file system has no O_DIRECT everything goes through the page cache.
"""

import errno
import mmap
import os
from pathlib import Path

from transfer.vault.durable import create, write_at

SECTOR = 4096  # bytes; a multiple of what any disk of today wants writes to be aligned to
_ROOM = 4 * 2**20
_DIRECT = getattr(os, "O_DIRECT", 0)  # without it: as others, through the page cache


def aligned_room(size: int = _ROOM) -> memoryview:
    """Memory of our own that begins with a page, as O_DIRECT wants it."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class ForwardFile:
    """A new file at *path*. All of its methods raise OSError.

    *room* may be lent to several files: between `flush` and the next `append` it is nobody's.
    """

    def __init__(self, path: Path, room: memoryview | None = None) -> None:
        self.descriptor = create(path)
        self.length = 0
        self._direct = -1 if room is None else _open_direct(path)
        self._room = memoryview(bytearray()) if room is None else room
        self._base = 0  # where in the file the room's first byte belongs
        self._rest = b""  # what is there already of the sector that begins at the base

    def append(self, raw: bytes | memoryview) -> None:
        """Put *raw* behind all else; it may wait in memory until `flush`."""
        if self._direct < 0:
            write_at(self.descriptor, raw, self.length)
            self.length += len(raw)
            return
        self._take_room()
        view = memoryview(raw)
        while view:
            at = self.length - self._base
            some, view = view[: len(self._room) - at], view[len(self._room) - at :]
            self._room[at : at + len(some)] = some
            self.length += len(some)
            if at + len(some) == len(self._room):
                self._write_sectors()

    def flush(self) -> None:
        """Hand the system all that was appended; it is not durable by that."""
        if self._direct < 0:
            return
        self._take_room()
        self._write_sectors()
        self._rest = bytes(self._room[: self.length - self._base])
        write_at(self.descriptor, self._rest, self._base)

    def close(self) -> None:
        os.close(self.descriptor)
        self._end_direct()

    def _take_room(self) -> None:
        self._room[: len(self._rest)] = self._rest
        self._rest = b""

    def _write_sectors(self) -> None:
        filled = self.length - self._base
        whole = filled // SECTOR * SECTOR
        self._write_whole(self._room[:whole])
        self._room[: filled - whole] = self._room[whole:filled]
        self._base += whole

    def _write_whole(self, sectors: memoryview) -> None:
        try:
            if self._direct >= 0:
                return write_at(self._direct, sectors, self._base)
        except OSError as error:
            if error.errno != errno.EINVAL:  # opened with O_DIRECT, and cannot
                raise
        write_at(self.descriptor, sectors, self._base)

    def _end_direct(self) -> None:
        if self._direct >= 0:
            os.close(self._direct)
            self._direct = -1


def _open_direct(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | _DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1
