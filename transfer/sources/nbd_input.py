"""What comes from a server, given out to a parser in the portions that it asks for.

A parser is a generator. It yields the number of bytes that it needs and is sent them, or it yields
a `Fill`, and goes on when those bytes are where they belong, or `IN_CLEAR_NO_MORE`, and goes on
when TLS has begun. Whoever receives asks for a buffer, puts bytes in, and says how many: what
belongs into a `Fill` goes there without a copy, but for what came along with a header.
"""

from collections.abc import Generator
from typing import Final, TypeVar

from transfer.errors import ProtocolBroken

T = TypeVar("T")
ROOM = 8 * 2**10
"""The most bytes that a parser may ask for at a time."""


class Fill:
    """The next *left* bytes go to *view*, which is as long; if that is taken away, nowhere."""

    def __init__(self, view: memoryview | None, left: int) -> None:
        self.view, self.left = view, left

    def took(self, count: int) -> None:
        self.left -= count
        self.view = self.view[count:] if self.view is not None else None


class _Secured:
    pass


IN_CLEAR_NO_MORE: Final = _Secured()
Want = int | Fill | _Secured
Parser = Generator[Want, bytes, T]


class Input:
    """Feeds *parser*. Memory: ROOM, besides what the parser has."""

    def __init__(self, parser: Parser[None]) -> None:
        self._parser = parser
        self._room = memoryview(bytearray(ROOM))
        self._start = self._end = 0  # of what is in the room
        self._want = next(parser)

    def buffer(self) -> memoryview:
        """Where the next bytes go: never empty, and good until anything else is called."""
        want = self._want
        if isinstance(want, Fill):  # and the room is empty
            return self._room[: want.left] if want.view is None else want.view
        if self._start:
            self._room[: self._end - self._start] = self._room[self._start : self._end]
            self._start, self._end = 0, self._end - self._start
        return self._room[self._end :]

    def received(self, count: int) -> None:
        """*count* bytes are in the buffer. Raises what the parser raises."""
        if isinstance(self._want, Fill):
            self._want.took(count)
        else:
            self._end += count
        while (answer := self._answer()) is not None:
            self._want = self._parser.send(answer)

    @property
    def waits_for_tls(self) -> bool:
        return isinstance(self._want, _Secured)

    def secured(self) -> None:
        """TLS has begun."""
        if self.waits_for_tls:
            self._want = self._parser.send(b"")

    def _answer(self) -> bytes | None:
        """What the parser wanted; None while it is not there."""
        want, at = self._want, self._start
        if isinstance(want, _Secured):
            if at != self._end:
                # Whoever put it there is not who TLS will show, and wants it to look as if.
                raise ProtocolBroken("it says more in the clear after it agreed to TLS")
            return None
        if isinstance(want, Fill):
            count = min(want.left, self._end - at)
            if want.view is not None:
                want.view[:count] = self._room[at : at + count]
            want.took(count)
            self._start += count
            return None if want.left else b""
        if self._end - at < want:
            return None
        self._start += want
        return bytes(self._room[at : at + want])
