"""Fetch: frames come from the vault and are opened in workers; nothing is believed unchecked.

The vault may have several copies of a frame, and cannot tell which of them opens. It is told of one
that does not, and gives the next.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from transfer.errors import FormatError, FrameMissing
from transfer.formats.directory import decode_index, decode_page
from transfer.formats.entry import Entry
from transfer.formats.frame import HEADER_SIZE
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import (
    FANOUT,
    Descriptor,
    block_count,
    decode_node,
    depth,
    slot_count,
)
from transfer.pipeline import tasks
from transfer.pipeline.batching import Batcher
from transfer.pipeline.node_cache import NodeCache
from transfer.pipeline.workers import Pool
from transfer.vault.base import Arrived, Vault, fetched

MAX_COPIES = 100  # of a frame that are tried: a vault could make up new ones for ever


class Given(NamedTuple):
    """A copy by its header, and how many had been reported before it was asked for."""

    header: bytes
    turn: int


@dataclass(frozen=True)
class Unopened:
    """A node's frame, and what is wrong with it."""

    header: bytes
    why: str


Opened = tuple[bytes, bytes] | Unopened | None  # (plaintext, child list); None: missing


class NodeReader:
    """Nodes and what they say, from a vault in one read session or a writer's own."""

    def __init__(
        self, pool: Pool, vault: Vault, session: int, group: asyncio.TaskGroup,
        cache: NodeCache | None = None,
    ) -> None:  # fmt: skip
        self._pool, self._vault, self._session, self._cache = pool, vault, session, cache
        self._reported: dict[Reference, int] = {}  # how many copies of it
        self._reporting = asyncio.Lock()
        # A page has at most 256 KiB: 32 of them stay below what one message to a worker may hold.
        # A few cost as much as many; they wait for those that are under way.
        self._load: Batcher[Reference, Opened] = Batcher(
            group, self._load_together, lambda _: 1, limit=32, count=32, parallel=2, least=16
        )

    async def load(self, reference: Reference) -> tuple[bytes, bytes]:
        """(plaintext, child list); raises FrameMissing when there is no copy that opens."""
        tries = Tries(self)
        while True:
            turn = self.turn(reference)
            opened = await self._load.ask(reference)
            if opened is None:
                raise FrameMissing(f"{reference} is not in the vault")
            if not isinstance(opened, Unopened):
                return opened
            given = {reference: Given(opened.header, turn)}
            if not await tries.again(given, [reference]):
                raise FrameMissing(f"{reference} is damaged: {opened.why}")

    async def _load_together(self, references: list[Reference]) -> list[Opened]:
        near = await self._from_cache(references)
        left = [each for each in references if each not in near]
        if not left:
            return [near[each] for each in references]
        with self._pool.activity.asking():
            raws = await fetched(self._vault, self._session, left)
        there = {each: raw for each, raw in zip(left, raws, strict=True) if raw is not None}
        opened = await self._open(there)
        if self._cache is not None:
            sound = [(each, raw) for each, raw in there.items() if isinstance(opened[each], tuple)]
            await asyncio.to_thread(self._cache.add, sound)
        return [near.get(each) or opened.get(each) for each in references]

    async def _from_cache(self, references: list[Reference]) -> dict[Reference, Opened]:
        """Those that are in the cache and open."""
        if self._cache is None:
            return {}
        raws = await asyncio.to_thread(self._cache.get, references)
        found = {each: raw for each, raw in zip(references, raws, strict=True) if raw is not None}
        opened = await self._open(found)
        for each in [each for each, it in opened.items() if isinstance(it, Unopened)]:
            self._cache.forget(each)
            del opened[each]
        return opened

    async def _open(self, raws: dict[Reference, bytes]) -> dict[Reference, Opened]:
        if not raws:
            return {}
        opened = await self._pool.call(tasks.open_nodes, [*raws.values()], [*raws])
        return {
            each: Unopened(raws[each][:HEADER_SIZE], found) if isinstance(found, str) else found
            for each, found in zip(raws, opened, strict=True)
        }

    async def fetch(self, references: Sequence[Reference], arrived: Arrived) -> None:
        if references:
            with self._pool.activity.asking():
                await self._vault.fetch(self._session, references, arrived)

    def turn(self, reference: Reference) -> int:
        """How many copies have been reported: to be asked before the frame is asked for."""
        return self._reported.get(reference, 0)

    async def report(self, copies: Mapping[Reference, Given]) -> None:
        """These do not open. A copy that others had as well, and reported, is reported once: the
        vault would take it for the next one.
        """
        async with self._reporting:
            new = {each: it.turn + 1 for each, it in copies.items() if self.turn(each) == it.turn}
            await self._vault.report_damaged(self._session, list(new))
            self._reported.update(new)

    async def entries(
        self,
        root: Reference | None,
        damaged: list[str] | None = None,
        indexes: set[bytes] | None = None,
    ) -> AsyncGenerator[tuple[Entry, Reference], None]:
        """The entries of a directory in order, each with the page it stands on.

        With *damaged*, pages that cannot be read are named there and left out. IDs of the
        indexes on the way are put into *indexes*.
        """
        if root is None:
            return
        last = b""
        async with aclosing(self.pages(root, damaged, indexes)) as pages:
            async for reference in pages:
                try:
                    page = decode_page(*await self.load(reference))
                except (FrameMissing, FormatError) as error:
                    if damaged is None:
                        raise
                    damaged.append(str(error))
                    continue
                for entry in page:
                    if entry.name <= last:
                        raise FormatError(f"{reference}: pages of a directory are out of order")
                    last = entry.name
                    yield entry, reference

    async def pages(
        self, root: Reference, damaged: list[str] | None = None, indexes: set[bytes] | None = None
    ) -> AsyncGenerator[Reference, None]:
        """The pages of a directory in order; *damaged* and *indexes* as above."""
        left = [root]
        while left:
            reference = left.pop()
            if reference.kind is not Kind.INDEX:
                yield reference
                continue
            try:
                index = decode_index(reference.level, *await self.load(reference))
            except (FrameMissing, FormatError) as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
                continue
            if indexes is not None:
                indexes.add(reference.id)
            left += [child.child for child in reversed(index)]

    async def blocks(
        self, stream: Descriptor, damaged: list[tuple[int, int]] | None = None
    ) -> AsyncGenerator[tuple[int, bytes | None], None]:
        """(block number, ID or None for zeros) in order.

        With *damaged*, extents whose node cannot be read are noted there and left out.
        """
        levels = depth(stream.length, stream.block_size)
        total = block_count(stream.length, stream.block_size)
        todo: list[tuple[int, int, bytes | None]] = [
            (levels, 0, stream.root.id if stream.root is not None else None)
        ] if total else []  # fmt: skip
        while todo:
            level, index, id = todo.pop()
            span = FANOUT**level
            first, last = index * span, min((index + 1) * span, total)
            if level == 0:
                yield index, id
            elif id is None:
                for number in range(first, last):
                    yield number, None
            else:
                try:
                    reference = Reference(tag_of(Kind.STREAM, level), id)
                    plain, children = await self.load(reference)
                    expected = slot_count(stream.length, stream.block_size, level, index)
                    slots = decode_node(level, plain, children, expected)
                except (FrameMissing, FormatError):
                    if damaged is None:
                        raise
                    start = first * stream.block_size
                    end = min(last * stream.block_size, stream.length)
                    damaged.append((start, end - start))
                    continue
                below = index * FANOUT
                todo += [(level - 1, below + n, slots[n]) for n in reversed(range(len(slots)))]


class Tries:
    """Of some frames the copies that were given in vain."""

    def __init__(self, nodes: NodeReader) -> None:
        self._nodes, self._seen, self._left = nodes, set[bytes](), MAX_COPIES

    async def again(
        self, given: Mapping[Reference, Given], failed: Iterable[Reference]
    ) -> set[Reference]:
        """Report what *failed* to open, and say of which of that another copy may be there.

        There is none of what is missing, or came for the second time.
        """
        new = {
            each: given[each] for each in failed
            if each in given and given[each].header not in self._seen
        }  # fmt: skip
        if not new or not self._left:
            return set()
        self._left -= 1
        self._seen.update(copy.header for copy in new.values())
        await self._nodes.report(new)
        return set(new)
