"""Send: what workers read and seal goes to the vault, and only what the vault lacks.

    read in a worker -> have, unless it must be new -> seal in the same worker -> store
    -> the reference is known

A lane is free again once its frames are sealed: they wait for their call outside of it, UNDER_WAY
bytes of them at most. A reference is handed out only after the vault acknowledged its frame, so
nodes follow their children. Frames of many callers travel in one call: one fsync serves them all. A
call that breaks takes with it what the vault had not stored yet, so calls are small where they take
long.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, NamedTuple

from transfer.errors import NotStored
from transfer.formats.journal import Ids
from transfer.formats.reference import Reference
from transfer.formats.stream import FIXED, MAX_BLOCK, MIN_BLOCK, Descriptor
from transfer.pipeline import tasks
from transfer.pipeline.batching import Batcher, Room
from transfer.pipeline.node_cache import NodeCache
from transfer.pipeline.resume import NoReads, Question, Reads
from transfer.pipeline.sealing import frame_room
from transfer.pipeline.workers import Leased, Pool
from transfer.vault.base import MAX_FRAMES, Outcome, Vault

MAX_CALL = 4 * 2**20  # what one lane seals goes as it is; more would be copied together
SLOW_CALL = 2**20
USUAL = 5  # calls under way; of more each is smaller, so that all have something to send
SMALL = 2**18  # less than that waits for the end of another call: each costs the vault an fsync
QUICK = 16 * 2**20  # bytes a second of one call
UNDER_WAY = 20 * 2**20  # bytes of sealed frames that wait for their call or its answer
MAX_ASKED = 8192
MAX_ARRIVED = 65536  # IDs that are remembered: equal blocks are not sent one after the other


class Frames(NamedTuple):
    """*frames* whole frames, back to back."""

    raw: bytes
    frames: int

    @property
    def weight(self) -> int:
        """In bytes of a call; small frames weigh more, so that MAX_FRAMES of them fill one."""
        return max(len(self.raw), self.frames * (MAX_CALL // MAX_FRAMES))


class Stored(NamedTuple):
    """Blocks on their way to the vault; *again* says how many of them were there, by parts."""

    ids: Sequence[bytes]
    again: Sequence[asyncio.Future[int]]


Storing = asyncio.Task[None] | None
"""Ends when the vault has acknowledged it; None where nothing is to be stored."""


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
    bytes_resumed: int = 0
    bytes_sent: int = 0
    bytes_stored: int = 0
    blocks_new: int = 0
    blocks_resent: int = 0
    nodes_new: int = 0


class Sender:
    """Blocks and nodes of one point, into one session.

    With *trust_parent* off nothing is taken to be there because the parent has it. *sending* is
    called with the size of each call of frames; *uploads* such calls are under way at once. *level*
    is that of the compression, None for the one that was chosen. *reads* knows what was read and
    notes it; with *resumes*, some of that was in a run that did not end. *is_first*: the domain has
    no point, and hardly any block.
    """

    def __init__(
        self, pool: Pool, vault: Vault, session: int, generation: int, *, group: asyncio.TaskGroup,
        trust_parent: bool, sending: Callable[[int], None] = lambda size: None,
        uploads: Callable[[], int] = lambda: 1,
        cache: NodeCache | None = None, reads: Reads | None = None, resumes: bool = False,
        is_first: bool = False, level: Callable[[], int | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._level = level
        self._reads, self.resumes, self._is_first = reads or NoReads(), resumes, is_first
        self.pool, self.sent, self.trust_parent = pool, Sent(), trust_parent
        self._vault, self._session, self._generation = vault, session, generation
        self._sending, self._cache, self.group = sending, cache, group
        self._have: Batcher[list[bytes], list[bool]] = Batcher(
            group, self._ask_have, len, limit=MAX_ASKED, count=256
        )
        self._store: Batcher[Frames, int] = Batcher(
            group, self._store_frames, lambda each: each.weight, limit=SLOW_CALL, count=256,
            parallel=uploads, least=SMALL,
        )  # fmt: skip
        self._room, self._arrived, self._uploads = Room(UNDER_WAY), set[bytes](), uploads
        self._seal_nodes: Batcher[Node, tuple[Reference, Storing]] = Batcher(
            group, self._nodes_together, lambda each: each.room, limit=2**21, count=64, parallel=4
        )

    async def under_way_with(self, size: int, work: Coroutine[Any, Any, None]) -> Storing:
        """Begin to store so many bytes, which wait outside of a lane, once they have room."""
        try:
            await self._room.take(size)
        except BaseException:
            work.close()
            raise
        task = self.group.create_task(work)
        task.add_done_callback(lambda _: self._room.give(size))
        return task

    @property
    def under_way(self) -> int:
        """Bytes of sealed frames of directories and blocks that the vault has not acknowledged."""
        return self._room.taken

    async def _ask_have(self, questions: list[list[bytes]]) -> list[list[bool]]:
        asked = [id for ids in questions for id in ids]
        there = iter(await self._asked(tasks.DATA, asked))
        return [list(islice(there, len(ids))) for ids in questions]

    async def _asked(self, tag: int, ids: Sequence[bytes]) -> list[bool]:
        with self.pool.activity.asking():
            return await self._vault.have(self._session, tag, self._generation, ids)

    @property
    def _share(self) -> int:
        """Bytes of a call: that many of them, and what waits for them, stay within UNDER_WAY."""
        uploads = self._uploads()
        return MAX_CALL if uploads <= USUAL else UNDER_WAY // uploads

    async def _store_frames(self, parts: list[Frames]) -> list[int]:
        """How many frames of each were there already."""
        size = sum(len(part.raw) for part in parts)
        self._sending(size)
        began = time.monotonic()
        with self.pool.activity.asking():
            outcomes = await self._vault.store(self._session, b"".join(part.raw for part in parts))
        is_quick = size >= QUICK * (time.monotonic() - began)
        self._store.limit = min(MAX_CALL if is_quick else SLOW_CALL, self._share)
        if Outcome.REJECTED in outcomes:
            raise NotStored("the vault rejected a frame", "`transfer key status` shows the epochs")
        stored = sum(outcome is Outcome.STORED for outcome in outcomes)
        self.sent.bytes_sent += size
        self.sent.bytes_stored += size * stored // max(1, len(outcomes))
        answers = iter(outcomes)
        return [
            sum(each is Outcome.EXISTED for each in islice(answers, part.frames)) for part in parts
        ]

    async def recalled(self, questions: Sequence[Question]) -> list[Ids | None]:
        """The IDs of what an interrupted run read, where the vault has all of the blocks."""
        if not self.resumes:
            return [None] * len(questions)
        noted = await self._reads.recall([each.key for each in questions])
        found = [
            ids if ids is not None and len(ids) == each.ids else None
            for ids, each in zip(noted, questions, strict=True)
        ]
        blocks = [(ids or ())[: each.blocks] for ids, each in zip(found, questions, strict=True)]
        asked = list({id for some in blocks for id in some if id is not None})
        there: dict[bytes | None, bool] = {None: True}
        if asked:
            there.update(zip(asked, await self._have.ask(asked), strict=True))
        return [
            ids if all(there[id] for id in some) else None
            for ids, some in zip(found, blocks, strict=True)
        ]

    async def note(self, extents: Sequence[tuple[bytes, Ids]]) -> None:
        """Their blocks were read and are stored: a later run may go on from there."""
        if extents:
            await self._reads.note(extents)

    async def keep(self, nodes: Sequence[Reference]) -> None:
        """They and all that is below them stay as the parent point has them."""
        if self._cache is not None and nodes:
            await asyncio.to_thread(self._cache.keep, nodes)

    async def blocks(
        self, worker: Leased, ids: Sequence[bytes | None], known: frozenset[bytes] = frozenset(),
        are_new: bool = False,
    ) -> Stored | None:  # fmt: skip
        """Send off those of the blocks that *worker* keeps which are neither *known* nor there.

        *ids* are theirs in order; None, for zeros, is never stored. Where they *are_new*, by all
        that is known, nobody is asked: one that is there costs its sending. The lane is free then;
        the blocks are stored when `arrived` returns.
        """
        numbers = {id: n for n, id in enumerate(ids) if id is not None and id not in known}
        if (are_new or self._is_first) and not self.resumes:
            there = [id in self._arrived for id in numbers]
        else:
            there = await self._have.ask(list(numbers)) if numbers else []
        wanted = [(n, id) for (id, n), has in zip(numbers.items(), there, strict=True) if not has]
        if not wanted:
            return None
        lengths = await worker.call(tasks.seal_kept, wanted, self._level())
        size = sum(lengths)
        with self.pool.activity.held():
            await self._room.take(size)
        again = [self._store.put(part) for part in _parts(worker.slot, lengths, self._share)]
        left = len(again)

        def arrived(_: asyncio.Future[int]) -> None:
            nonlocal left
            left -= 1
            if not left:
                self._room.give(size)

        for each in again:
            each.add_done_callback(arrived)
        return Stored([id for _, id in wanted], again)

    async def arrived(self, stored: Stored | None) -> None:
        """Return when the vault has acknowledged them all. Raises what the call raised."""
        if stored is not None:
            again = await asyncio.gather(*stored.again)
            self.sent.blocks_new += len(stored.ids)
            self.sent.blocks_resent += sum(again)
            if len(self._arrived) > MAX_ARRIVED:
                self._arrived.clear()
            self._arrived.update(stored.ids)

    async def node(
        self, tag: int, plain: bytes, children: bytes, known: frozenset[bytes] = frozenset()
    ) -> Reference:
        """Store a node whose children are stored; not sent if the parent is *known* to have it."""
        reference, storing = await self._seal_nodes.ask(
            Node(tag, plain, children, known if self.trust_parent else frozenset())
        )
        await acknowledged(storing)
        return reference

    async def _nodes_together(self, nodes: list[Node]) -> list[tuple[Reference, Storing]]:
        """Sealed; the next ones need not wait until these are stored."""
        if self.resumes:
            nodes = await self._not_there(nodes)

        async def work(worker: Leased) -> tuple[list[tuple[bytes, int]], bytes]:
            sealed = await worker.call(tasks.seal_nodes, [(*node,) for node in nodes])
            return sealed, bytes(worker.slot[: sum(length for _, length in sealed)])

        sealed, raw = await self.pool.run(work)
        named = [Reference(node.tag, id) for node, (id, _) in zip(nodes, sealed, strict=True)]
        lengths = [length for _, length in sealed]
        storing = self.group.create_task(self.nodes(raw, named, lengths)) if raw else None
        return [(each, storing) for each in named]

    async def nodes(self, raw: bytes, named: Sequence[Reference], lengths: Sequence[int]) -> None:
        """Store nodes that are sealed, whose children are stored: their frames, back to back.

        One that the parent is known to have is of length 0.
        """
        count = sum(length > 0 for length in lengths)
        if count:
            await self._store.ask(Frames(raw, count))
            self.sent.nodes_new += count
            if self._cache is not None:
                await asyncio.to_thread(self._cache.add, _split(raw, named, lengths))

    async def _not_there(self, nodes: list[Node]) -> list[Node]:
        """The interrupted run sent nodes too: those that are whole in the vault are known."""
        references = await self.pool.call(tasks.identify_nodes, [node[:3] for node in nodes])
        there: set[bytes] = set()
        for tag in {each.tag for each in references}:
            ids = [each.id for each in references if each.tag == tag]
            has = await self._asked(tag, ids)
            there.update(id for id, yes in zip(ids, has, strict=True) if yes)
        return [node._replace(known=node.known | there) for node in nodes]

    async def content(self, content: bytes) -> Descriptor:
        """A stream of what is at hand: at most one block."""
        if len(content) > MAX_BLOCK:
            raise ValueError("too large for one block")
        block_size = max(MIN_BLOCK, 1 << (len(content) - 1).bit_length())
        root = await self.node(tasks.DATA, content, b"")
        return Descriptor(len(content), block_size, FIXED, root)


async def acknowledged(storing: Storing) -> None:
    """Raises what the vault's call raised."""
    if storing is not None:
        await asyncio.shield(storing)


def _parts(slot: memoryview, lengths: Sequence[int], most: int) -> Iterator[Frames]:
    """The frames at the start of *slot*, in parts of at most *most* bytes, or of one frame."""
    begins = at = frames = 0
    for length in lengths:
        if frames and at + length - begins > most:
            yield Frames(bytes(slot[begins:at]), frames)
            begins, frames = at, 0
        at, frames = at + length, frames + 1
    yield Frames(bytes(slot[begins:at]), frames)


def _split(
    raw: bytes, references: Sequence[Reference], lengths: Sequence[int]
) -> list[tuple[Reference, memoryview]]:
    """The frames in *raw*; those of length 0 are not in it."""
    view, ends = memoryview(raw), accumulate(lengths)
    return [
        (reference, view[end - length : end])
        for reference, length, end in zip(references, lengths, ends, strict=True)
        if length
    ]
