"""Writing a file forward, around the page cache.

    append -> an aligned buffer -> whole sectors, straight to the disk
    flush  -> what is left of a sector, through the page cache

The file has at each moment only bytes that were appended, and after `flush` all of them.
"""

import os
from pathlib import Path

from transfer.files.direct import SECTOR, DirectWriter, write_all
from transfer.vault.durable import create


class ForwardFile:
    """A new file at *path*; without *room*, all of it goes through the page cache.

    *room* (see `aligned_room`) may be lent to several files: between `flush` and the next `append`
    it is nobody's. All methods raise OSError.
    """

    def __init__(self, path: Path, room: memoryview | None = None) -> None:
        self.descriptor = create(path)
        self.length = 0
        direct = None if room is None else DirectWriter(self.descriptor)
        self._direct = direct if direct is not None and direct.possible else None
        self._room = memoryview(bytearray()) if room is None else room
        self._base = 0  # where in the file the room's first byte belongs
        self._rest = b""  # what is there already of the sector that begins at the base

    def append(self, raw: bytes | memoryview) -> None:
        """Put *raw* behind all else; it may wait in memory until `flush`."""
        if self._direct is None:
            write_all(self.descriptor, raw, self.length)
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
                self._write_sectors(self._direct)

    def flush(self) -> None:
        """Hand the system all that was appended; it is not durable by that."""
        if self._direct is None:
            return
        self._take_room()
        self._write_sectors(self._direct)
        self._rest = bytes(self._room[: self.length - self._base])
        write_all(self.descriptor, self._rest, self._base)

    def close(self) -> None:
        os.close(self.descriptor)
        if self._direct is not None:
            self._direct.close()

    def _take_room(self) -> None:
        self._room[: len(self._rest)] = self._rest
        self._rest = b""

    def _write_sectors(self, direct: DirectWriter) -> None:
        filled = self.length - self._base
        whole = filled // SECTOR * SECTOR
        direct.write(self._room[:whole], self._base)
        self._room[: filled - whole] = self._room[whole:filled]
        self._base += whole
