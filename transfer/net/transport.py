"""Transport: one HTTPS call to a vault, its errors as ours, and the same call again when it broke.

Every call of a vault may be made twice, so a connection that breaks costs a repetition and nothing
else. Calls that carry data share N connections; the few small ones that hold a session up have two
of their own, for they must never queue behind gigabytes.
"""

import asyncio
import math
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import aiohttp

from transfer import __version__
from transfer.errors import FormatError, VaultUnavailable
from transfer.formats.messages import MAX_CONTROL, MAX_PROBLEM, OCTETS
from transfer.formats.reference import Buffer
from transfer.net import problems
from transfer.net.broken import translated
from transfer.net.pacing import (
    Sockets,
    Turns,
    noticed_when_gone,
    on_wire,
    pace_of,
    read_ahead,
    slice_of,
)
from transfer.net.tcp_info import Traffic
from transfer.net.waits import Waits
from transfer.policy import backoff
from transfer.policy.concurrency import MOST, START
from transfer.throttle.dispatch import DIRECTIONS, ClassName, Direction
from transfer.throttle.flow import Flow
from transfer.throttle.throttle import Throttle

T = TypeVar("T")
PATIENCE = 30.0  # seconds for which a call that breaks is made again
_LESS = {429, 503}  # a vault that wants fewer calls
_SILENCE = 300.0  # seconds that a vault may take to answer
_CONNECT = 15.0
_CONTROL_CONNECTIONS = 2
_STALLED = 20.0  # seconds without a grant; a vault hangs up after 60
_CONTROL_BODY = 4096  # bytes of a control answer that come at once
_HEAD = 400  # bytes of a request's or an answer's head, about
Query = Mapping[str, str | int]


class Limits(NamedTuple):
    """What one run may use of the network, in both directions."""

    throttle: Throttle
    up: Flow
    down: Flow
    waits: Waits

    @classmethod
    def of(cls, throttle: Throttle, name: ClassName) -> "Limits":
        return cls(throttle, throttle.flow("up", name), throttle.flow("down", name), Waits())


@dataclass
class Trouble:
    """Of calls that carry data; also of the others those that broke, or that came too many."""

    calls: int = 0
    failures: int = 0
    refusals: int = 0


