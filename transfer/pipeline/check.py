"""Check a tree: fetch and open all that is below a root, or a sample of its blocks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from transfer.formats.entry import Content, Entry, FileType, Root
from transfer.formats.reference import Reference
from transfer.pipeline import write_tasks
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.receive_streams import AT_ONCE, Received, batches, used
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.units import block_weight, by_block
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import Extents, FrameAt, Piece
from transfer.waiting import task_group

MAX_PIECES = 256
MAX_SLICES = 2048  # of a directory's that are put together by their blocks


class _Owned(NamedTuple):
    """A block or a slice of one, and the path of an entry that has it."""

    path: bytes
    piece: Piece


_Unit = list[_Owned]
"""A block; or slices, all of one block."""


def _block(owned: _Owned) -> Reference:
    return owned.piece.reference


def _is_enough(slices: Sequence[_Owned], following: _Owned) -> bool:
    """Whether they are to be looked at before the *following* one, which may be of their block."""
    if len(slices) < MAX_SLICES:
        return False
    return _block(slices[-1]) != _block(following) or len(slices) >= 2 * MAX_SLICES


def _weight(unit: _Unit) -> int:
    piece = unit[0].piece
    return piece.size if piece.start is None else block_weight(each.piece for each in unit)


class TreeChecker:
    """*chosen* says of each block whether it is fetched; nodes always are.

    *done* is called with the size of each file.
    """

    def __init__(
        self, pool: Pool, nodes: NodeReader, received: Received,
        chosen: Callable[[], bool], done: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._pool, self._nodes, self._received = pool, nodes, received
        self._chosen, self._done = chosen, done
        self._groups: set[bytes] = set()

    async def run(self, root: Reference | None) -> None:
        window = asyncio.Semaphore(AT_ONCE)

        async def check(batch: list[_Unit]) -> None:
            try:
                await self._check(batch)
            finally:
                window.release()

        async with task_group() as group:
            async for batch in self._batches(root):
                await window.acquire()
                group.create_task(check(batch))

    async def _check(self, batch: list[_Unit]) -> None:
        bad: dict[int, list[_Owned]] = {}

        async def work(worker: Leased) -> None:
            async def check(numbers: Sequence[int], frames: list[FrameAt]) -> list[Reference]:
                owned = [
                    (n, each, frame._replace(piece=each.piece))
                    for n, frame in zip(numbers, frames, strict=True) for each in batch[n]
                ]  # fmt: skip
                sound = await worker.call(write_tasks.check_frames, [one for _, _, one in owned])
                bad.update({n: [] for n in numbers})
                for (n, each, _), whole in zip(owned, sound, strict=True):
                    bad[n] += [] if whole else [each]
                # A slice beyond the end of its block is no fault of that block.
                unopened = [n for n in numbers if len(bad[n]) == len(batch[n])]
                return [batch[n][0].piece.reference for n in unopened]

            units = [[unit[0].piece] for unit in batch]
            await used(self._nodes, worker, units, self._received, check)

        await self._pool.run(work)
        for path, piece in (each for number in sorted(bad) for each in bad[number]):
            self._damage(path, f"{piece.size} bytes at {piece.offset}: {piece.reference}")

    async def _batches(self, root: Reference | None) -> AsyncIterator[list[_Unit]]:
        batch: list[_Unit] = []
        size = 0
        async for unit in self._units(root):
            if not self._chosen():
                continue
            weight = _weight(unit)
            if batch and (size + weight > BATCH or len(batch) == MAX_PIECES):
                yield batch
                batch, size = [], 0
            batch.append(unit)
            size += weight
        if batch:
            yield batch

    async def _units(self, root: Reference | None) -> AsyncIterator[_Unit]:
        left = [(b"", root)]
        while left:
            path, root = left.pop()
            slices: list[_Owned] = []
            async for owned in self._directory(path, root, left):
                if owned.piece.start is None:
                    yield [owned]
                    continue
                if _is_enough(slices, owned):
                    for unit in by_block(slices, _block):
                        yield unit
                    slices = []
                slices.append(owned)
            for unit in by_block(slices, _block):
                yield unit

    async def _directory(
        self, path: bytes, root: Reference | None, left: list[tuple[bytes, Reference | None]]
    ) -> AsyncIterator[_Owned]:
        """What is in its files; the directories below come to *left*."""
        damaged: list[str] = []
        async for entry, _ in self._nodes.entries(root, damaged):
            below = path + b"/" + entry.name if path else entry.name
            if isinstance(entry.content, Root):
                left.append((below, entry.content.reference))
            for content in self._contents(entry):
                async for owned in self._content(below, content):
                    yield owned
        for what in damaged:
            self._damage(path, what)

    def _contents(self, entry: Entry) -> list[Content]:
        """The entry's streams; those of an inode with several names only once."""
        if entry.type in (FileType.FILE, FileType.DISK):
            self._received.files += 1
            self._done(entry.size)
        if entry.link_group:
            if entry.link_group in self._groups:
                return []
            self._groups.add(entry.link_group)
        return [entry.content, entry.xattr_stream]

    async def _content(self, path: bytes, content: Content) -> AsyncIterator[_Owned]:
        unreadable: Extents = []
        async for pieces, _ in batches(self._nodes, content, unreadable):
            for piece in pieces:
                yield _Owned(path, piece)
        for at, size in unreadable:
            self._damage(path, f"{size} bytes at {at}")

    def _damage(self, path: bytes, what: str) -> None:
        self._received.damaged.append(f"{path.decode(errors='backslashreplace')}: {what}")
