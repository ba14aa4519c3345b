"""Connections to an aiohttp server, and what each may cost before it is cut.

aiohttp waits for a request head as long as the client likes, and for ever for a client that does
not read its answer. Here connections are accepted one by one, so that TLS handshakes count too,
and one sweep over all that are open enforces the rest: no task or timer for each.

Bodies are the reader's: `read_into` holds them to the rule of a `SlowBody`.
"""

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import Callable, Coroutine
from typing import NamedTuple, cast

from aiohttp import StreamReader, web

# aiohttp stops reading a body that nobody takes at twice this and one read of the loop; with
# its default, 1,024 connections could hold half a gigabyte outside the pool of receive buffers.
READ_AHEAD = 64 * 2**10
_BACKLOG = 128
_LAST_SECONDS = 5.0  # for handlers whose connection is gone
_ACKNOWLEDGED = struct.Struct("=120xQ")  # tcpi_bytes_acked of struct tcp_info, since Linux 4.1


class Limits(NamedTuple):
    """Times in seconds."""

    connections: int = 1024
    """Open at once, handshakes included; those beyond it are closed at once."""
    head: float = 30
    """From the start of a connection, or a later request's first byte, to the end of the head."""
    idle: float = 300
    """Between two requests of a connection."""
    stalled: float = 60
    """While the client acknowledges not one byte of an answer, or does not let go of the end."""


DEFAULTS = Limits()


class Connections:
    """Serve *app* to clients that may be slow or hostile."""

    def __init__(self, app: web.Application, limits: Limits = DEFAULTS) -> None:
        self.limits = limits
        self.refused = 0
        """Connections closed because there were too many."""
        self.cut = 0
        """Connections closed because they were too slow."""
        self._runner = web.AppRunner(app)
        self._listener: socket.socket | None = None
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_closed = asyncio.Event()

    @property
    def open(self) -> int:
        return len(self._open)

    async def start(self, context: ssl.SSLContext | None, host: str, port: int) -> int:
        """Listen on *host*, with TLS if there is a context; return the port. Raises OSError."""
        self._listener = await _listen(host, port)
        await self._runner.setup()
        self._spawn(self._accept(self._listener, context))
        self._spawn(self._sweep())
        return int(self._listener.getsockname()[1])

    async def stop(self, grace: float) -> None:
        """Accept no more, let requests end within *grace* seconds, then close everything.

        Requests that have not ended see their connection break, and have _LAST_SECONDS for that.
        """
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        await self._requests_ended(within=grace)
        await self._none_open(within=1)  # the last answers are still on their way
        for connection in self._open:
            connection.abort()
        await self._none_open(within=1)
        if (server := self._runner.server) is not None:
            await server.shutdown(_LAST_SECONDS)
        await self._runner.cleanup()

    async def _requests_ended(self, within: float) -> None:
        # aiohttp's own shutdown reads no further byte of a body that is still coming.
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while True:
            for connection in self._open:
                if not connection.busy:
                    connection.force_close()
            if loop.time() >= end or not any(each.busy for each in self._open):
                return
            await asyncio.sleep(0.05)

    async def _none_open(self, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                while self._open:
                    self._last_closed.clear()
                    await self._last_closed.wait()
        except TimeoutError:
            pass

    def left(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        if not self._open:
            self._last_closed.set()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                # The client has gone again; or we are out of descriptors, and some may come back.
                await asyncio.sleep(0 if isinstance(error, ConnectionError) else 1)
                continue
            if len(self._open) < self.limits.connections:
                self._spawn(self._welcome(client, context))
            else:
                self.refused += 1
                client.close()

    async def _welcome(self, client: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        assert self._runner.server is not None
        connection = _Connection(self, self._runner.server, loop)
        timeout = None if context is None else self.limits.head
        self._open.add(connection)
        try:
            await loop.connect_accepted_socket(
                lambda: connection,
                client,
                ssl=context,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=timeout,
            )
        except BaseException as error:
            self.left(connection)
            client.close()
            # No TLS, no certificate that we know, too slow, or gone: nothing to tell anybody.
            if not isinstance(error, OSError):
                raise

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        pause = min(1.0, self.limits.head / 8, self.limits.stalled / 8)
        while True:
            await asyncio.sleep(pause)
            for connection in [each for each in self._open if each.overdue(loop.time())]:
                self.cut += 1
                connection.abort()


class _Connection(web.RequestHandler):
    """One client's connection, from its acceptance to the moment when its socket is closed."""

    def __init__(
        self, owner: Connections, server: web.Server, loop: asyncio.AbstractEventLoop
    ) -> None:
        limits = owner.limits
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle,
            read_bufsize=READ_AHEAD,
            auto_decompress=False,  # a few bytes would become as many as the client likes
        )
        self._owner, self._limits = owner, limits
        self._wire: asyncio.Transport | None = None
        self._head_began: float | None = loop.time()
        self._sent = (0, 0)
        self._sent_at = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # aiohttp forgets its transport when it closes it; this one is still to be aborted.
        self._wire = cast(asyncio.Transport, transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._owner.left(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        heads = self._request_count
        super().data_received(data)
        if self._request_count > heads:
            self._head_began = None
        elif data and self._head_began is None and self._between_requests():
            self._head_began = self._loop.time()
            self.keep_alive(True)  # not idle any more: ends aiohttp's timer

    @property
    def busy(self) -> bool:
        """Whether a request is being served."""
        return self.transport is not None and not self._between_requests()

    def _between_requests(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer, but write no traceback about a client: anybody could fill a disk with them."""
        if isinstance(exc, ConnectionError) and self._gone():
            raise exc  # the client has gone, which ends this connection and says nothing
        if status != 400:
            return super().handle_error(request, status, exc, message)
        response = web.Response(status=status, text=message)
        response.force_close()
        return response

    def _gone(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    def overdue(self, now: float) -> bool:
        """Whether this client has used up its patience; to be asked several times a limit."""
        if self._wire is None:
            return False  # the handshake has a time-out of its own
        if self._head_began is not None and now - self._head_began >= self._limits.head:
            return True
        unsent = self._wire.get_write_buffer_size()
        sent = (_acknowledged(self._wire), unsent)
        if sent != self._sent or not (unsent or self._wire.is_closing()):
            self._sent, self._sent_at = sent, now
        return now - self._sent_at >= self._limits.stalled

    def abort(self) -> None:
        """Close without the client's help: nothing more is sent, and no answer awaited."""
        if self._wire is not None:
            self._wire.abort()


def _acknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the client's TCP has acknowledged; 0 where the system does not tell.

    What waits in the transport moves in steps of megabytes: a socket becomes writable again when
    a third of the kernel's buffer is free, and a throttled client takes minutes for that.
    """
    try:
        info = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size
        )
        return int(_ACKNOWLEDGED.unpack(info)[0])
    except (OSError, AttributeError, struct.error):
        return 0


async def _listen(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    listener.setblocking(False)
    return listener


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
) -> int:
    """Fill *buffer*, and call *arrived* with the size of each piece once it is there.

    Returns how much arrived: less than the buffer when the body ends or its connection breaks.
    Raises TooSlow, and whatever *arrived* raises.
    """
    filled = 0
    while filled < len(buffer):
        # Never more than the read-ahead: aiohttp raises its bound to twice what is asked for.
        piece = await _piece(stream, min(len(buffer) - filled, READ_AHEAD), rule)
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