class Stalled(VaultUnavailable):
    """Nothing was granted to *flow* for so long that the other side would hang up: a pause.

    The request was broken off; what arrived whole counts, and the rest goes on after the pause.
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__("the transfer is paused", "`transfer throttle resume` ends a pause")
        self.flow = flow


class Request(NamedTuple):
    """*limit* is the size of the largest answer that is taken; *control* goes before bulk.

    *carries* is the direction in which its data goes: it begins when the limit has room for it.
    """

    method: str
    path: str
    query: Query = MappingProxyType({})
    body: Buffer = b""
    content_type: str = OCTETS
    control: bool = False
    carries: Direction | None = None
    limit: int = MAX_CONTROL


class Transport:
    """Calls to the vault at *url*, whose certificate has the name *server*."""

    def __init__(
        self, url: str, server: str, context: ssl.SSLContext, *,
        connections: int | None = None, patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        self.url, self._server, self._context = url.rstrip("/"), server, context
        self._patience, self._budget = patience, backoff.RetryBudget()
        self._connections, self.is_steered = connections or START, connections is not None
        self._sockets = Sockets(self._connections)
        self._throttles: list[Throttle] = []
        self.trouble = Trouble()
        # One more than send at a time: while one waits for its answer, which comes from a disk,
        # the next sends.
        self._calling = Turns(lambda: self._connections + 1)
        self._sending = Turns(lambda: self._connections)
        self._bulk = self._session(max(MOST, self._connections) + 1)
        self._control = self._session(_CONTROL_CONNECTIONS)

    def _session(self, connections: int) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=connections, ssl=self._context, keepalive_timeout=60,
            socket_factory=self._new_socket,
        )  # fmt: skip
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE)
        return aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": f"transfer/{__version__}"},
        )  # fmt: skip

    async def close(self) -> None:
        await self._bulk.close()
        await self._control.close()

    @property
    def connections(self) -> int:
        """For calls that carry data. A new number holds at once, and breaks nothing off."""
        return self._connections

    @connections.setter
    def connections(self, number: int) -> None:
        self._connections = number
        self._sockets.share_by(number)
        self._calling.look()
        self._sending.look()

    @property
    def round_trip(self) -> float:
        """The shortest of any connection that is open, in seconds; 0.0 where nobody knows."""
        return self._sockets.round_trip()

    def look(self) -> None:
        """To be called every second or so while data moves: the line may lose packets."""
        self._sockets.look()

    @property
    def traffic(self) -> Traffic | None:
        """Of all its sockets since the start; None where the system does not tell."""
        return self._sockets.traffic()

    def _new_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        made = _socket(address)
        self._sockets.add(made)
        return made

    @contextmanager
    def following(self, throttle: Throttle) -> Iterator[None]:
        """Within the block the sockets' buffers and pace follow *throttle*, and its changes."""
        self._throttles.append(throttle)
        throttle.on_change(self._follow)
        self._follow()
        try:
            yield
        finally:
            self._throttles.remove(throttle)
            self._follow()

    def _follow(self) -> None:
        self._sockets.follow(*(self._rate(each) for each in DIRECTIONS))

    def _rate(self, direction: Direction) -> int | None:
        """Of all runs together: one without a limit must not be held back by another's."""
        rates = [throttle.rate(direction) for throttle in self._throttles]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known and len(known) == len(rates) else None

    async def call(self, request: Request, limits: Limits) -> bytes:
        """The body of the vault's answer; raises what the vault raised, or VaultUnavailable."""
        return await self.repeated(lambda: self.once(request, limits))

    async def repeated(
        self, once: Callable[[], Awaitable[T]], progress: Callable[[], int] = lambda: 0
    ) -> T:
        """Do it again while the vault is away and patience lasts; *once* must bear that.

        Patience begins with the first failure since there was *progress*, a number that grows: a
        good call may take long where the limit is low.
        """
        give_up, attempt, before = math.inf, 0, progress()
        while True:
            try:
                answer = await once()
                self._budget.succeeded()
                return answer
            except Stalled as pause:
                await pause.flow.take(1)
                give_up, attempt = math.inf, 0
                continue
            except VaultUnavailable as error:
                if progress() > before:
                    give_up, attempt, before = math.inf, 0, progress()
                delay = backoff.delay(attempt, random.random(), error.retry_after)
                if not self._budget.retry():
                    delay = max(delay, backoff.CAP)  # slower, and for as long as was asked for
                give_up = min(give_up, time.monotonic() + self._patience)
                if time.monotonic() + delay > give_up:
                    raise
            attempt += 1
            await asyncio.sleep(delay)

    async def once(self, request: Request, limits: Limits) -> bytes:
        async with self.answer(request, limits) as response:
            return await _read(response, request.limit, limits.down, request.control)

    async def _sent(
        self, request: Request, up: Flow, turn: AsyncExitStack
    ) -> AsyncIterator[Buffer]:
        """The body; *turn* is another's once it is sent.

        aiohttp leaves this suspended when the connection breaks: its caller closes *turn* then.
        """
        if request.control:
            up.charge(on_wire(len(request.body)))
            yield request.body
            return
        async for piece in _granted(request.body, up):
            yield piece
        await turn.aclose()

    @asynccontextmanager
    async def answer(
        self, request: Request, limits: Limits
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer, its body still to be read with `pieces`; errors of both are ours."""
        session = self._control if request.control else self._bulk
        headers = {"Content-Type": request.content_type}
        if request.body:
            headers["Content-Length"] = str(len(request.body))
        turn = AsyncExitStack()
        body = self._sent(request, limits.up, turn) if request.body else None
        async with AsyncExitStack() as stack:
            if request.carries is not None:
                began = time.monotonic()
                await stack.enter_async_context(limits.throttle.admitted(request.carries))
                limits.waits.limited += time.monotonic() - began
            ahead = read_ahead(None)
            if request.carries == "down":
                ahead = read_ahead(limits.throttle.rate("down"))
            await stack.enter_async_context(turn)
            if not request.control:
                # Before it has a connection, on which a vault waits for a head half a minute only.
                began = time.monotonic()
                await stack.enter_async_context(self._calling.one())
                if request.body:
                    await turn.enter_async_context(self._sending.one())
                limits.waits.queued += time.monotonic() - began
                self.trouble.calls += 1
            limits.up.charge(on_wire(_HEAD))
            params = {name: str(value) for name, value in request.query.items()}
            if request.carries == "down" and (rate := limits.throttle.rate("down")) is not None:
                params["pace"] = str(pace_of(rate))  # as it is now, after all that it waited for
            try:
                response = await stack.enter_async_context(
                    session.request(
                        request.method, self.url + request.path,
                        params=params, data=body, headers=headers, server_hostname=self._server,
                        allow_redirects=False, read_bufsize=ahead,
                    )
                )  # fmt: skip
                _bound_reading(response, ahead)
                limits.down.charge(on_wire(_HEAD))
                self.trouble.refusals += response.status in _LESS
                if response.status >= 300:
                    raw = await _read(response, MAX_PROBLEM, limits.down, at_once=True)
                    raise problems.error_of(response.status, raw, _retry_after(response))
                yield response
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                silent = request.carries == "down" and isinstance(error, TimeoutError)
                if silent and limits.down.paused:
                    raise Stalled(limits.down) from error
                self.trouble.failures += _stalled(error) is None
                raise _stalled(error) or translated(error, self.url) from error


def _bound_reading(response: aiohttp.ClientResponse, size: int) -> None:
    """What TLS has read already waits below aiohttp, up to 512 KiB by default."""
    transport = response.connection and response.connection.transport
    if transport is not None and hasattr(transport, "set_read_buffer_limits"):
        transport.set_read_buffer_limits(high=4 * size)


async def _granted(body: Buffer, up: Flow) -> AsyncIterator[memoryview]:
    """The body in the pieces that the limiter grants, each right before it is written."""
    view = memoryview(body)
    while view:
        piece = view[: slice_of(up)]
        await _unless_stalled(up, up.take(on_wire(len(piece))))
        yield piece
        view = view[len(piece) :]


async def pieces(
    response: aiohttp.ClientResponse, down: Flow, at_once: int = 0
) -> AsyncIterator[bytes]:
    """The body as it arrives; the next piece is read once this one is paid for.

    The first *at_once* bytes wait for no grant, and bulk pays for them.
    """
    while data := await _arrived(response, down):
        if at_once > 0:
            down.charge(on_wire(len(data)))
        else:
            await _unless_stalled(down, down.spent(on_wire(len(data))))
        at_once -= len(data)
        yield data


async def _arrived(response: aiohttp.ClientResponse, down: Flow) -> bytes:
    """What has come, empty at the end. A vault that heard of a pause sends nothing meanwhile."""
    while down.limited:
        try:
            async with asyncio.timeout(_STALLED):
                return await response.content.readany()
        except TimeoutError:
            if down.paused:
                raise Stalled(down) from None
            if response.content.exception() is not None:
                raise
    return await response.content.readany()


async def _unless_stalled(flow: Flow, grant: Awaitable[None]) -> None:
    if not flow.limited:
        return await grant
    try:
        async with asyncio.timeout(_STALLED):
            await grant
    except TimeoutError:
        raise Stalled(flow) from None


async def _read(
    response: aiohttp.ClientResponse, limit: int, down: Flow, at_once: bool = False
) -> bytes:
    """The whole body. *at_once* is for control and errors, which never wait behind bulk."""
    body = bytearray()
    async for data in pieces(response, down, _CONTROL_BODY if at_once else 0):
        body += data
        if len(body) > limit:
            raise FormatError(f"an answer of more than {limit} bytes", "is this a vault?")
    return bytes(body)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 6 else None


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A peer that is gone without a word is noticed, however long its answer may take."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    noticed_when_gone(made)
    return made


def _stalled(error: BaseException | None) -> Stalled | None:
    """What a body's slices raised reaches us as the cause of a broken connection."""
    while error is not None and not isinstance(error, Stalled):
        error = error.__cause__
    return error
