"""Small files are written together with those of other directories: one fetch, one worker's task.

Most directories hold less than such a trip costs.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transfer.files.directories import Place
from transfer.formats.entry import Content, Entry, Inline
from transfer.formats.reference import Reference
from transfer.pipeline import write_tasks
from transfer.pipeline.batching import Batcher
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.receive_streams import Received, used
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.units import Unit, frames_of
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import FrameAt, Small, Written

LARGE, FEW = 2**20, 2  # bytes that need not wait for more; batches of less that are under way
MAX_ASKS = 64  # written together
ENTRY = 512  # bytes of a message, without extended attributes; names and targets are short


class Ask(NamedTuple):
    """Units of one directory."""

    place: Place
    units: Sequence[Unit]

    @property
    def weight(self) -> int:
        """Bytes of a slot or of a message, whichever holds them."""
        entries = [each.entry for unit in self.units for each in unit.files]
        return sum(unit.weight for unit in self.units) + sum(map(message_size, entries))


class SmallWriter:
    def __init__(
        self, pool: Pool, nodes: NodeReader, received: Received, group: asyncio.TaskGroup
    ) -> None:
        self._pool, self._nodes, self._received = pool, nodes, received
        self._asks: Batcher[Ask, dict[bytes, Written]] = Batcher(
            group, self._together, lambda ask: ask.weight, limit=BATCH, count=MAX_ASKS,
            parallel=pool.lanes, least=LARGE, few=FEW,
        )  # fmt: skip

    async def write(self, place: Place, units: Sequence[Unit]) -> dict[bytes, Written]:
        """By path. Each from copies of its frames that open, if there are such."""
        return await self._asks.ask(Ask(place, units)) if units else {}

    async def _together(self, asks: list[Ask]) -> list[dict[bytes, Written]]:
        placed = [(ask.place, unit) for ask in asks for unit in ask.units]
        tries = 0

        async def work(worker: Leased) -> dict[bytes, Written]:
            nonlocal tries
            tries += 1
            return await self._written_by(worker, placed, tries > 1)

        written = await self._pool.run(work)
        return [
            {each.path: written[each.path] for unit in ask.units for each in unit.files}
            for ask in asks
        ]

    async def _written_by(
        self, worker: Leased, placed: Sequence[tuple[Place, Unit]], again: bool
    ) -> dict[bytes, Written]:
        written: dict[bytes, Written] = {}

        async def use(numbers: Sequence[int], frames: list[FrameAt]) -> list[Reference]:
            left = iter(frames)
            files = [
                (place, file) for place, unit in map(placed.__getitem__, numbers)
                for file in _files(unit, left)
            ]  # fmt: skip
            done: list[Written] = await worker.call(write_tasks.write_small, files, again)
            paths = (each.path for n in numbers for each in placed[n][1].files)
            written.update(zip(paths, done, strict=True))
            # A slice beyond the end of its block is no fault of that block.
            opened = {
                frame.piece.reference
                for (_, file), one in zip(files, done, strict=True) if not one.damaged
                for frame in file.frames
            }  # fmt: skip
            damaged = {reference for one in done for reference in one.damaged}
            return list(damaged - opened)

        pieces = [unit.pieces for _, unit in placed]
        await used(self._nodes, worker, pieces, self._received, use)
        return written


def _files(unit: Unit, frames: Iterator[FrameAt]) -> list[Small]:
    """With the next of *frames*."""
    taken = [next(frames) for _ in unit.pieces]
    return [
        Small(
            each.entry, inline(each.entry.content), frames_of(each, taken),
            tuple(each.zeros), each.wanted.replace,
            each.wanted.there if each.needs_block() else None,
        ) for each in unit.files
    ]  # fmt: skip


def message_size(entry: Entry) -> int:
    """Bytes of a message that it takes at most, without its content."""
    return ENTRY + sum(len(name) + len(value) for name, value in entry.xattrs)


def inline(content: Content) -> bytes | None:
    return content.data if isinstance(content, Inline) else None
