"""Streams: send a run of bytes of any length as a hash tree, from left to right.

Leaves of 256 blocks are read and sent AHEAD at a time, each in batches of at most tasks.BATCH
bytes, holes left out. Blocks and nodes that the parent point has at the same place are not sent.
Memory: AHEAD leaves of IDs, and one node per level.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from transfer.formats.journal import Ids
from transfer.formats.stream import FANOUT, FIXED, Descriptor, block_count
from transfer.pipeline import tasks
from transfer.pipeline.batching import task_group
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.resume import Proof
from transfer.pipeline.send import Sender
from transfer.pipeline.stream_nodes import ParentStream, Slots, StreamBuilder
from transfer.pipeline.workers import Leased
from transfer.sources.changes import Content, Data

T = TypeVar("T")
AHEAD = 4


async def send_stream(
    sender: Sender, nodes: NodeReader, file: Content, length: int, block_size: int,
    parent: Descriptor | None, strict: bool, done: Callable[[int], None] = lambda size: None,
    proof: Proof | None = None, data: Data | None = None,
) -> Descriptor:  # fmt: skip
    """Send *length* bytes of *file*; *parent* is the stream that the parent point has of it.

    With *proof* what an interrupted run read of it is not read again. *done* is called with the
    bytes of each leaf that is sent, holes included. *data* gives the extents of a range that may
    hold other bytes than zeros; else workers ask the file's system. Raises SourceChanged if the
    file is another one, or (*strict*) was written; OSError.
    """
    if parent is not None and (parent.block_size != block_size or not sender.trust_parent):
        parent = None
    before = ParentStream(nodes, parent)
    leaves = Leaves(sender, file, length, block_size, before, strict, proof, data)
    builder = StreamBuilder(sender, length, block_size, before)
    span = FANOUT * block_size
    ahead: deque[asyncio.Task[bytes | None]] = deque()
    placed = itertools.count()

    async def leaf(index: int) -> bytes | None:
        return await builder.leaf(index, await leaves.send(index * span))

    async with task_group() as group:
        for index in range(-(-length // span)):
            ahead.append(group.create_task(leaf(index)))
            if len(ahead) == AHEAD:
                await builder.place_leaf(next(placed), await ahead.popleft())
            done(min(span, length - index * span))
        for task in ahead:
            await builder.place_leaf(next(placed), await task)
    return Descriptor(length, block_size, FIXED, await builder.finish())


async def assemble(
    sender: Sender, length: int, block_size: int, ids: Sequence[bytes | None]
) -> Descriptor:
    """The stream over blocks that are stored already, at most one leaf of them."""
    builder = StreamBuilder(sender, length, block_size, ParentStream(None, None))
    await builder.place_leaf(0, await builder.leaf(0, tuple(ids)))
    return Descriptor(length, block_size, FIXED, await builder.finish())


class Leaves:
    """Reads and sends the blocks below one leaf after the other."""

    def __init__(
        self, sender: Sender, file: Content, length: int, block_size: int,
        before: ParentStream, strict: bool, proof: Proof | None, data: Data | None,
    ) -> None:  # fmt: skip
        self._data = data
        self._sender, self._file, self._strict, self._proof = sender, file, strict, proof
        self._length, self._block_size, self._before = length, block_size, before

    async def send(self, start: int) -> Slots:
        """The leaf that begins at offset *start*."""
        end = min(start + FANOUT * self._block_size, self._length)
        zeros = (None,) * block_count(end - start, self._block_size)
        return await self.send_blocks(start, zeros, await self.data(start, end))

    async def data(self, start: int, end: int) -> list[tuple[int, int]]:
        """Extents that may hold other bytes than zeros."""
        if self._data is not None:
            return await self._data(start, end)
        found: list[tuple[int, int]] = await self._sender.pool.call(
            tasks.extents, self._file, start, end, self._strict
        )
        return found

    async def send_blocks(
        self, start: int, slots: Slots, extents: Sequence[tuple[int, int]]
    ) -> Slots:
        """The leaf of these *slots* that begins at *start*, its blocks in *extents* read anew."""
        end = min(start + len(slots) * self._block_size, self._length)
        ids = list(slots)
        known = await self._before.around(0, start // self._block_size)

        async def batch(first: int, count: int) -> None:
            at = start + first * self._block_size
            length = min(count * self._block_size, end - at)
            ids[first : first + count] = await self._known_batch(at, length, known)

        per_batch = max(1, tasks.BATCH // self._block_size)
        runs = block_runs(extents, start, self._block_size, per_batch)
        await _together([batch(first, count) for first, count in runs])
        return tuple(ids)

    async def _known_batch(self, offset: int, length: int, known: frozenset[bytes]) -> Ids:
        if self._proof is None:
            return await self._batch(offset, length, known)
        key = self._proof.key(offset, length)
        (ids,) = await self._sender.recalled([(key, block_count(length, self._block_size))])
        if ids is not None:
            self._sender.sent.bytes_resumed += length
            return ids
        ids = await self._batch(offset, length, known)
        await self._sender.note([(key, ids)])
        return ids

    async def _batch(self, offset: int, length: int, known: frozenset[bytes]) -> Ids:
        async def work(worker: Leased) -> list[bytes | None]:
            found: list[bytes | None] = await worker.call(
                tasks.read_blocks, self._file, offset, length, self._block_size, self._strict
            )
            await self._sender.blocks(worker, found, known)
            return found

        ids = await self._sender.pool.run(work)
        self._sender.sent.bytes_read += length
        return tuple(ids)


def block_runs(
    extents: Sequence[tuple[int, int]], start: int, block_size: int, per_batch: int
) -> list[tuple[int, int]]:
    """(first block, count) of at most *per_batch* each that cover *extents*, each block once."""
    runs: list[tuple[int, int]] = []
    done = 0
    for offset, length in extents:
        first = max(done, (offset - start) // block_size)
        last = -(-(offset + length - start) // block_size)
        while first < last:
            count = min(per_batch, last - first)
            if runs and sum(runs[-1]) == first and runs[-1][1] + count <= per_batch:
                runs[-1] = (runs[-1][0], runs[-1][1] + count)
            else:
                runs.append((first, count))
            first += count
        done = max(done, last)
    return runs


async def _together(work: Sequence[Awaitable[None]]) -> None:
    async with task_group() as group:
        for each in work:
            group.create_task(_awaited(each))


async def _awaited(work: Awaitable[T]) -> T:
    return await work
