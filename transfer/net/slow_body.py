"""Slow bodies: the least that a body has to bring, and reading one that may bring less."""

import asyncio
import time
from collections.abc import Callable

from aiohttp import StreamReader, web

# aiohttp stops reading a body that nobody takes at twice this and one read of the loop; with
# its default, 1,024 connections could hold half a gigabyte outside the pool of receive buffers.
READ_AHEAD = 64 * 2**10
LARGE_PIECE = 256 * 2**10
"""For who has a receive buffer, of which there are few: each piece costs a turn of the loop."""


class TooSlow(Exception):
    """A client that sends its body too slowly; answer, and close the connection."""


class SlowBody:
    """The least that a body has to bring, from the moment when its reading begins.

    A byte every *silence* seconds, and what *floor* bytes a second make of a *window* within as
    many seconds, again and again. Memory is lent for as long as a body takes, so there is no
    mercy: a client that is throttled below this ends its request at a frame's end and comes back.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        silence: float = 60,
        floor: int = 4096,
        window: float = 300,
    ) -> None:
        self._clock, self._silence, self._window = clock, silence, window
        self._owed = self._needed = floor * window
        self._last = self._began = clock()

    def left(self) -> float:
        """Seconds until the body is cut if nothing more comes; not positive when it is now."""
        return min(self._last + self._silence, self._began + self._window) - self._clock()

    def received(self, count: int) -> None:
        self._last = self._clock()
        self._owed -= count
        if self._owed <= 0:
            self._began, self._owed = self._last, self._needed


async def read_into(
    stream: StreamReader,
    buffer: memoryview,
    rule: SlowBody,
    arrived: Callable[[int], None] = lambda count: None,
    most: int = READ_AHEAD,
) -> int:
    """Fill *buffer*, and call *arrived* with the size of each piece once it is there.

    A piece has at most *most* bytes, and aiohttp reads ahead twice that.

    Returns how much arrived: less than the buffer when the body ends or its connection breaks.
    Raises TooSlow, and whatever *arrived* raises.
    """
    filled = 0
    while filled < len(buffer):
        piece = await _piece(stream, min(len(buffer) - filled, most), rule)
        if not piece:
            break
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
        rule.received(len(piece))
        arrived(len(piece))
    return filled


async def _piece(stream: StreamReader, size: int, rule: SlowBody) -> bytes:
    try:
        async with asyncio.timeout(rule.left()) as silence:
            return await stream.read(size)
    except (OSError, web.RequestPayloadError) as error:  # a TimeoutError is an OSError
        if silence.expired():
            raise TooSlow("the body came too slowly") from error
        # The connection broke; what came before waits in the stream, which only says so.
        return stream._read_nowait(size)
