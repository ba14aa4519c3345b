"""A disk of a running QEMU as its view has it: what changed, where zeros are, and whether it holds.

Where zeros are is asked twice, of the view and then of its fleece, and zeros are what both call so.
A block that was not kept yet when the second was asked had not been written when the first was, and
one that was kept is in the fleece; so it does not matter that QEMU may tell of the live disk where
it was asked about the view.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Self

from transfer.formats.point import Mark
from transfer.sources import nbd_view
from transfer.sources.changes import Data, Extent, HistoryLost
from transfer.sources.exports import NbdContent
from transfer.sources.nbd import NbdClient
from transfer.sources.qemu_remains import FLEECE, view_bitmap
from transfer.sources.qemu_view import Viewer, Wanted


class LiveDisk:
    """`async with` it. *old_size* is that at the mark before; *why* nothing is known since it."""

    identity = b""

    def __init__(
        self, viewer: Viewer, wanted: Wanted, mark: Mark | None, old_size: int, why: str
    ) -> None:
        self.name, self.size, self.mark = wanted.disk.name, wanted.disk.size, mark
        self.content = NbdContent(viewer.address_of(wanted))
        self.data: Data | None = self._data
        self._viewer, self._wanted, self._old_size, self._why = viewer, wanted, old_size, why

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as clients:
            wanted, contexts = self._wanted, [nbd_view.ALLOCATION]
            self._all: list[NbdClient] = []
            if wanted.disk.is_written:
                address = self._viewer.address_of(wanted, FLEECE)
                fleece = await NbdClient.connect(address, contexts=contexts)
                self._all.append(await clients.enter_async_context(fleece))
            if wanted.before:
                contexts = [*contexts, nbd_view.bitmap_context(view_bitmap(wanted.chain))]
            view = await NbdClient.connect(self.content.address, contexts=contexts)
            self._all.insert(0, await clients.enter_async_context(view))
            self._clients = clients.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self._clients.aclose()

    async def changed(self) -> AsyncIterator[Extent]:
        context, client = nbd_view.bitmap_context(view_bitmap(self._wanted.chain)), self._all[0]
        if self._why or context not in client.export.contexts:
            raise HistoryLost(self._why or "the server does not offer the bitmap")
        await nbd_view.check_end(client, context, self._old_size)
        grains = Grains(self._viewer.grain, 0, self.size)
        async with aclosing(self._dirty(context)) as dirty:
            async for extent in grains.streamed(dirty):
                yield extent

    async def _dirty(self, context: str) -> AsyncGenerator[Extent, None]:
        """In order of their offsets: there may be as many as the disk has blocks."""
        async for extent in nbd_view.dirty(self._all[0], context, end=self._old_size):
            yield extent
        if self._old_size < self.size:  # no bitmap has what a disk grew by
            yield self._old_size, self.size - self._old_size

    async def _data(self, start: int, end: int) -> list[Extent]:
        grain = self._viewer.grain
        first, last = start // grain * grain, min(-(-end // grain) * grain, self.size)
        found: list[Extent] = []
        for client in self._all:  # in this order
            found += await nbd_view.data(client, first, last)
        grains = Grains(self._viewer.grain, start, end)
        return list(grains.of(sorted(found)))

    async def read_into(self, offset: int, view: memoryview) -> None:
        """From the view; *offset* at the beginning of a grain, or of what lies in one."""
        await self._all[0].read_into(offset, view)

    async def probe(self) -> None:
        """Of a view that broke nothing can be read. Raises SourceFailed."""
        await self.read_into(0, memoryview(bytearray(min(self.size, 512))))


class Grains:
    """The grains that extents, in order of their offsets, touch between *start* and *end*; those
    that follow one another are one extent. Of use once."""

    def __init__(self, grain: int, start: int, end: int) -> None:
        self._grain, self._start, self._end = grain, start, end
        self._at = self._until = start

    def of(self, extents: Iterable[Extent]) -> Iterator[Extent]:
        for extent in extents:
            yield from self._before(extent)
        yield from self._rest()

    async def streamed(self, extents: AsyncIterator[Extent]) -> AsyncIterator[Extent]:
        async for extent in extents:
            for found in self._before(extent):
                yield found
        for found in self._rest():
            yield found

    def _before(self, extent: Extent) -> Iterator[Extent]:
        """What ended before *extent*, which then is what goes on, or the beginning of it."""
        offset, length = extent
        first, last = offset // self._grain, -(-(offset + length) // self._grain)
        first, last = max(first * self._grain, self._start), min(last * self._grain, self._end)
        if first > self._until:
            yield from self._rest()
            self._at = first
        self._until = max(self._until, last)

    def _rest(self) -> Iterator[Extent]:
        if self._until > self._at:
            yield self._at, self._until - self._at
