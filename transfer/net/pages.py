"""Pages for bodies, used again: new ones cost more CPU than all that is done with the bytes."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = 32 * 2**20
_LEAST = 2**16


class Pages:
    """Memory in pages of the system, of which at most *kept* bytes wait for their next user."""

    def __init__(self, kept: int = KEPT) -> None:
        self._most = kept
        self._idle: list[mmap.mmap] = []  # the one that waits longest first

    @property
    def idle(self) -> int:
        """Bytes that nobody uses."""
        return sum(map(len, self._idle))

    @contextmanager
    def lent(self, size: int) -> Iterator[memoryview]:
        """*size* bytes, whatever they hold. Raises MemoryError.

        Of a view that somebody kept the memory is not lent again.
        """
        pages = self._taken(size)
        try:
            with memoryview(pages) as whole, whole[:size] as part:
                yield part
        finally:
            if not _is_viewed(pages):
                self._keep(pages)

    def _taken(self, size: int) -> mmap.mmap:
        fitting = [each for each in self._idle if len(each) >= size]
        if fitting:
            found = min(fitting, key=len)
            self._idle = [each for each in self._idle if each is not found]
            return found
        try:
            # Filled page by page: of what is rounded up nothing is taken before it is used.
            length = max(_LEAST, 1 << (size - 1).bit_length())
            return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise MemoryError from error

    def _keep(self, pages: mmap.mmap) -> None:
        self._idle.append(pages)
        while self.idle > self._most:
            self._idle.pop(0).close()


def _is_viewed(pages: mmap.mmap) -> bool:
    """An error on its way may hold the frame that holds a view, and for long."""
    try:
        pages.resize(len(pages))  # does nothing, but tells
    except (BufferError, SystemError):
        return True
    return False
