"""Streams: send a run of bytes of any length as a hash tree, from left to right.

Leaves of 256 blocks are read and sent AHEAD at a time, each in batches of at most tasks.BATCH
bytes, holes left out. Blocks and nodes that the parent point has at the same place are not sent.
Memory: AHEAD leaves of IDs, and one node per level.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from transfer.errors import FormatError, FrameMissing
from transfer.formats.journal import Ids
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import (
    FANOUT,
    FIXED,
    Descriptor,
    block_count,
    decode_node,
    depth,
    encode_node,
    root_tag,
    slot_count,
)
from transfer.pipeline import tasks
from transfer.pipeline.batching import task_group
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.resume import Proof
from transfer.pipeline.send import Sender
from transfer.pipeline.workers import Leased
from transfer.sources.reading import SourceFile

T = TypeVar("T")
Slots = Ids
AHEAD = 4


async def send_stream(
    sender: Sender, nodes: NodeReader, file: SourceFile, length: int, block_size: int,
    parent: Descriptor | None, strict: bool, done: Callable[[int], None] = lambda size: None,
    proof: Proof | None = None,
) -> Descriptor:  # fmt: skip
    """Send *length* bytes of *file*; *parent* is the stream that the parent point has of it.

    With *proof* what an interrupted run read of it is not read again. *done* is called with the
    bytes of each leaf that is sent, holes included. Raises SourceChanged if the file is another
    one, or (*strict*) was written; OSError.
    """
    if parent is not None and (parent.block_size != block_size or not sender.trust_parent):
        parent = None
    before = ParentStream(nodes, parent)
    leaves = _Leaves(sender, file, length, block_size, before, strict, proof)
    builder = StreamBuilder(sender, length, block_size, before)
    ahead: deque[asyncio.Task[Slots]] = deque()
    async with task_group() as group:
        for start in range(0, length, FANOUT * block_size):
            ahead.append(group.create_task(leaves.send(start)))
            if len(ahead) == AHEAD:
                await builder.push_leaf(await ahead.popleft())
            done(min(FANOUT * block_size, length - start))
        for leaf in ahead:
            await builder.push_leaf(await leaf)
    return Descriptor(length, block_size, FIXED, await builder.finish())


async def assemble(
    sender: Sender, length: int, block_size: int, ids: Sequence[bytes | None]
) -> Descriptor:
    """The stream over blocks that are stored already, at most one leaf of them."""
    builder = StreamBuilder(sender, length, block_size, ParentStream(None, None))
    await builder.push_leaf(tuple(ids))
    return Descriptor(length, block_size, FIXED, await builder.finish())


class ParentStream:
    """What the parent point has of a stream; one node per level is remembered."""

    def __init__(self, nodes: NodeReader | None, stream: Descriptor | None) -> None:
        self._nodes, self._stream = nodes, stream
        self._levels = depth(stream.length, stream.block_size) if stream else 0
        self._last: dict[int, tuple[int, Slots]] = {}

    async def slots(self, level: int, index: int) -> Slots:
        """The IDs in the node at this place; empty where there is none, or none to be read."""
        stream, id = self._stream, await self._id(level, index)
        if id is None or stream is None or level == 0 or self._nodes is None:
            return ()
        last = self._last.get(level)
        if last is not None and last[0] == index:
            return last[1]
        try:
            plain, children = await self._nodes.load(Reference(tag_of(Kind.STREAM, level), id))
            expected = slot_count(stream.length, stream.block_size, level, index)
            slots = decode_node(level, plain, children, expected)
        except (FrameMissing, FormatError):
            return ()  # a damaged parent costs reading and comparing, never a wrong point
        self._last[level] = (index, slots)
        return slots

    async def _id(self, level: int, index: int) -> bytes | None:
        if self._stream is None or self._stream.root is None or level > self._levels:
            return None
        if level == self._levels:
            return self._stream.root.id if index == 0 else None
        above = await self.slots(level + 1, index // FANOUT)
        return above[index % FANOUT] if index % FANOUT < len(above) else None

    async def around(self, level: int, index: int) -> frozenset[bytes]:
        """IDs at *level* in the node above this place: the parent has all of these."""
        if self._stream is None or self._stream.root is None or level > self._levels:
            return frozenset()
        if level == self._levels:
            return frozenset((self._stream.root.id,))
        above = await self.slots(level + 1, index // FANOUT)
        return frozenset(id for id in above if id is not None)


class _Leaves:
    """Reads and sends the blocks below one leaf after the other."""

    def __init__(
        self, sender: Sender, file: SourceFile, length: int, block_size: int,
        before: ParentStream, strict: bool, proof: Proof | None,
    ) -> None:  # fmt: skip
        self._sender, self._file, self._strict, self._proof = sender, file, strict, proof
        self._length, self._block_size, self._before = length, block_size, before

    async def send(self, start: int) -> Slots:
        """The leaf that begins at offset *start*."""
        end = min(start + FANOUT * self._block_size, self._length)
        ids: list[bytes | None] = [None] * -(-(end - start) // self._block_size)
        known = await self._before.around(0, start // self._block_size)
        extents = await self._sender.pool.call(tasks.extents, self._file, start, end, self._strict)

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


class StreamBuilder:
    """The nodes above a stream's blocks, from left to right; holds one node per level."""

    def __init__(self, sender: Sender, length: int, block_size: int, before: ParentStream) -> None:
        self._sender, self._length, self._block_size = sender, length, block_size
        self._before, self._depth = before, depth(length, block_size)
        self._open: dict[int, list[bytes | None]] = {}
        self._root: bytes | None = None
        self._leaves = 0

    async def push_leaf(self, slots: Slots) -> None:
        self._leaves += 1
        await self._push(1, self._leaves - 1, slots)

    async def _push(self, level: int, index: int, slots: Sequence[bytes | None]) -> None:
        """Node *index* of *level* is whole: store it, and hand its ID upwards."""
        if level > self._depth:
            self._root = slots[0] if slots else None
            return
        id: bytes | None = None
        if any(slots):
            plain, children = encode_node(level, slots)
            known = await self._before.around(level, index)
            tag = tag_of(Kind.STREAM, level)
            id = (await self._sender.node(tag, plain, children, known)).id
        if level == self._depth:
            self._root = id
            return
        above = self._open.setdefault(level + 1, [])
        above.append(id)
        if len(above) == FANOUT:
            del self._open[level + 1]
            await self._push(level + 1, index // FANOUT, above)

    async def finish(self) -> Reference | None:
        """The stream's root, None for zeros."""
        for level in range(2, self._depth + 1):
            if level in self._open:
                span = FANOUT**level
                last = (block_count(self._length, self._block_size) - 1) // span
                await self._push(level, last, self._open.pop(level))
        if self._root is None:
            return None
        return Reference(root_tag(self._length, self._block_size), self._root)
