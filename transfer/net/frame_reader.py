"""Whole frames out of an answer that comes in pieces of any size; each is copied once."""

from collections import deque
from collections.abc import Iterator

from transfer.errors import FormatError
from transfer.formats import frame
from transfer.formats.frame import HEADER_SIZE, Header


class FrameReader:
    """A length is believed only within the codec's limits, so no more than a frame waits here."""

    def __init__(self) -> None:
        self._pieces: deque[memoryview] = deque()
        self._size = 0
        self._header: Header | None = None  # of the frame that waits, once it is known

    def feed(self, piece: bytes) -> Iterator[tuple[Header, bytes]]:
        """The frames that *piece* completes. Raises FormatError, NewerFormat."""
        self._pieces.append(memoryview(piece))
        self._size += len(piece)
        while (header := self._head()) is not None and self._size >= header.frame_length:
            self._header = None
            yield header, self._take(header.frame_length)

    def end(self) -> None:
        """Nothing follows. Raises FormatError for the rest of a frame."""
        if self._size:
            raise FormatError("the vault's last frame is cut short")

    def _head(self) -> Header | None:
        if self._header is None and self._size >= HEADER_SIZE:
            raw = self._take(HEADER_SIZE)
            self._pieces.appendleft(memoryview(raw))
            self._size += HEADER_SIZE
            self._header = frame.decode_header(raw)
        return self._header

    def _take(self, length: int) -> bytes:
        parts: list[memoryview] = []
        self._size -= length
        while length:
            first = self._pieces.popleft()
            if len(first) > length:
                self._pieces.appendleft(first[length:])
                first = first[:length]
            parts.append(first)
            length -= len(first)
        return b"".join(parts)
