"""Changed streams: of a stream only the blocks that changed since the parent point are read.

    a subtree without a change    is the parent's node, taken over whole
    a leaf with one               is the parent's, its changed blocks read anew
    a leaf that cannot be loaded  is read whole

So a point costs what changed, whatever there is. Extents come in ascending order and are looked at
one leaf or subtree at a time: memory does not grow with their number. What a change source calls
clean is not looked at, but for a sample: a block of it that is not the parent's shows that the
source is not to be believed.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from transfer.errors import FormatError, FrameMissing
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import FANOUT, FIXED, Descriptor, block_count, depth
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.resume import Proof
from transfer.pipeline.send import Sender
from transfer.pipeline.stream_nodes import ParentStream, StreamBuilder
from transfer.pipeline.streams import Leaves
from transfer.sources.changes import Content, Data, Extent
from transfer.waiting import task_group

AHEAD = 256  # parts under way: of most leaves one block is read, and then its node is stored
FEW = 16  # changed blocks of a leaf, for which it is not asked where its holes are


class TrackerLied(Exception):
    """Blocks (their numbers) of what was called clean are not what the parent point has there."""

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__(*blocks)
        self.blocks = list(blocks)


class _Placed(NamedTuple):
    """A stored node, or zeros, and its place."""

    level: int
    number: int
    id: bytes | None


_Part = Coroutine[Any, Any, _Placed]


class Changes:
    """Changed extents of a stream that had *old* bytes and has *new* now, in ascending order.

    What lies between the two lengths is among them, with the block in which the shorter one ends.
    """

    def __init__(self, extents: AsyncIterator[Extent], old: int, new: int, block_size: int) -> None:
        self._extents = _with_tail(extents, old, new, block_size)
        self._next: Extent | None = None
        self._ended = False

    async def any_before(self, end: int) -> bool:
        """Whether some of what was not taken yet begins before *end*."""
        while self._next is None and not self._ended:
            try:
                self._next = await anext(self._extents)
            except StopAsyncIteration:
                self._ended = True
        return self._next is not None and self._next[0] < end

    async def take(self, end: int) -> list[Extent]:
        """All before *end*."""
        taken: list[Extent] = []
        while await self.any_before(end) and self._next is not None:
            offset, length = self._next
            here = min(length, end - offset)
            taken.append((offset, here))
            self._next = (end, length - here) if here < length else None
        return taken


async def _with_tail(
    extents: AsyncIterator[Extent], old: int, new: int, block_size: int
) -> AsyncIterator[Extent]:
    tail = new if old == new else min(old, new) // block_size * block_size
    at = 0
    async for offset, length in extents:
        if offset < at or length <= 0:
            raise ValueError("changed extents must ascend and be disjoint")
        if offset >= tail:
            break
        at = offset + length
        yield offset, min(at, tail) - offset
    if tail < new:
        yield tail, new - tail


async def send_changed(
    sender: Sender, nodes: NodeReader, file: Content, length: int, parent: Descriptor,
    extents: AsyncIterator[Extent], strict: bool, sample: Sequence[int] = (),
    done: Callable[[int], None] = lambda size: None, proof: Proof | None = None,
    data: Data | None = None,
) -> Descriptor:  # fmt: skip
    """As `send_stream`, of a stream of which only *extents* changed since *parent*.

    *sample* are numbers of blocks to look at if they are called clean. Raises TrackerLied, too.
    """
    before = ParentStream(nodes, parent)
    leaves = Leaves(sender, file, length, parent.block_size, before, strict, proof, data)
    stream = _ChangedStream(sender, leaves, before, length, parent, extents, sample)
    ahead: deque[asyncio.Task[_Placed]] = deque()
    async with task_group() as group:
        async for part, size in stream.parts():
            ahead.append(group.create_task(part))
            if len(ahead) == AHEAD:
                await stream.builder.place(*await ahead.popleft())
            done(size)
        for task in ahead:
            await stream.builder.place(*await task)
    root = await stream.builder.finish()
    await sender.keep(stream.kept)
    if lied := await stream.audit():
        raise TrackerLied(lied)
    return Descriptor(length, parent.block_size, FIXED, root)


class _ChangedStream:
    def __init__(
        self, sender: Sender, leaves: Leaves, before: ParentStream, length: int,
        parent: Descriptor, extents: AsyncIterator[Extent], sample: Sequence[int],
    ) -> None:  # fmt: skip
        self._length, self._old_length, self._block_size = length, parent.length, parent.block_size
        self._span = FANOUT * parent.block_size  # bytes below a leaf
        self._before, self._leaves = before, leaves
        self.builder = StreamBuilder(sender, length, parent.block_size, self._before)
        self._changes = Changes(extents, parent.length, length, parent.block_size)
        depths = [depth(each, parent.block_size) for each in (length, parent.length)]
        self._leaf_level, self._levels = min(1, depths[0]), min(depths)
        self._sample, self._clean = deque(sorted(sample)), list[int]()
        self.kept: list[Reference] = []

    async def parts(self) -> AsyncIterator[tuple[_Part, int]]:
        """What is done about each part of the stream, from left to right, and its bytes."""
        at = 0
        while at < self._length:
            part, size = await self._taken(at) or await self._leaf(at)
            yield part, size
            at += size

    async def _taken(self, at: int) -> tuple[_Part, int] | None:
        """The largest subtree from *at* on that is the parent's."""
        for level in range(self._levels, 0, -1):
            size = self._block_size * FANOUT**level
            end = min(at + size, self._length)
            if at % size or not self._is_same_shape(at + size):
                continue
            if await self._changes.any_before(end):
                continue
            try:
                id = await self._before.id(level, at // size)
            except (FrameMissing, FormatError):
                continue  # a damaged parent costs reading, never a wrong point
            self._look_at_clean(end, [])
            if id is not None:
                self.kept.append(Reference(tag_of(Kind.STREAM, level), id))
            return _done(_Placed(level, at // size, id)), end - at
        return None

    def _is_same_shape(self, end: int) -> bool:
        return self._length == self._old_length or end <= min(self._length, self._old_length)

    async def _leaf(self, start: int) -> tuple[_Part, int]:
        end = min(start + self._span, self._length)
        changed = _blocks(await self._changes.take(end), self._block_size)
        self._look_at_clean(end, changed)
        return self._sent(start, end, changed), end - start

    async def _sent(self, start: int, end: int, changed: list[int]) -> _Placed:
        index, first = start // self._span, start // self._block_size
        try:
            old = await self._before.slots(1, index)
        except (FrameMissing, FormatError):
            slots = await self._leaves.send(start)
        else:
            count = block_count(end - start, self._block_size)
            padded = [*old[:count], *[None] * (count - len(old))]
            if len(changed) > FEW:
                data = set(_blocks(await self._leaves.data(start, end), self._block_size))
                for number in set(changed) - data:
                    padded[number - first] = None
                changed = [number for number in changed if number in data]
            extents, known = self._extents(changed), frozenset(filter(None, old))
            slots = await self._leaves.send_blocks(start, tuple(padded), extents, known, True)
        return _Placed(self._leaf_level, index, await self.builder.leaf(index, slots))

    def _extents(self, blocks: Sequence[int]) -> list[Extent]:
        return [(number * self._block_size, self._block_size) for number in blocks]

    def _look_at_clean(self, end: int, changed: Sequence[int]) -> None:
        """Of the sample what lies before *end* and did not change."""
        while self._sample and self._sample[0] * self._block_size < end:
            number = self._sample.popleft()
            if number not in changed:
                self._clean.append(number)

    async def audit(self) -> list[int]:
        """Which of the sample that is clean are not the parent's blocks."""
        async with task_group() as group:
            looks = [(number, group.create_task(self._is_same(number))) for number in self._clean]
        return [number for number, look in looks if not look.result()]

    async def _is_same(self, number: int) -> bool:
        index, at = divmod(number, FANOUT)
        try:
            old = await self._before.slots(1, index)
        except (FrameMissing, FormatError):
            return True  # its leaf was read
        start = index * self._span
        count = block_count(min(self._span, self._length - start), self._block_size)
        extents, known = self._extents([number]), frozenset(filter(None, old))
        now = await self._leaves.send_blocks(start, (None,) * count, extents, known)
        return now[at] == (old[at] if at < len(old) else None)


def _blocks(extents: Sequence[Extent], block_size: int) -> list[int]:
    """The numbers of the blocks that they touch, in ascending order."""
    numbers: list[int] = []
    for offset, length in extents:
        first = offset // block_size
        if numbers:
            first = max(first, numbers[-1] + 1)
        numbers += range(first, -(-(offset + length) // block_size))
    return numbers


async def _done(placed: _Placed) -> _Placed:
    return placed
