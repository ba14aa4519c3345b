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
from weakref import WeakKeyDictionary, WeakSet

from transfer.net.losses import Losses, bear_losses
from transfer.net.tcp_info import Traffic, info_of
from transfer.policy.token_bucket import MAX_RATE
from transfer.throttle.flow import Flow

# Of linux/socket.h and linux/tcp.h; Python has no names for them.
_SO_MAX_PACING_RATE = 47
_TCP_NOTSENT_LOWAT = 25
_UNLIMITED, _ANY = 2**32 - 1, 2**31 - 1
_RECORD, _RECORD_OVERHEAD = 16 * 1024, 22  # TLS 1.3: header 5, content type 1, tag 16
_SLOW = 2**20  # bytes a second
_MORE = 1.003
_DEAD_AFTER = 60_000  # ms without an acknowledgement of the other side's TCP
_HEADROOM = 1.06  # of the kernel's pace over a connection's share: it must not be the limit
_AHEAD = 0.05  # seconds of a connection's share that may wait in the kernel unsent
_BUFFERED, _MOST_AHEAD = 0.005, 64 * 1024  # seconds of the rate, and bytes
_LEAST_UNSENT, _MOST_UNSENT = 4096, 512 * 1024
_ROUND_TRIP = 0.25  # seconds: a buffer holds what is under way for so long, else it were the limit
_LEAST_SENT = 16 * 1024
# A window below a segment or two, which on loopback has 64 KiB, is opened in steps of timers.
_LEAST_RECEIVED = 64 * 1024
# Linux lets nobody set more unless its administrator does, and grows what nobody has set to more.
_TUNED, _MOST = 208 * 1024, 6 * 2**20


def read_ahead(rate: int | None) -> int:
    """Bytes of an answer that wait for their reader, in each of the buffers on the way."""
    if rate is None:
        return _MOST_AHEAD
    return int(min(max(rate * _BUFFERED, _LEAST_UNSENT), _MOST_AHEAD))


def on_wire(size: int) -> int:
    """Bytes that TCP carries for *size* bytes given to TLS at once."""
    return size + _RECORD_OVERHEAD * -(-size // _RECORD)


def slice_of(flow: Flow) -> int:
    """The most bytes to give to TLS at once: on the wire they are one quantum of *flow*."""
    records = -(-flow.quantum // (_RECORD + _RECORD_OVERHEAD))
    return flow.quantum - records * _RECORD_OVERHEAD


def pace(sender: socket.socket, rate: int | None) -> None:
    """The kernel spreads what *sender* sends, at *rate* bytes a second; None is as fast as it can.

    An option that is not there, or a socket that was closed, is no failure.
    """
    with suppress(OSError):
        value = _UNLIMITED if rate is None else min(max(rate, 1), _UNLIMITED - 1)
        sender.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, value.to_bytes(4, "little"))


def pace_of(rate: int | None) -> int:
    """What the vault is asked for by a client that takes *rate* bytes a second.

    A little more: the client's limit shall be the one that holds, and what it lost waiting for the
    vault is made up for.
    """
    return MAX_RATE if rate is None else min(MAX_RATE, int(rate * _MORE))


def noticed_when_gone(made: socket.socket) -> None:
    """Of a peer that goes without a word its TCP says so within a minute or so."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", _DEAD_AFTER),
    ):  # fmt: skip
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
        self._traffic, self._losses = Traffic(), Losses()
        self._seen: WeakKeyDictionary[socket.socket, Traffic] = WeakKeyDictionary()
        self._bounded: dict[int, WeakSet[socket.socket]] = {
            socket.SO_SNDBUF: WeakSet(), socket.SO_RCVBUF: WeakSet(),
        }  # fmt: skip

    def add(self, made: socket.socket) -> None:
        """Before it connects: only then the receive window can be bounded."""
        self._made.add(made)
        if self._losses.are_many:
            bear_losses(made)
        self._shape(made)

    def follow(self, up: int | None, down: int | None) -> None:
        """New limits, in bytes a second; those of receiving are for connections to come."""
        if (up, down) == (self._up, self._down):
            return
        self._up, self._down = up, down
        for each in list(self._made):
            self._shape(each)

    def look(self) -> None:
        """To be called every second or so, for losses."""
        traffic = self.traffic()
        if traffic is not None and self._losses.seen(traffic, self.round_trip()):
            for each in list(self._made):
                bear_losses(each)

    def share_by(self, connections: int) -> None:
        """So many share the limits from now on."""
        self._connections = connections
        for each in list(self._made):
            self._shape(each)

    def round_trip(self) -> float:
        """The shortest, in seconds; 0.0 where nobody knows."""
        found = [info.round_trip for each in list(self._made) if (info := info_of(each))]
        return min((each for each in found if each), default=0.0)

    def traffic(self) -> Traffic | None:
        """Of all that there ever were; of one that closes, up to the last call of this."""
        for each in list(self._made):
            if (info := info_of(each)) is not None:
                before = self._seen.get(each, Traffic())
                self._traffic = self._traffic.plus(info.traffic, before)
                self._seen[each] = info.traffic
        return self._traffic if self._seen or self._traffic.sent else None

    def _shape(self, each: socket.socket) -> None:
        unsent = _ANY
        if self._up is not None:
            ahead = self._up / self._connections * _AHEAD
            unsent = int(min(max(ahead, _LEAST_UNSENT), _MOST_UNSENT))
        with suppress(OSError):
            each.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, unsent)
            self._bound(each, socket.SO_SNDBUF, self._up, _LEAST_SENT)
            self._bound(each, socket.SO_RCVBUF, self._down, _LEAST_RECEIVED)
        # Of a slow rate the limiter's grants are smooth by themselves, and the kernel would hold a
        # packet back for as long as the rate was when it came: after a pause, for ever.
        slow = self._up is None or self._up < _SLOW
        pace(each, None if slow else int((self._up or 0) * _HEADROOM))

    def _bound(self, each: socket.socket, buffer: int, rate: int | None, least: int) -> None:
        if rate == 0:
            return  # a pause: nothing is under way, and what is set now would stay
        size = _MOST
        if rate is not None:
            size = max(int(rate / self._connections * _ROUND_TRIP), least)
        if size < _TUNED:
            self._bounded[buffer].add(each)
        elif each not in self._bounded[buffer]:
            return
        # Once it was set, the system no longer grows it.
        each.setsockopt(socket.SOL_SOCKET, buffer, min(size, _MOST))
