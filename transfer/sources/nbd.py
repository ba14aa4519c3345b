"""NBD on asyncio: read an export, and what changed in it, over one connection.

Any number of tasks may use a client; as many requests as it has in flight are with the server at a
time, the others wait. An error that the server gives to a request is that request's, and the
connection lives on. When the connection breaks, all who wait for it are told, and all who come
later. Every error is one of `transfer.errors`, see `NbdClient.connect`.

Memory: 8 KiB; for each request in flight that was widened to the server's blocks 1 MiB; for each
block status that is iterated AHEAD answers of at most 8 MiB a context.
"""

from array import array
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from types import TracebackType
from typing import NamedTuple, Self

from transfer.errors import NotFound, ProtocolBroken
from transfer.sources.nbd_address import NbdAddress
from transfer.sources.nbd_edge import PATIENCE, failure_of, parts
from transfer.sources.nbd_protocol import MAX_STATUS, Answered, Connection, Export, Terms
from transfer.sources.nbd_wire import Asked, Wire

AHEAD = 4
IN_FLIGHT = 8


class Status(NamedTuple):
    """An extent all of which has the same *flags*; what they mean is up to the context."""

    offset: int
    length: int
    flags: int


class NbdClient:
    """An open connection to *export*; `connect` makes one."""

    def __init__(self, address: NbdAddress, wire: Wire, export: Export) -> None:
        self.address, self.export = address, export
        self._wire = wire

    @classmethod
    async def connect(
        cls, address: NbdAddress, *, contexts: Sequence[str] = (),
        offers: Sequence[str] | None = None, in_flight: int = IN_FLIGHT, patience: float = PATIENCE,
    ) -> Self:  # fmt: skip
        """Connect, and agree with the server on *contexts*: `export.contexts` are those it has.

        *offers* are queries for names of contexts, answered in `export.offers`: "qemu:" asks for
        that kind, () for all. *patience* are the seconds that the server may take to get here, and
        later those for which it may say nothing while something is asked of it.

        Raises SourceUnavailable if the server is away, silent or ends; NotFound if there is no such
        socket or export; Untrusted and NotAuthorised for certificates; UsageError for a server that
        wants TLS or is too old; ProtocolBroken for one that breaks the protocol. From then on every
        call may raise SourceUnavailable, SourceFailed and ProtocolBroken.
        """
        terms = Terms(address.export, tuple(contexts), offers, address.tls)
        wire = Wire(address, terms, in_flight, patience)
        return cls(address, wire, await wire.open())

    @property
    def size(self) -> int:
        return self.export.size

    @property
    def min_block(self) -> int:
        """Bytes; requests that are not aligned to it cost more than they bring."""
        return self.export.min_block

    async def read_into(self, offset: int, view: memoryview) -> None:
        """Fill *view* with what is at *offset*.

        Once this has ended, also by an error or a cancellation, nothing is written to it any more.
        Raises ValueError for what is beyond the export.
        """
        asked = []
        try:
            for part in parts(self.export, offset, len(view)):
                target = part.target(view)
                read = partial(Connection.read, offset=part.offset, view=target)
                asked.append((part, target, await self._wire.ask(read)))
            for part, target, each in asked:
                await self._answer(each, f"{part.length} bytes at {part.offset} cannot be read")
                part.settle(view, target)
        finally:
            for _, _, each in asked:
                self._wire.discard(each)

    def block_status(self, context: str, offset: int, end: int) -> AsyncIterator[Status]:
        """The extents of [offset, end): ascending, each beginning where the last one ended, and
        each with other flags than the last one. Raises NotFound if the server has no such context,
        ValueError for what is beyond the export.
        """
        if context not in self.export.contexts:
            raise NotFound(f"{self.address} has no context {context}")
        if not 0 <= offset <= end <= self.size:
            raise ValueError(f"{offset} to {end} of {self.size} bytes")
        return self._merged(context, offset, end)

    async def flush(self) -> None:
        """What others wrote becomes durable. Raises ValueError if the server cannot do that."""
        await self._answer(await self._wire.ask(Connection.flush), "nothing can be flushed")

    async def close(self) -> None:
        """Part with the server; requests that wait end with SourceUnavailable. May be repeated."""
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self.close()

    async def _answer(self, asked: Asked, what: str) -> Answered:
        answered = await asked.answer
        if answered.failure is not None:
            raise failure_of(self.address, what, answered.failure)
        return answered

    async def _merged(self, context: str, offset: int, end: int) -> AsyncGenerator[Status, None]:
        last = Status(offset, 0, -1)
        async with aclosing(self._statuses(context, offset, end)) as answers:
            async for at, stop, extents in answers:
                for length, flags in zip(extents[::2], extents[1::2], strict=True):
                    start, at = max(at, offset), min(at + length, stop, end)
                    if at > start and flags == last.flags:
                        last = last._replace(length=at - last.offset)
                    elif at > start:
                        if last.length:
                            yield last
                        last = Status(start, at - start, flags)
        if last.length:
            yield last

    async def _statuses(
        self, context: str, offset: int, end: int
    ) -> AsyncGenerator[tuple[int, int, "array[int]"], None]:
        """Where extents begin, where they end for us, and the lengths and flags of each."""
        block = self.min_block
        end = min(-(-end // block) * block, self.size)
        steps = iter(range(offset // block * block, end, MAX_STATUS))
        ahead: deque[tuple[int, int, Asked]] = deque()
        try:
            while True:
                for start in islice(steps, AHEAD - len(ahead)):
                    stop = min(start + MAX_STATUS, end)
                    ahead.append((start, stop, await self._ask_status(start, stop)))
                if not ahead:
                    return
                start, stop, asked = ahead[0]
                answered = await self._answer(asked, f"block status at {start} cannot be had")
                extents = answered.statuses[context]
                yield start, stop, extents
                reached = start + sum(extents[::2])
                if reached < stop:  # a server may stop where it likes
                    ahead[0] = reached, stop, await self._ask_status(reached, stop)
                else:
                    ahead.popleft()
        finally:
            for _, _, asked in ahead:
                self._wire.discard(asked)

    async def _ask_status(self, start: int, stop: int) -> Asked:
        if start % self.min_block:
            raise ProtocolBroken(f"{self.address} gives extents that end within its blocks")
        return await self._wire.ask(
            partial(Connection.block_status, offset=start, length=stop - start)
        )
