"""Around the page cache: whole sectors between a disk and aligned memory (O_DIRECT).

What is written or read once, in large pieces, costs more CPU in the page cache than all else that
is done with it, and pushes out what others read. Where a file system has no O_DIRECT the page cache
does it.
"""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transfer.files.metadata import anchored

SECTOR = 4096  # bytes; a multiple of what any disk of today wants offsets and lengths to be
_DIRECT = getattr(os, "O_DIRECT", 0)  # without it: as others, through the page cache


def aligned_room(size: int) -> memoryview:
    """Memory of our own that begins with a page, as O_DIRECT wants it."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def write_all(descriptor: int, raw: bytes | memoryview, offset: int) -> None:
    """Write all of *raw* at *offset*, however often the system has to be told. Raises OSError."""
    view = memoryview(raw)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def opened_to_read(path: Path, direct: bool) -> Iterator[int]:
    """A descriptor; a *direct* one reads whole sectors. Raises OSError, also where it cannot."""
    around = _DIRECT if direct else 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | around)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class DirectWriter:
    """A second way into the file that *descriptor* has open for writing.

    Not *possible* where the file system does not open files so.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        try:
            flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | _DIRECT
            self._direct = os.open(anchored(descriptor), flags)
        except OSError:
            self._direct = -1

    @property
    def possible(self) -> bool:
        return self._direct >= 0

    def write(self, sectors: memoryview, offset: int) -> None:
        """Whole *sectors* in aligned memory, to an aligned *offset*. Raises OSError."""
        try:
            if self.possible:
                return write_all(self._direct, sectors, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:  # opened so, and cannot
                raise
        write_all(self._descriptor, sectors, offset)

    def close(self) -> None:
        if self.possible:
            os.close(self._direct)
            self._direct = -1
