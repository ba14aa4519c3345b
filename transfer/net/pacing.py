"""Pacing: what a byte costs on the wire, and socket buffers that follow the limit.

A limit above large buffers bursts below them. So the kernel's are made as small as the rate allows,
and it spreads what it is given: the limiter stays the authority, the kernel only smooths. Kernel
TCP paces itself since Linux 4.13, without any queueing discipline. Nothing here is needed for the
limit to hold on average, and where the system has no such option it is left out.
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from weakref import WeakSet

# Of linux/socket.h and linux/tcp.h; Python has no names for them.
_SO_MAX_PACING_RATE = 47
_TCP_NOTSENT_LOWAT = 25
_UNLIMITED = 2**32 - 1
_RECORD, _RECORD_OVERHEAD = 16 * 1024, 22  # TLS 1.3: header 5, content type 1, tag 16
_SLOW, _QUICK = 2**20, 16 * 2**20  # bytes a second
_ENOUGH = 64 * 2**20  # what one connection does
_MORE, _MUCH_MORE = 1.05, 1.08
_HEADROOM = 1.1  # of the kernel's pace over a connection's share: it must not be the limit
_AHEAD = 0.05  # seconds of a connection's share that may wait in the kernel
_BUFFERED, _MOST_AHEAD = 0.005, 64 * 1024  # seconds of the rate, and bytes
_LEAST_UNSENT, _MOST_UNSENT, _MOST_SENT = 4096, 128 * 1024, 512 * 1024
# A window below a segment or two, which on loopback has 64 KiB, is opened in steps of timers.
_LEAST_RECEIVED, _MOST_RECEIVED = 64 * 1024, 6 * 2**20


def read_ahead(rate: int | None) -> int:
    """Bytes of an answer that wait for their reader, in each of the buffers on the way."""
    if rate is None:
        return _MOST_AHEAD
    return int(min(max(rate * _BUFFERED, _LEAST_UNSENT), _MOST_AHEAD))


def on_wire(size: int) -> int:
    """Bytes that TCP carries for *size* bytes given to TLS at once."""
    return size + _RECORD_OVERHEAD * -(-size // _RECORD)


def pace(sender: socket.socket, rate: int | None) -> None:
    """The kernel spreads what *sender* sends, at *rate* bytes a second; None is as fast as it can.

    An option that is not there, or a socket that was closed, is no failure.
    """
    with suppress(OSError):
        value = _UNLIMITED if rate is None else min(max(rate, 1), _UNLIMITED - 1)
        sender.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, value.to_bytes(4, "little"))


def receivers(rate: int | None, connections: int) -> int:
    """How many answers are read at once at *rate* bytes a second.

    What an answer brings before its reader slows it down waits in buffers, a few hundred KiB of
    it, and comes on top of the limit. So there is one; where that is little there are two, of
    which one goes on while the next begins, and more where two connections would not do.
    """
    if rate is None:
        return connections
    return 1 if rate < _QUICK else min(connections + 1, max(2, -(-rate // _ENOUGH)))


def pace_of_each(rate: int, number: int) -> int:
    """For the sender of one of *number* answers, in bytes a second: each two bring all of *rate*.

    A little more than its share makes up for the time between two answers. Where a second brings
    less than the buffers on the way hold, all of them would be filled with that little.
    """
    if rate < _SLOW:
        return rate
    return int(rate * (_MORE if rate < _QUICK else _MUCH_MORE) / max(1, number / 2))


class Turns:
    """At most so many at a time as a number says that may change meanwhile; in order of coming."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most, self._active = most, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.look()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._active -= 1
            self.look()

    def look(self) -> None:
        """Let come who may: after each end, and after a change of the number."""
        while self._waiting and self._active < self._most():
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._active += 1


class Sockets:
    """The client's sockets of one transport, shaped by its limits."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._made: WeakSet[socket.socket] = WeakSet()
        self._up: int | None = None
        self._down: int | None = None
        self._was_limited = False

    def add(self, made: socket.socket) -> None:
        """Before it connects: only then the receive window can be bounded."""
        self._made.add(made)
        self._shape(made)

    def follow(self, up: int | None, down: int | None) -> None:
        """New limits, in bytes a second; those of receiving are for connections to come."""
        if (up, down) == (self._up, self._down):
            return
        self._was_limited = self._up is not None
        self._up, self._down = up, down
        for each in list(self._made):
            self._shape(each)

    def _shape(self, each: socket.socket) -> None:
        with suppress(OSError):
            if self._up is not None:
                ahead = self._up / self._connections * _AHEAD
                unsent = int(min(max(ahead, _LEAST_UNSENT), _MOST_UNSENT))
                each.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, unsent)
                buffer = min(4 * unsent, _MOST_SENT)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            elif self._was_limited:
                # The system's own growing of it is off for good, for connections that are there.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_RECEIVED)
            if self._down is not None:
                ahead = self._down / self._connections * _AHEAD
                buffer = int(min(max(ahead, _LEAST_RECEIVED), _MOST_RECEIVED))
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        # Of a slow rate the limiter's grants are smooth by themselves, and the kernel would hold a
        # packet back for as long as the rate was when it came: after a pause, for ever.
        slow = self._up is None or self._up < _SLOW
        pace(each, None if slow else int((self._up or 0) * _HEADROOM))
