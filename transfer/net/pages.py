"""Memory for bodies, used again: new pages cost more CPU than all that is done with the bytes."""

from collections.abc import Iterator
from contextlib import contextmanager

KEPT = 32 * 2**20
_LEAST = 2**16


class Pages:
    """Memory, of which at most *kept* bytes wait for their next user."""

    def __init__(self, kept: int = KEPT) -> None:
        self._most = kept
        self._idle: list[bytearray] = []  # the one that waits longest first

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

    def _taken(self, size: int) -> bytearray:
        fitting = [each for each in self._idle if len(each) >= size]
        if fitting:
            found = min(fitting, key=len)
            self._idle = [each for each in self._idle if each is not found]
            return found
        # Of what is rounded up the system gives nothing before it is used.
        pages = bytearray(max(_LEAST, 1 << (size - 1).bit_length()) + 1)
        pages.pop()
        return pages

    def _keep(self, pages: bytearray) -> None:
        self._idle.append(pages)
        while self.idle > self._most:
            self._idle.pop(0)


def _is_viewed(pages: bytearray) -> bool:
    """An error on its way may hold the frame that holds a view, and for long."""
    try:
        pages.append(0)  # what is viewed must not move; else there is room for one more
    except BufferError:
        return True
    pages.pop()
    return False
