"""NBD without an event loop: a worker process reads extents over a connection of its own.

What comes goes from the socket to the caller's buffer; only what comes along with a header, 8 KiB
of each request at the most, is copied once. Memory: 8 KiB, and for each request in flight that was
widened to the server's blocks 1 MiB.
"""

import socket
import ssl
import time
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Self

from transfer.errors import SourceUnavailable, TransferError
from transfer.sources.nbd_address import NbdAddress
from transfer.sources.nbd_edge import (
    PATIENCE,
    Part,
    error_of,
    failure_of,
    parts,
    tls_context,
    translated,
)
from transfer.sources.nbd_protocol import START_TLS, Answered, Connection, Event, Export, Terms

IN_FLIGHT = 4


class NbdReader:
    """An open connection to *export*, for one thread; with at most *in_flight* requests at a time.

    *patience* are seconds, as those of `NbdClient.connect` are; and so are the errors.
    """

    def __init__(
        self, address: NbdAddress, *, in_flight: int = IN_FLIGHT, patience: float = PATIENCE
    ) -> None:
        self.address = address
        self._in_flight, self._patience = in_flight, patience
        self._core = Connection(Terms(address.export, tls=address.tls))
        with translated(address):
            self._socket = _connect(address, patience)
            try:
                self.export = self._shake_hands(time.monotonic() + patience)
            except BaseException:
                self.close()
                raise

    @property
    def size(self) -> int:
        return self.export.size

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill *view* with what is at *offset*.

        After SourceFailed the connection may be used again, after anything else it is closed.
        Raises ValueError for what is beyond the export.
        """
        todo = iter(parts(self.export, offset, len(view)))
        waiting: dict[int, tuple[Part, memoryview]] = {}
        failed: TransferError | None = None
        try:
            while True:
                for part in islice(todo, self._in_flight - len(waiting)):
                    target = part.target(view)
                    waiting[self._core.read(part.offset, target)] = part, target
                if not waiting:
                    break
                for event in self._hear():
                    if isinstance(event, Answered):
                        part, target = waiting.pop(event.cookie)
                        failed = failed or self._settled(event, part, view, target)
                if failed:
                    todo = iter(())
        except BaseException:
            self.close()
            raise
        if isinstance(failed, SourceUnavailable):
            self.close()
        if failed:
            raise failed

    def _settled(
        self, answered: Answered, part: Part, view: memoryview, target: memoryview
    ) -> TransferError | None:
        if answered.failure is None:
            part.settle(view, target)
            return None
        what = f"{part.length} bytes at {part.offset} cannot be read"
        return failure_of(self.address, what, answered.failure)

    def close(self) -> None:
        """Part with the server. May be repeated."""
        with suppress(OSError):
            self._core.disconnect()
            self._socket.sendall(self._core.output())
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _shake_hands(self, deadline: float) -> Export:
        while self._core.export is None:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            if START_TLS in self._hear():
                self._socket = tls_context(self.address).wrap_socket(
                    self._socket, server_hostname=self.address.server_name
                )
                self._core.secured()
        self._socket.settimeout(self._patience)
        return self._core.export

    def _hear(self) -> list[Event]:
        """Send what is to be sent, and receive once."""
        if self._socket.fileno() < 0:
            raise SourceUnavailable(f"{self.address}: the connection is closed")
        with translated(self.address):
            if said := self._core.output():
                # Why a server hung up may still be to be received.
                with suppress(ConnectionError, ssl.SSLEOFError):
                    self._socket.sendall(said)
            count = self._socket.recv_into(self._core.buffer())
            if not count:
                raise ConnectionError("the server hung up")
        try:
            return self._core.received(count)
        except TransferError as error:
            raise error_of(self.address, error) from error


def _connect(address: NbdAddress, patience: float) -> socket.socket:
    if address.host:
        made = socket.create_connection((address.host, address.port), patience)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(patience)
        made.connect(address.socket)
    except BaseException:
        made.close()
        raise
    return made
