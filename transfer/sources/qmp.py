"""QMP on asyncio: ask a running QEMU, or its storage daemon, over a Unix socket.

Any number of tasks may ask at a time; QEMU carries out what it is asked in the order in which it
was asked, also what nobody waits for any more. A socket serves one client at a time, so another one
that does not let go of it is a time-out here.
"""

import asyncio
import itertools
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from transfer.errors import (
    NotFound,
    ProtocolBroken,
    SourceFailed,
    SourceUnavailable,
    TransferError,
    UsageError,
)
from transfer.sources.qmp_protocol import Event, Failure, Greeting, Lines, Message, command

PATIENCE = 20.0
"""Seconds for which QEMU may say nothing while something is asked of it."""
_READ = 1 << 18


class Peer(NamedTuple):
    """Who made the socket."""

    pid: int
    user: int
    group: int


def peer_of(writer: asyncio.StreamWriter) -> Peer:
    """Of a connection to a Unix socket."""
    given, size = writer.get_extra_info("socket"), struct.calcsize("3i")
    return Peer(*struct.unpack("3i", given.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)))


class Qmp:
    """A connection that is open; `connect` makes one."""

    def __init__(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float
    ) -> None:
        self.path, self._reader, self._writer, self._patience = path, reader, writer, patience
        self._lines, self._numbers = Lines(), itertools.count(1)
        self._greeting: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._broken: TransferError | None = None
        self._hearing = asyncio.create_task(self._hear(), name="qmp")

    @classmethod
    async def connect(cls, path: str, patience: float = PATIENCE) -> Self:
        """Raises NotFound if there is no such socket, UsageError for one that we must not use,
        SourceUnavailable if nobody answers, ProtocolBroken for what is not QMP."""
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except FileNotFoundError as error:
            raise NotFound(f"{path}: there is no such socket", "is the machine running?") from error
        except (PermissionError, ValueError) as error:
            raise UsageError(f"{path}: {error}") from error
        except OSError as error:
            if error.errno is None:  # a path that is too long for any socket
                raise UsageError(f"{path}: {error}") from error
            raise SourceUnavailable(f"{path}: {error.strerror}", "is it running?") from error
        self = cls(path, reader, writer, patience)
        try:
            await self._introduce()
        except BaseException:
            await self.close()
            raise
        return self

    async def _introduce(self) -> None:
        try:
            async with asyncio.timeout(self._patience):
                self.version = (await self._greeting).version
        except TimeoutError as error:
            hint = "it serves one client at a time: give it a second monitor for this"
            raise SourceUnavailable(f"{self.path} does not greet", hint) from error
        await self.ask("qmp_capabilities")

    @property
    def peer(self) -> Peer:
        return peer_of(self._writer)

    async def ask(self, name: str, /, **arguments: Any) -> Any:
        """What the command returns; `_` in names of arguments stands for `-`.

        Raises SourceFailed for what QEMU refuses, SourceUnavailable if it is gone or silent.
        """
        if self._broken is not None:
            raise self._broken
        said = {key.replace("_", "-"): value for key, value in arguments.items()}
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(command(name, said, number))
            async with asyncio.timeout(self._patience):
                answered = await answer
        except TimeoutError as error:
            raise SourceUnavailable(f"{self.path}: no answer to {name}") from error
        finally:
            self._asked.pop(number, None)
        if isinstance(answered, Failure):
            raise SourceFailed(f"{name}: {answered.said}")
        return answered

    async def transaction(self, actions: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """All of it or nothing, and at one moment."""
        listed = [{"type": kind, "data": data} for kind, data in actions]
        await self.ask("transaction", actions=listed)

    async def close(self) -> None:
        """May be repeated."""
        self._hearing.cancel()
        self._break(SourceUnavailable(f"{self.path}: the connection was closed"))
        self._writer.close()
        await asyncio.wait({self._hearing})  # to await it would hide that we are cancelled
        if not self._hearing.cancelled():
            self._hearing.result()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self.close()

    async def _hear(self) -> None:
        try:
            while data := await self._reader.read(_READ):
                for message in self._lines.received(data):
                    self._tell(message)
            self._break(SourceUnavailable(f"{self.path}: the machine has ended"))
        except OSError as error:
            self._break(SourceUnavailable(f"{self.path}: {error.strerror}"))
        except ProtocolBroken as error:
            self._break(ProtocolBroken(f"{self.path}: {error.message}"))

    def _tell(self, message: Message) -> None:
        """Answers that nobody waits for, and events, are dropped."""
        if isinstance(message, Greeting):
            if not self._greeting.done():
                self._greeting.set_result(message)
            return
        if isinstance(message, Event):
            return
        if (asked := self._asked.get(message.number or 0)) and not asked.done():
            asked.set_result(message if isinstance(message, Failure) else message.value)

    def _break(self, error: TransferError) -> None:
        self._broken = self._broken or error
        for asked in (self._greeting, *self._asked.values()):
            if not asked.done():
                asked.set_exception(self._broken)
                asked.exception()  # heard, where nobody waits
