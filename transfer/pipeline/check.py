"""Check a tree: fetch and open all that is below a root, or a sample of its blocks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from transfer.formats.entry import Content, Entry, FileType, Root
from transfer.formats.reference import Reference
from transfer.pipeline import write_tasks
from transfer.pipeline.batching import task_group
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.receive_streams import AT_ONCE, Extents, Received, batches, used
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import FrameAt, Piece

MAX_PIECES = 256


class _Owned(NamedTuple):
    """A block, and the path of an entry that has it."""

    path: bytes
    piece: Piece


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

        async def check(batch: list[_Owned]) -> None:
            try:
                await self._check(batch)
            finally:
                window.release()

        async with task_group() as group:
            async for batch in self._batches(root):
                await window.acquire()
                group.create_task(check(batch))

    async def _check(self, batch: list[_Owned]) -> None:
        async def work(worker: Leased) -> list[Reference]:
            async def check(_: Sequence[int], frames: list[FrameAt]) -> list[Reference]:
                bad: list[Reference] = await worker.call(write_tasks.check_frames, frames)
                return bad

            pieces = [[each.piece] for each in batch]
            return await used(self._nodes, worker, pieces, self._received, check)

        bad = await self._pool.run(work)
        for path, piece in batch:
            if piece.reference in bad:
                what = f"{piece.size} bytes at {piece.offset}: {piece.reference}"
                self._damage(path, what)

    async def _batches(self, root: Reference | None) -> AsyncIterator[list[_Owned]]:
        batch: list[_Owned] = []
        size = 0
        async for owned in self._blocks(root):
            # Of a slice the whole block is fetched, whatever its length.
            weight = owned.piece.size if owned.piece.start is None else BATCH
            if batch and (size + weight > BATCH or len(batch) == MAX_PIECES):
                yield batch
                batch, size = [], 0
            batch.append(owned)
            size += weight
        if batch:
            yield batch

    async def _blocks(self, root: Reference | None) -> AsyncIterator[_Owned]:
        left = [(b"", root)]
        while left:
            path, root = left.pop()
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
                if self._chosen():
                    yield _Owned(path, piece)
        for at, size in unreadable:
            self._damage(path, f"{size} bytes at {at}")

    def _damage(self, path: bytes, what: str) -> None:
        self._received.damaged.append(f"{path.decode(errors='backslashreplace')}: {what}")
