"""Send: what workers read and seal goes to the vault, and only what the vault lacks.

    read in a worker -> have -> seal in the same worker -> store -> the reference is known

A reference is handed out only after the vault acknowledged its frame, so nodes follow their
children. Frames of many callers travel in one call: one fsync serves them all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

from transfer.errors import NotStored, WorkerLost
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import (
    FANOUT,
    FIXED,
    MAX_BLOCK,
    MIN_BLOCK,
    Descriptor,
    block_count,
    decode_node,
    depth,
    encode_node,
    root_tag,
    slot_count,
)
from transfer.pipeline import tasks
from transfer.pipeline.batching import Batcher, task_group
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.sealing import frame_room
from transfer.pipeline.workers import Leased, Pool
from transfer.sources.reading import SourceFile
from transfer.vault.base import MAX_FRAMES, Outcome, Vault

T = TypeVar("T")
MAX_CALL = 8 * 2**20
MAX_ASKED = 8192
_TRIES = 3


class Frames(NamedTuple):
    """*frames* whole frames, back to back."""

    raw: bytes
    frames: int

    @property
    def weight(self) -> int:
        """In bytes of a call; small frames weigh more, so that MAX_FRAMES of them fill one."""
        return max(len(self.raw), self.frames * (MAX_CALL // MAX_FRAMES))


class Node(NamedTuple):
    tag: int
    plain: bytes
    children: bytes
    known: frozenset[bytes]

    @property
    def room(self) -> int:
        return frame_room(len(self.plain), len(self.children))


@dataclass
class Sent:
    """Counters of one run."""

    bytes_read: int = 0
    bytes_sent: int = 0
    bytes_stored: int = 0
    blocks_new: int = 0
    nodes_new: int = 0


class Sender:
    """Everything below one point: blocks, streams and nodes, into one session."""

    def __init__(
        self, pool: Pool, vault: Vault, session: int, generation: int, nodes: NodeReader, *,
        group: asyncio.TaskGroup, trust_parent: bool,
    ) -> None:  # fmt: skip
        self.sent = Sent()
        self._pool, self._vault, self._session = pool, vault, session
        self._generation, self._nodes, self._trust = generation, nodes, trust_parent
        self._have: Batcher[list[bytes], list[bool]] = Batcher(
            group, self._ask_have, len, limit=MAX_ASKED, count=256
        )
        self._store: Batcher[Frames, None] = Batcher(
            group, self._store_frames, lambda each: each.weight, limit=MAX_CALL, count=256
        )
        self._seal_nodes: Batcher[Node, Reference] = Batcher(
            group, self._nodes_together, lambda each: each.room, limit=2**21, count=64, parallel=2
        )

    async def _ask_have(self, questions: list[list[bytes]]) -> list[list[bool]]:
        asked = [id for ids in questions for id in ids]
        there = iter(await self._vault.have(self._session, tasks.DATA, self._generation, asked))
        return [list(islice(there, len(ids))) for ids in questions]

    async def _store_frames(self, parts: list[Frames]) -> list[None]:
        outcomes = await self._vault.store(self._session, b"".join(part.raw for part in parts))
        if Outcome.REJECTED in outcomes:
            raise NotStored("the vault rejected a frame", "`transfer key status` shows the epochs")
        size = sum(len(part.raw) for part in parts)
        stored = sum(outcome is Outcome.STORED for outcome in outcomes)
        self.sent.bytes_sent += size
        self.sent.bytes_stored += size * stored // max(1, len(outcomes))
        return [None] * len(parts)

    async def leased(self, work: Callable[[Leased], Awaitable[T]]) -> T:
        """Do *work* with a worker, again with another one if that worker dies."""
        for left in reversed(range(_TRIES)):
            try:
                async with self._pool.lease() as worker:
                    return await work(worker)
            except WorkerLost:
                if not left:
                    raise
        raise AssertionError

    async def small_files(
        self, files: Sequence[SourceFile], block_size: int, strict: bool
    ) -> list[tasks.FileRead]:
        async def work(worker: Leased) -> list[tasks.FileRead]:
            found: list[tasks.FileRead] = await worker.call(
                tasks.read_files, files, block_size, strict
            )
            await self._seal(worker, [id for read in found for id in read.ids], frozenset())
            return found

        reads = await self.leased(work)
        self.sent.bytes_read += sum(file.stat.size for file in files)
        return reads

    async def _seal(
        self, worker: Leased, ids: Sequence[bytes | None], known: frozenset[bytes]
    ) -> None:
        """Store those kept blocks that are neither *known* nor in the vault."""
        numbers = {id: n for n, id in enumerate(ids) if id is not None and id not in known}
        if not numbers:
            return
        asked = list(numbers)
        there = await self._have.ask(asked)
        wanted = [(numbers[id], id) for id, has in zip(asked, there, strict=True) if not has]
        if not wanted:
            return
        lengths = await worker.call(tasks.seal_kept, wanted)
        await self._store.ask(Frames(bytes(worker.slot[: sum(lengths)]), len(lengths)))
        self.sent.blocks_new += len(lengths)

    async def node(
        self, tag: int, plain: bytes, children: bytes, known: frozenset[bytes]
    ) -> Reference:
        """Store a node whose children are stored; not sent if the parent is *known* to have it."""
        return await self._seal_nodes.ask(
            Node(tag, plain, children, known if self._trust else frozenset())
        )

    async def _nodes_together(self, nodes: list[Node]) -> list[Reference]:
        async def work(worker: Leased) -> list[Reference]:
            sealed = await worker.call(tasks.seal_nodes, [(*node,) for node in nodes])
            count = sum(length > 0 for _, length in sealed)
            if count:
                total = sum(length for _, length in sealed)
                await self._store.ask(Frames(bytes(worker.slot[:total]), count))
                self.sent.nodes_new += count
            return [Reference(node.tag, id) for node, (id, _) in zip(nodes, sealed, strict=True)]

        return await self.leased(work)

    async def assembled(
        self, length: int, block_size: int, ids: Sequence[bytes | None]
    ) -> Descriptor:
        """The stream over blocks that are stored already, at most one leaf of them."""
        builder = _StreamBuilder(self, length, block_size, None)
        await builder.push(1, 0, tuple(ids))
        return Descriptor(length, block_size, FIXED, await builder.finish())

    async def bytes_stream(self, content: bytes) -> Descriptor:
        """A small stream of what is at hand: at most one block."""
        if len(content) > MAX_BLOCK:
            raise ValueError("too large for one block")
        block_size = max(MIN_BLOCK, 1 << (len(content) - 1).bit_length())
        root = await self.node(tasks.DATA, content, b"", frozenset())
        return Descriptor(len(content), block_size, FIXED, root)

    async def stream(
        self, file: SourceFile, length: int, block_size: int, parent: Descriptor | None,
        strict: bool,
    ) -> Descriptor:  # fmt: skip
        """Send a file of any length; blocks equal to the parent's at the same place are not sent.

        Raises tasks.SourceChanged (when *strict*) or OSError.
        """
        if parent is not None and (parent.block_size != block_size or not self._trust):
            parent = None
        builder = _StreamBuilder(self, length, block_size, parent)
        leaf_bytes = FANOUT * block_size
        window = asyncio.Semaphore(4)

        async def leaf(index: int) -> tuple[bytes | None, ...]:
            async with window:
                known = await builder.parent_slots(1, index) if depth(length, block_size) else None
                start = index * leaf_bytes
                end = min(start + leaf_bytes, length)
                return await self._leaf(file, start, end, block_size, known, parent, strict)

        for first in range(0, max(1, -(-length // leaf_bytes)), 4):
            last = min(first + 4, -(-length // leaf_bytes))
            for index, slots in enumerate(
                await _gather([leaf(index) for index in range(first, last)]), first
            ):
                await builder.push(1, index, slots)
        return Descriptor(length, block_size, FIXED, await builder.finish())

    async def _leaf(
        self, file: SourceFile, start: int, end: int, block_size: int,
        known: tuple[bytes | None, ...] | None, parent: Descriptor | None, strict: bool,
    ) -> tuple[bytes | None, ...]:  # fmt: skip
        ids: list[bytes | None] = [None] * -(-(end - start) // block_size)
        same = frozenset(id for id in known or () if id is not None)
        if parent is not None and parent.root is not None and known is None:
            same = frozenset((parent.root.id,))
        per_batch = max(1, tasks.BATCH // block_size)

        async def batch(first: int, count: int) -> None:
            offset = start + first * block_size
            size = min(count * block_size, end - offset)

            async def work(worker: Leased) -> list[bytes | None]:
                found: list[bytes | None] = await worker.call(
                    tasks.read_blocks, file, offset, size, block_size, strict
                )
                await self._seal(worker, found, same)
                return found

            ids[first : first + count] = await self.leased(work)
            self.sent.bytes_read += size

        async def find(worker: Leased) -> list[tuple[int, int]]:
            found: list[tuple[int, int]] = await worker.call(
                tasks.extents, file, start, end, strict
            )
            return found

        runs = _block_runs(await self.leased(find), start, block_size, per_batch)
        await _gather([batch(first, count) for first, count in runs])
        return tuple(ids)


def _block_runs(
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


async def _gather(work: Sequence[Awaitable[T]]) -> list[T]:
    async with task_group() as group:
        running = [group.create_task(_awaited(each)) for each in work]
    return [task.result() for task in running]


async def _awaited(work: Awaitable[T]) -> T:
    return await work


class _StreamBuilder:
    """The nodes above a stream's blocks, from left to right; holds one node per level."""

    def __init__(
        self, sender: Sender, length: int, block_size: int, parent: Descriptor | None
    ) -> None:
        self._sender, self._length, self._block_size = sender, length, block_size
        self._parent = parent
        self._depth = depth(length, block_size)
        self._open: dict[int, list[bytes | None]] = {}
        self._cached: dict[int, tuple[int, tuple[bytes | None, ...]]] = {}
        self._root: bytes | None = None

    async def parent_slots(self, level: int, index: int) -> tuple[bytes | None, ...]:
        """IDs in the parent's node at this place; empty where it has none."""
        parent = self._parent
        if parent is None or parent.root is None:
            return ()
        levels = depth(parent.length, parent.block_size)
        if level > levels:
            return ()
        if level == levels:
            id = parent.root.id if index == 0 else None
        else:
            above = await self.parent_slots(level + 1, index // FANOUT)
            id = above[index % FANOUT] if index % FANOUT < len(above) else None
        if id is None:
            return ()
        cached = self._cached.get(level)
        if cached is not None and cached[0] == index:
            return cached[1]
        plain, children = await self._sender._nodes.load(Reference(tag_of(Kind.STREAM, level), id))
        expected = slot_count(parent.length, parent.block_size, level, index)
        slots = decode_node(level, plain, children, expected)
        self._cached[level] = (index, slots)
        return slots

    async def push(self, level: int, index: int, slots: Sequence[bytes | None]) -> None:
        """Node *index* of *level* is whole: store it, and hand its ID upwards."""
        if level > self._depth:
            self._root = slots[0] if slots else None
            return
        id: bytes | None = None
        if any(slots):
            plain, children = encode_node(level, slots)
            tag = tag_of(Kind.STREAM, level)
            known = frozenset(id for id in await self._known(level, index) if id is not None)
            id = (await self._sender.node(tag, plain, children, known)).id
        if level == self._depth:
            self._root = id
            return
        above = self._open.setdefault(level + 1, [])
        above.append(id)
        if len(above) == FANOUT:
            del self._open[level + 1]
            await self.push(level + 1, index // FANOUT, above)

    async def _known(self, level: int, index: int) -> Sequence[bytes | None]:
        if self._parent is not None and self._parent.root is not None:
            levels = depth(self._parent.length, self._parent.block_size)
            if level == levels:
                return (self._parent.root.id,)
            return await self.parent_slots(level + 1, index // FANOUT)
        return ()

    async def finish(self) -> Reference | None:
        for level in range(2, self._depth + 1):
            if level in self._open:
                nodes = block_count(self._length, self._block_size)
                for _ in range(level):
                    nodes = -(-nodes // FANOUT)
                await self.push(level, nodes - 1, self._open.pop(level))
        if self._root is None:
            return None
        return Reference(root_tag(self._length, self._block_size), self._root)
