"""NBD's connection on asyncio: who asked gets the answer, and no one waits for ever."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from transfer.errors import SourceUnavailable, TransferError
from transfer.sources.nbd_address import NbdAddress
from transfer.sources.nbd_edge import (
    SHUTTING_DOWN,
    error_of,
    failure_of,
    tls_context,
    translated,
)
from transfer.sources.nbd_protocol import (
    Answered,
    Connection,
    Export,
    StartTls,
    Terms,
)

_GOODBYE = 1.0  # seconds for which the end of a connection is waited for


class Asked(NamedTuple):
    """A request that was sent; *answer* is there when all of its reply is."""

    cookie: int
    answer: asyncio.Future[Answered]


class Wire(asyncio.BufferedProtocol):
    """One connection, with at most *in_flight* requests at a time."""

    _transport: asyncio.Transport | None = None
    _error: TransferError | None = None
    _watch: asyncio.TimerHandle | None = None

    def __init__(self, address: NbdAddress, terms: Terms, in_flight: int, patience: float) -> None:
        self._address, self._patience = address, patience
        self._core = Connection(terms)
        self._loop = asyncio.get_running_loop()
        self._step: asyncio.Future[StartTls | Export] = self._loop.create_future()
        self._slots = asyncio.Semaphore(in_flight)
        self._answers: dict[int, asyncio.Future[Answered]] = {}
        self._heard = 0.0  # the loop's time
        self._gone = asyncio.Event()

    async def open(self) -> Export:
        """Connect and shake hands; what goes wrong is an error of ours."""
        with translated(self._address):
            try:
                async with asyncio.timeout(self._patience):
                    return await self._open()
            except BaseException:
                self._abort()
                raise

    async def _open(self) -> Export:
        # Authorities are read from files.
        context = await asyncio.to_thread(tls_context, self._address) if self._address.tls else None
        transport = await self._connect()
        step = await self._step
        if context is not None:
            self._step = self._loop.create_future()
            self._transport = await self._loop.start_tls(
                transport, self, context, server_hostname=self._address.server_name,
                ssl_handshake_timeout=self._patience, ssl_shutdown_timeout=_GOODBYE,
            )  # fmt: skip
            self._core.secured()
            self._send()
            step = await self._step
        return cast(Export, step)

    async def _connect(self) -> asyncio.Transport:
        if self._address.host:
            transport, _ = await self._loop.create_connection(
                lambda: self, self._address.host, self._address.port
            )
            return transport
        unix = socket.socket(socket.AF_UNIX)
        try:
            unix.setblocking(False)
            await self._loop.sock_connect(unix, self._address.socket)
            transport, _ = await self._loop.create_unix_connection(lambda: self, sock=unix)
        except BaseException:
            unix.close()
            raise
        return transport

    async def ask(self, request: Callable[[Connection], int]) -> Asked:
        """Make a *request*, whose cookie it returns, when it is its turn.

        Raises what the connection broke with.
        """
        await self._slots.acquire()
        try:
            self._check()
            idle = not self._core.in_flight
            cookie = request(self._core)
        except BaseException:
            self._slots.release()
            raise
        answer: asyncio.Future[Answered] = self._loop.create_future()
        self._answers[cookie] = answer
        self._send()
        if idle:
            self._heard = self._loop.time()
            if self._watch is None:
                self._listen()
        return Asked(cookie, answer)

    def discard(self, asked: Asked) -> None:
        """Nobody waits for the answer any more; if it is still to come, it goes nowhere."""
        self._answers.pop(asked.cookie, None)
        self._core.discard(asked.cookie)
        if not asked.answer.cancel() and not asked.answer.cancelled():
            asked.answer.exception()  # or the loop would report one that nobody looked at

    async def close(self) -> None:
        """Say goodbye, and return when the socket is closed."""
        self._fail(SourceUnavailable(f"{self._address}: the connection is closed"))
        self._part()
        if self._transport is not None:
            self._transport.close()
        try:
            async with asyncio.timeout(_GOODBYE):
                await self._gone.wait()
        except TimeoutError:
            pass
        finally:
            self._abort()

    def _check(self) -> None:
        if self._error is not None:
            raise type(self._error)(*self._error.args) from self._error

    def _send(self) -> None:
        if self._transport is not None and (said := self._core.output()):
            self._transport.write(said)

    def _part(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._core.disconnect()
            self._send()

    def _abort(self) -> None:
        self._part()
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: TransferError) -> None:
        """Everybody who waits, or comes later, is told."""
        if self._error is not None:
            return
        self._error = error
        waits: list[asyncio.Future[Any]] = [self._step, *self._answers.values()]
        for waiting in waits:
            if not waiting.done():
                waiting.set_exception(type(error)(*error.args))
        for _ in range(self._core.in_flight):
            self._slots.release()
        if self._watch is not None:
            self._watch.cancel()

    def _listen(self) -> None:
        """See to it that the server says something while anything is asked of it."""
        self._watch = None
        if self._error is not None or not self._core.in_flight:
            return
        silent = self._loop.time() - self._heard
        if silent >= self._patience:
            self._fail(error_of(self._address, TimeoutError()))
            self._abort()
        else:
            self._watch = self._loop.call_later(self._patience - silent, self._listen)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._core.buffer()

    def buffer_updated(self, count: int) -> None:
        self._heard = self._loop.time()
        try:
            events = self._core.received(count)
        except TransferError as error:
            self._fail(error_of(self._address, error))
            self._abort()
            return
        for event in events:
            if isinstance(event, Answered):
                self._settle(event)
            elif not self._step.done():
                self._step.set_result(event)
        self._send()

    def _settle(self, answered: Answered) -> None:
        self._slots.release()
        answer = self._answers.pop(answered.cookie, None)
        if answer is not None and not answer.done():
            answer.set_result(answered)
        failure = answered.failure
        if failure is not None and failure.number == SHUTTING_DOWN:
            self._fail(failure_of(self._address, "", failure))
            self._abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error_of(self._address, error or ConnectionError("the server hung up")))
        self._gone.set()
