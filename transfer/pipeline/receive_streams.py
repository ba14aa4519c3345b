"""Receive streams: blocks are fetched in batches into a worker's slot, opened and used there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transfer.formats.entry import Content, Slice
from transfer.formats.frame import HEADER_SIZE, MAX_EXPANSION
from transfer.formats.reference import Reference
from transfer.formats.stream import MAX_BLOCK, Descriptor
from transfer.pipeline.fetch import Given, NodeReader, Tries
from transfer.pipeline.tasks import BATCH, DATA, block_extent
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import Extents, FrameAt, Piece
from transfer.waiting import task_group

Use = Callable[[Leased, list[FrameAt], Extents], Awaitable[list[Reference]]]
UseOf = Callable[[Sequence[int], list[FrameAt]], Awaitable[list[Reference]]]
"""Of units of pieces, by number: what of their frames does not open."""
Present = Callable[[Leased, list[Piece]], Awaitable[list[bool]]]
AT_ONCE = 8  # batches under way; each waits for a lane before it takes memory
QUICK = 0.005  # seconds; what comes later is used as it comes, for an end may come meanwhile


@dataclass
class Received:
    """Counters of one run, and what was damaged."""

    bytes_received: int = 0
    bytes_written: int = 0
    bytes_kept: int = 0
    blocks: int = 0
    files: int = 0
    damaged: list[str] = field(default_factory=list)
    unfinished: bool = False
    """Something was left out that the same run may write when it is made again."""


async def fill(
    nodes: NodeReader, worker: Leased, units: Sequence[Sequence[Piece]], received: Received,
    use: UseOf, numbers: Sequence[int],
) -> tuple[list[Reference], dict[Reference, Given]]:  # fmt: skip
    """Fetch the frames of the units with these *numbers*; *use* is given those of some at a time.

    Together when they come quickly, else each unit once it is whole: whoever is killed loses what
    was fetched and not used. Returns what *use* could not open, and which copies the vault gave.
    """
    failed: list[Reference] = []
    there: dict[Reference, bytes] = {}
    come = asyncio.Event()

    def arrived(reference: Reference, raw: bytes) -> None:
        there[reference] = raw
        come.set()

    asked = [piece.reference for n in numbers for piece in units[n]]
    turns = {each: nodes.turn(each) for each in asked}
    fetching = asyncio.ensure_future(nodes.fetch(asked, arrived))
    fetching.add_done_callback(lambda _: come.set())
    try:
        await asyncio.wait({fetching}, timeout=QUICK)
        left = list(numbers)
        while left:
            if not fetching.done():
                await come.wait()
                come.clear()
            if ended := fetching.done():
                await fetching
            count = _usable([units[n] for n in left], there, len(worker.slot), ended)
            if count:
                some, left = left[:count], left[count:]
                pieces = [piece for n in some for piece in units[n]]
                failed += await use(some, _in_slot(worker.slot, pieces, there, received))
    finally:
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
    given = {each: Given(raw[:HEADER_SIZE], turns[each]) for each, raw in there.items()}
    return failed, given


def _usable(
    units: Sequence[Sequence[Piece]], there: Mapping[Reference, bytes], room: int, ended: bool
) -> int:
    """How many units, from the first on, fit into *room* bytes, or one, and are there as a whole;
    once the fetch has *ended*, as far as they are.
    """
    count = 0
    for unit in units:
        if not ended and not all(one.reference in there for one in unit):
            break
        room -= sum(len(_frame(one, there)) for one in unit)
        if room < 0 and count:
            break
        count += 1
    return count


def _in_slot(
    slot: memoryview, pieces: Sequence[Piece], there: Mapping[Reference, bytes], received: Received
) -> list[FrameAt]:
    """Their frames, put into the slot back to back; length 0: none that can be it."""
    frames, at = [], 0
    for piece in pieces:
        raw = _frame(piece, there)
        if len(raw) > len(slot) - at:
            raw = b""
        slot[at : at + len(raw)] = raw
        frames.append(FrameAt(len(raw), piece, at))
        at += len(raw)
    received.bytes_received += at
    received.blocks += sum(frame.length > 0 for frame in frames)
    return frames


def _frame(piece: Piece, there: Mapping[Reference, bytes]) -> bytes:
    """Empty if there is none that can be it: a larger one must not take the room of others."""
    raw = there.get(piece.reference, b"")
    return raw if len(raw) <= _most(piece) else b""


def _most(piece: Piece) -> int:
    """Bytes that its frame can have."""
    size = piece.size if piece.start is None else MAX_BLOCK
    return HEADER_SIZE + size + MAX_EXPANSION


async def used(
    nodes: NodeReader, worker: Leased, units: Sequence[Sequence[Piece]], received: Received,
    use: UseOf,
) -> list[Reference]:  # fmt: skip
    """Fetch the frames of all *units* and *use* them; what does not open, with its other copies.

    Returns the references of those of which no copy opens.
    """
    lost: list[Reference] = []
    left, tries = list(range(len(units))), Tries(nodes)
    while left:
        failed, given = await fill(nodes, worker, units, received, use, left)
        again = await tries.again(given, failed)
        lost += [each for each in failed if each not in again]
        left = [n for n in left if any(piece.reference in again for piece in units[n])]
    return lost


async def batches(
    nodes: NodeReader, content: Content, unreadable: Extents
) -> AsyncIterator[tuple[list[Piece], Extents]]:
    """(pieces to fetch, extents of zeros) in order, each batch at most BATCH bytes of content.

    Extents whose node cannot be read are put into *unreadable*, and left out.
    """
    if isinstance(content, Slice):
        yield [Piece(content.block, 0, content.length, content.offset)], []
    if not isinstance(content, Descriptor):
        return
    pieces: list[Piece] = []
    zeros: Extents = []
    size = 0
    async for number, id in nodes.blocks(content, unreadable):
        offset, length = block_extent(content, number)
        if id is None:
            if zeros and sum(zeros[-1]) == offset:
                zeros[-1] = (zeros[-1][0], zeros[-1][1] + length)
            else:
                zeros.append((offset, length))
            continue
        if size + length > BATCH:
            yield pieces, zeros
            pieces, zeros, size = [], [], 0
        pieces.append(Piece(Reference(DATA, id), offset, length))
        size += length
    if pieces or zeros:
        yield pieces, zeros


class StreamReceiver:
    """Runs *use* for each batch of a stream, several at a time; returns what was damaged.

    What is *present* in the target is neither fetched nor used.
    """

    def __init__(self, pool: Pool, nodes: NodeReader, received: Received) -> None:
        self._pool, self._nodes, self._received = pool, nodes, received

    async def run(self, content: Content, use: Use, present: Present | None = None) -> list[str]:
        unreadable: Extents = []
        bad: list[Piece] = []
        window = asyncio.Semaphore(AT_ONCE)

        async def batch(pieces: list[Piece], zeros: Extents) -> None:
            async def work(worker: Leased) -> tuple[list[Piece], list[Reference]]:
                there = await present(worker, pieces) if present else [False] * len(pieces)
                lacking = [piece for piece, has in zip(pieces, there, strict=True) if not has]

                async def some(numbers: Sequence[int], frames: list[FrameAt]) -> list[Reference]:
                    return await use(worker, frames, zeros if numbers[0] == 0 else [])

                if not lacking:
                    return lacking, await use(worker, [], zeros)
                units = [[piece] for piece in lacking]
                return lacking, await used(self._nodes, worker, units, self._received, some)

            try:
                lacking, failed = await self._pool.run(work)
            finally:
                window.release()
            lost = [piece for piece in lacking if piece.reference in failed]
            bad.extend(lost)
            self._received.bytes_kept += _size(pieces) - _size(lacking)
            self._received.bytes_written += _size(lacking) - _size(lost)

        async with task_group() as group:
            async for pieces, zeros in batches(self._nodes, content, unreadable):
                await window.acquire()
                group.create_task(batch(pieces, zeros))
        return [f"{piece.size} bytes at {piece.offset}: {piece.reference}" for piece in bad] + [
            f"{size} bytes at {at}" for at, size in unreadable
        ]


def _size(pieces: Sequence[Piece]) -> int:
    return sum(piece.size for piece in pieces)
