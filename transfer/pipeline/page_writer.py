"""Pages of new directories are given back in workers, those that wait at the same time together."""

import asyncio
from collections.abc import Sequence

from transfer.formats.directory import MAX_PAGE
from transfer.formats.reference import Reference
from transfer.pipeline.batching import Batcher
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.page_tasks import (
    Done,
    Given,
    How,
    Left,
    NewPage,
    Unit,
    open_pages,
    write_units,
)
from transfer.pipeline.receive_streams import Received, used
from transfer.pipeline.units import batched
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import FrameAt, Piece

TOGETHER = 32


class PageWriter:
    def __init__(
        self, pool: Pool, nodes: NodeReader, received: Received, how: How,
        group: asyncio.TaskGroup,
    ) -> None:  # fmt: skip
        self._pool, self._nodes, self._received, self._how = pool, nodes, received, how
        self._pages: Batcher[NewPage, Given | Left] = Batcher(
            group, self._together, lambda _: 1, limit=TOGETHER, count=TOGETHER,
            parallel=pool.lanes, least=TOGETHER // 2, few=2,
        )  # fmt: skip

    async def write(self, page: NewPage) -> Given | Left:
        """Its units are written as well. What does not open is left, for others tell of that."""
        return await self._pages.ask(page)

    async def _together(self, pages: list[NewPage]) -> list[Given | Left]:
        tries = 0

        async def work(worker: Leased) -> list[Given | Left]:
            nonlocal tries
            tries += 1
            writing = _Writing(self._nodes, worker, self._received, self._how, tries > 1)
            return await writing.run(pages)

        return await self._pool.run(work)


class _Writing:
    """Of some pages, with one lane; *again* when another one was lost with them."""

    def __init__(
        self, nodes: NodeReader, worker: Leased, received: Received, how: How, again: bool
    ) -> None:
        self._nodes, self._worker, self._received = nodes, worker, received
        self._how, self._again = how, again
        self._units: list[tuple[Done, Unit]] = []  # as the lane has them, with their pages' results

    async def run(self, pages: Sequence[NewPage]) -> list[Given | Left]:
        given = await self._opened(pages)
        first = 0
        for batch in batched(unit for _, unit in self._units):
            await self._write(first, batch)
            first += len(batch)
        return given

    async def _opened(self, pages: Sequence[NewPage]) -> list[Given | Left]:
        found: list[Given | Left] = [Left()] * len(pages)

        async def use(numbers: Sequence[int], frames: list[FrameAt]) -> list[Reference]:
            asked = [(pages[n], frame) for n, frame in zip(numbers, frames, strict=True)]
            some = await self._worker.call(open_pages, asked, self._how, self._again)
            for number, one in zip(numbers, some, strict=True):
                found[number] = one or Left()
                if isinstance(one, Given):
                    self._units += [(one.done, unit) for unit in one.units]
            return [
                page.reference for (page, _), one in zip(asked, some, strict=True) if one is None
            ]

        frames = [[Piece(page.reference, 0, MAX_PAGE)] for page in pages]
        await used(self._nodes, self._worker, frames, Received(), use)
        return found

    async def _write(self, first: int, units: Sequence[Unit]) -> None:
        """Those that follow the *first*."""
        done: dict[int, Done] = {}

        async def use(numbers: Sequence[int], frames: list[FrameAt]) -> list[Reference]:
            kept = [first + n for n in numbers]
            some = await self._worker.call(
                write_units, kept, frames, self._how.replace, self._again
            )
            done.update(zip(kept, some, strict=True))
            return [
                frame.piece.reference for frame, one in zip(frames, some, strict=True)
                if one.has_no_block()
            ]  # fmt: skip

        await used(self._nodes, self._worker, [[u.piece] for u in units], self._received, use)
        for number, one in done.items():
            self._units[number][0].add(one)
