"""Connections to an aiohttp server, and what each may cost before it is cut.

aiohttp waits for a request head as long as the client likes, and for ever for a client that does
not read its answer. Here connections are accepted one by one, so that TLS handshakes count too,
and one sweep over all that are open enforces the rest: no task or timer for each.

Bodies are the reader's: `read_into` holds them to the rule of a `SlowBody`, as answers are here.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Coroutine
from typing import NamedTuple, cast

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.web_protocol import _ErrInfo

from transfer.net.losses import Losses, bear_losses
from transfer.net.pacing import noticed_when_gone
from transfer.net.slow_body import READ_AHEAD, SlowBody
from transfer.net.tcp_info import info_of

_BACKLOG = 128
_LAST_SECONDS = 5.0  # for handlers whose connection is gone
_NOT_HTTP = _ErrInfo(400, ValueError("not HTTP"), "this is no request of HTTP\n")


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
    floor: int = 4096
    """Bytes a second of an answer that it takes on average, in each `window`."""
    window: float = 300
    per_address: int = 512
    """Of the connections: no single address locks all others out."""


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
        self._addresses: Counter[str] = Counter()
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
        if connection in self._open:
            self._open.discard(connection)
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]
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
                client, (address, *_) = await loop.sock_accept(listener)
            except OSError as error:
                # The client has gone again; or we are out of descriptors, and some may come back.
                await asyncio.sleep(0 if isinstance(error, ConnectionError) else 1)
                continue
            if self._has_room_for(address):
                noticed_when_gone(client)
                self._spawn(self._welcome(client, context, address))
            else:
                self.refused += 1
                client.close()

    def _has_room_for(self, address: str) -> bool:
        limits = self.limits
        return (
            len(self._open) < limits.connections and self._addresses[address] < limits.per_address
        )

    async def _welcome(
        self, client: socket.socket, context: ssl.SSLContext | None, address: str
    ) -> None:
        loop = asyncio.get_running_loop()
        assert self._runner.server is not None
        connection = _Connection(self, self._runner.server, loop, address)
        timeout = None if context is None else self.limits.head
        self._open.add(connection)
        self._addresses[address] += 1
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
            for connection in self._open:
                connection.look_for_losses()
            for connection in [each for each in self._open if each.overdue(loop.time())]:
                self.cut += 1
                connection.abort()


class _Connection(web.RequestHandler):
    """One client's connection, from its acceptance to the moment when its socket is closed."""

    def __init__(
        self, owner: Connections, server: web.Server, loop: asyncio.AbstractEventLoop,
        address: str,
    ) -> None:  # fmt: skip
        limits = owner.limits
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle,
            read_bufsize=READ_AHEAD,
            auto_decompress=False,  # a few bytes would become as many as the client likes
        )
        self._owner, self._limits, self.address = owner, limits, address
        self._wire: asyncio.Transport | None = None
        self._head_began: float | None = loop.time()
        self._sent = (0, 0)  # acknowledged, and not yet given to the system
        self._taking: SlowBody | None = None  # of an answer that waits for its client
        self._malformed, self._losses = False, Losses()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # aiohttp forgets its transport when it closes it; this one is still to be aborted.
        self._wire = cast(asyncio.Transport, transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._owner.left(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._malformed:
            return  # its answer is the connection's last
        heads = self._request_count
        super().data_received(data)
        if self._upgraded:
            self.abort()  # to nothing that we speak; aiohttp would keep all that follows
        elif self._request_count > heads:
            self._head_began = None
            self._quote_nothing()
        elif data and self._head_began is None and self._between_requests():
            self._head_began = self._loop.time()
            self.keep_alive(True)  # not idle any more: ends aiohttp's timer

    def _quote_nothing(self) -> None:
        """aiohttp keeps a copy of what it could not read: up to a megabyte for each read of the
        loop, for as long as the request before it lasts.
        """
        if isinstance(self._messages[-1][0], _ErrInfo):
            self._malformed = True
            self._messages[-1] = (_NOT_HTTP, EMPTY_PAYLOAD)

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
        sent, before = (_acknowledged(self._wire), unsent), self._sent
        self._sent = sent
        if not (unsent or self._wire.is_closing()):
            self._taking = None
            return False
        if self._taking is None:
            limits = self._limits
            self._taking = SlowBody(self._loop.time, limits.stalled, limits.floor, limits.window)
        if sent != before:
            self._taking.received(sent[0] - before[0])
        return self._taking.left() <= 0

    def look_for_losses(self) -> None:
        """Of answers, which may be a restore's."""
        if self._wire is None or not self._wire.get_write_buffer_size():
            return
        wire = self._wire.get_extra_info("socket")
        info = info_of(wire)
        if info is not None and self._losses.seen(info.traffic, info.round_trip):
            bear_losses(wire)

    def abort(self) -> None:
        """Close without the client's help: nothing more is sent, and no answer awaited."""
        if self._wire is not None:
            self._wire.abort()


def _acknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the client's TCP has acknowledged; 0 where the system does not tell.

    What waits in the transport moves in steps of megabytes: a socket becomes writable again when
    a third of the kernel's buffer is free, and a throttled client takes minutes for that.
    """
    info = info_of(transport.get_extra_info("socket"))
    return 0 if info is None else info.traffic.sent


async def _listen(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    listener.setblocking(False)
    return listener
