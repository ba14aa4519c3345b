"""Streams: send a run of bytes of any length as a hash tree, from left to right.

Leaves of 256 blocks are read and sent AHEAD at a time, each in batches of at most tasks.BATCH
bytes, holes left out. Blocks and nodes that the parent point has at the same place are not sent.
Memory: AHEAD leaves of IDs, and one node per level.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from transfer.formats.journal import Ids
from transfer.formats.stream import FANOUT, FIXED, Descriptor, block_count
from transfer.pipeline import tasks
from transfer.pipeline.batching import Batcher
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.resume import Proof, Question
from transfer.pipeline.send import Sender, Stored
from transfer.pipeline.stream_nodes import ParentStream, Slots, StreamBuilder
from transfer.pipeline.workers import Leased
from transfer.sources.changes import Content, Data, Extent
from transfer.sources.reading import SourceFile
from transfer.waiting import task_group

T = TypeVar("T")
AHEAD = 4
Run = tuple[int, int]  # first block of a leaf, and how many


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
    sender: Sender, length: int, block_size: int, ids: Sequence[bytes | None],
    before: ParentStream | None = None,
) -> Descriptor:  # fmt: skip
    """The stream over blocks that are stored already, at most one leaf of them.

    What the parent point had *before* is not sent.
    """
    builder = StreamBuilder(sender, length, block_size, before or ParentStream(None, None))
    await builder.place_leaf(0, await builder.leaf(0, tuple(ids)))
    return Descriptor(length, block_size, FIXED, await builder.finish())


class _Wanted(NamedTuple):
    """Extents to be read, and IDs that the parent point has around them.

    *are_new*: their blocks are hardly in the vault.
    """

    extents: Sequence[Extent]
    known: frozenset[bytes]
    are_new: bool

    @property
    def size(self) -> int:
        return sum(length for _, length in self.extents)

    def blocks(self, block_size: int) -> int:
        return sum(block_count(length, block_size) for _, length in self.extents)


class Leaves:
    """Reads and sends the blocks below one leaf after the other."""

    def __init__(
        self, sender: Sender, file: Content, length: int, block_size: int,
        before: ParentStream, strict: bool, proof: Proof | None, data: Data | None,
    ) -> None:  # fmt: skip
        self._data = data
        # Changed blocks that lie far apart are read together once enough is under way.
        self._reading: Batcher[_Wanted, list[bytes | None]] = Batcher(
            sender.group, self._read, lambda each: each.size, limit=tasks.BATCH, count=256,
            parallel=4 * sender.pool.lanes,
        )  # fmt: skip
        self._sender, self._file, self._strict, self._proof = sender, file, strict, proof
        self._length, self._block_size, self._before = length, block_size, before

    async def send(self, start: int) -> Slots:
        """The leaf that begins at offset *start*."""
        end = min(start + FANOUT * self._block_size, self._length)
        zeros = (None,) * block_count(end - start, self._block_size)
        known = await self._before.around(0, start // self._block_size)
        return await self.send_blocks(start, zeros, await self.data(start, end), known)

    async def data(self, start: int, end: int) -> list[Extent]:
        """Extents that may hold other bytes than zeros."""
        if self._data is not None:
            return await self._data(start, end)
        assert isinstance(self._file, SourceFile)  # all others know it by themselves
        found: list[Extent] = await self._sender.pool.call(
            tasks.extents, self._file, start, end, self._strict
        )
        return found

    async def send_blocks(
        self, start: int, slots: Slots, extents: Sequence[Extent],
        known: frozenset[bytes] = frozenset(), are_new: bool = False,
    ) -> Slots:  # fmt: skip
        """The leaf of these *slots* that begins at *start*, its blocks in *extents* read anew.

        *known* IDs are in the vault. Blocks that *are_new* by all that is known are not asked for.
        """
        end = min(start + len(slots) * self._block_size, self._length)
        ids = list(slots)

        async def batch(runs: Sequence[Run]) -> None:
            extents = [self._extent(start, run, end) for run in runs]
            found = await self._known_batch(_Wanted(extents, known, are_new))
            for (first, count), some in zip(runs, found, strict=True):
                ids[first : first + count] = some

        per_batch = max(1, tasks.BATCH // self._block_size)
        runs = block_runs(extents, start, self._block_size, per_batch)
        await _together([batch(some) for some in packed(runs, per_batch)])
        return tuple(ids)

    def _extent(self, start: int, run: Run, end: int) -> Extent:
        at = start + run[0] * self._block_size
        return at, min(run[1] * self._block_size, end - at)

    async def _known_batch(self, wanted: _Wanted) -> list[Ids]:
        """The IDs of each extent's blocks."""
        if self._proof is None:
            return await self._batch(wanted)
        extents = wanted.extents
        keys = [self._proof.key(*extent) for extent in extents]
        counts = [block_count(length, self._block_size) for _, length in extents]
        found = await self._sender.recalled(list(map(Question, keys, counts)))
        left = [n for n, ids in enumerate(found) if ids is None]
        sizes = sum(extents[n][1] for n, ids in enumerate(found) if ids is not None)
        self._sender.sent.bytes_resumed += sizes
        again = wanted._replace(extents=[extents[n] for n in left])
        read = await self._batch(again) if left else []
        await self._sender.note([(keys[n], ids) for n, ids in zip(left, read, strict=True)])
        new = iter(read)
        return [ids if ids is not None else next(new) for ids in found]

    async def _batch(self, wanted: _Wanted) -> list[Ids]:
        ids = iter(await self._reading.ask(wanted))
        counts = [block_count(length, self._block_size) for _, length in wanted.extents]
        return [tuple(islice(ids, count)) for count in counts]

    async def _read(self, wanted: list[_Wanted]) -> list[list[bytes | None]]:
        """Blocks of one leaf or of several, as much as a lane keeps."""
        extents = [extent for each in wanted for extent in each.extents]
        known = frozenset[bytes]().union(*(each.known for each in wanted))
        are_new = all(each.are_new for each in wanted)

        async def work(worker: Leased) -> tuple[list[bytes | None], Stored | None]:
            found: list[bytes | None] = await worker.call(
                tasks.read_blocks, self._file, extents, self._block_size, self._strict
            )
            return found, await self._sender.blocks(worker, found, known, are_new)

        found, stored = await self._sender.pool.run(work)
        await self._sender.arrived(stored)
        ids = iter(found)
        self._sender.sent.bytes_read += sum(each.size for each in wanted)
        return [list(islice(ids, each.blocks(self._block_size))) for each in wanted]


def block_runs(extents: Sequence[Extent], start: int, block_size: int, per_batch: int) -> list[Run]:
    """Runs of at most *per_batch* blocks each that cover *extents*, each block once."""
    runs: list[Run] = []
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


def packed(runs: Sequence[Run], per_batch: int) -> list[list[Run]]:
    """Runs one after the other, in batches of at most *per_batch* blocks, or of one run."""
    batches: list[list[Run]] = []
    room = 0
    for run in runs:
        if run[1] > room:
            batches.append([])
            room = per_batch
        batches[-1].append(run)
        room -= run[1]
    return batches


async def _together(work: Sequence[Awaitable[None]]) -> None:
    async with task_group() as group:
        for each in work:
            group.create_task(_awaited(each))


async def _awaited(work: Awaitable[T]) -> T:
    return await work
