"""Receive: a point's entries come back into a target, or are only checked.

Frames are fetched in batches, opened and written by workers. What is damaged is named, everything
else is given back. Directories are walked like in send: one task each, at most BRANCHES together.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer.errors import FormatError, FrameMissing
from transfer.files.directories import Place
from transfer.formats.entry import (
    Entry,
    FileType,
    Inline,
    Root,
    Slice,
    decode_xattrs,
)
from transfer.formats.reference import Reference
from transfer.formats.stream import Descriptor
from transfer.pipeline import write_tasks
from transfer.pipeline.batching import task_group
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.tasks import BATCH, DATA, block_extent
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import FrameAt, Small, Written

BRANCHES = 16
MAX_SMALL = 128


@dataclass
class Received:
    bytes_received: int = 0
    bytes_written: int = 0
    blocks: int = 0
    files: int = 0
    damaged: list[str] = field(default_factory=list)


class BlockFetcher:
    """Fetch blocks into a worker's slot."""

    def __init__(self, nodes: NodeReader, received: Received) -> None:
        self._nodes, self.received = nodes, received

    async def fill(
        self, worker: Leased, wanted: Sequence[tuple[Reference, int, int]]
    ) -> tuple[list[FrameAt], list[Reference]]:
        """(frames in the slot, references that the vault lacks) for (reference, offset, size)."""
        raws = await self._nodes.fetch([reference for reference, _, _ in wanted]) if wanted else []
        frames, missing, at = [], [], 0
        for (reference, offset, size), raw in zip(wanted, raws, strict=True):
            if raw is None or at + len(raw) > len(worker.slot):
                missing.append(reference)
                continue
            worker.slot[at : at + len(raw)] = raw
            frames.append(FrameAt(len(raw), reference, offset, size))
            at += len(raw)
        self.received.bytes_received += at
        self.received.blocks += len(frames)
        return frames, missing


async def stream_batches(
    nodes: NodeReader, stream: Descriptor, damaged: list[tuple[int, int]]
) -> AsyncIterator[tuple[list[tuple[Reference, int, int]], list[tuple[int, int]]]]:
    """(blocks to fetch, extents of zeros), each batch at most BATCH bytes of content."""
    blocks: list[tuple[Reference, int, int]] = []
    zeros: list[tuple[int, int]] = []
    size = 0
    async for number, id in nodes.blocks(stream, damaged):
        offset, length = block_extent(stream, number)
        if id is None:
            if zeros and sum(zeros[-1]) == offset:
                zeros[-1] = (zeros[-1][0], zeros[-1][1] + length)
            else:
                zeros.append((offset, length))
        else:
            if size + length > BATCH:
                yield blocks, zeros
                blocks, zeros, size = [], [], 0
            blocks.append((Reference(DATA, id), offset, length))
            size += length
    if blocks or zeros:
        yield blocks, zeros


class StreamReceiver:
    """Runs *write* for each batch of a stream, several at a time; returns what was damaged."""

    def __init__(self, pool: Pool, nodes: NodeReader, received: Received) -> None:
        self._pool, self._nodes = pool, nodes
        self.received = received
        self.fetcher = BlockFetcher(nodes, received)

    async def run(
        self,
        stream: Descriptor,
        write: Callable[[Leased, list[FrameAt], list[tuple[int, int]]], Any],
    ) -> list[str]:
        extents: list[tuple[int, int]] = []
        bad: list[Reference] = []
        window = asyncio.Semaphore(8)

        async def batch(blocks: Any, zeros: Any) -> None:
            try:
                async with self._pool.lease() as worker:
                    frames, missing = await self.fetcher.fill(worker, blocks)
                    failed = await write(worker, frames, zeros)
                    bad.extend([*missing, *failed])
                    self.received.bytes_written += sum(frame.size for frame in frames)
            finally:
                window.release()

        async with task_group() as group:
            async for blocks, zeros in stream_batches(self._nodes, stream, extents):
                await window.acquire()
                group.create_task(batch(blocks, zeros))
        if bad:
            await self._nodes.report(bad)
        return [f"{ref}" for ref in bad] + [f"{length} bytes at {at}" for at, length in extents]


@dataclass
class ReceiveOptions:
    overwrite: str = "never"
    selected: Callable[[bytes, bool], bool] = lambda path, is_directory: True
    """Whether an entry is wanted; for a directory also when something below it may be."""


class TreeReceiver:
    def __init__(
        self, pool: Pool, nodes: NodeReader, received: Received, options: ReceiveOptions,
        warn: Callable[[bytes, str, str], None], group: asyncio.TaskGroup,
    ) -> None:  # fmt: skip
        self._pool, self._nodes, self.received = pool, nodes, received
        self._options, self._warn, self._group = options, warn, group
        self._streams = StreamReceiver(pool, nodes, received)
        self._branches = asyncio.Semaphore(BRANCHES)
        self._links: dict[bytes, tuple[Entry, Place, bytes, tuple[int, int]]] = {}

    async def directory(self, place: Place, entry: Entry, path: bytes) -> None:
        """Give back the directory *entry*, whose parent in the target is *place*."""
        try:
            await self._call(write_tasks.make_directory, place, entry.name)
        except (FileExistsError, NotADirectoryError) as error:
            return self._warn(path, "exists", f"not a directory in the target: {error.strerror}")
        below = place.child(entry.name)
        root = entry.content.reference if isinstance(entry.content, Root) else None
        await self._children(below, root, path)
        full = await self._with_xattrs(entry, path)
        self._failed(path, await self._call(write_tasks.finish_directory, place, full))

    async def _children(self, place: Place, root: Reference | None, path: bytes) -> None:
        damaged: list[str] = []
        small: list[Entry] = []
        branches: list[asyncio.Task[None]] = []
        async for entry, _ in self._nodes.entries(root, damaged):
            below = path + b"/" + entry.name if path else entry.name
            is_directory = entry.type is FileType.DIRECTORY
            if not self._options.selected(below, is_directory):
                continue
            if is_directory:
                branches.append(await self._branch(self.directory(place, entry, below)))
            else:
                small.append(entry)
            if len(small) == MAX_SMALL:
                await self._files(place, small, path)
                small = []
        await self._files(place, small, path)
        if branches:
            await asyncio.wait(branches)
        self._damage(path, damaged)

    async def _branch(self, work: Any) -> asyncio.Task[None]:
        if not self._branches.locked():
            await self._branches.acquire()
            task = self._group.create_task(work)
            task.add_done_callback(lambda _: self._branches.release())
        else:
            task = self._group.create_task(work)
            await asyncio.wait([task])
        return task

    async def _files(self, place: Place, entries: Sequence[Entry], path: bytes) -> None:
        if not entries:
            return
        names = [entry.name for entry in entries]
        there = dict(zip(names, await self._call(write_tasks.existing, place, names), strict=True))
        batch: list[tuple[Entry, list[tuple[Reference, int, int]], list[tuple[int, int]]]] = []
        size = 0
        for entry in entries:
            below = path + b"/" + entry.name if path else entry.name
            if not self._may_write(entry, there[entry.name], below):
                continue
            full = await self._with_xattrs(entry, below)
            if entry.link_group and await self._linked(place, full, below):
                continue
            if entry.type is not FileType.FILE:
                self._settle(place, full, below, await self._special(place, full))
            elif entry.size > BATCH:
                await self._large(place, full, below)
            else:
                plan = await self._plan(full, below)
                if plan is None:
                    continue
                if size + entry.size > BATCH:
                    await self._small(place, batch, path)
                    batch, size = [], 0
                batch.append((full, *plan))
                size += entry.size
                if entry.link_group:  # the next name of it needs the inode
                    await self._small(place, batch, path)
                    batch, size = [], 0
        await self._small(place, batch, path)

    def _may_write(self, entry: Entry, there: Any, path: bytes) -> bool:
        if there is None or self._options.overwrite == "always":
            return True
        if self._options.overwrite == "changed":
            same = (there.type, there.size, there.mtime) == (entry.type, entry.size, entry.mtime)
            return not same
        self._warn(path, "exists", "it is there already, and stays (--overwrite never)")
        return False

    @property
    def _replace(self) -> bool:
        return self._options.overwrite != "never"

    async def _with_xattrs(self, entry: Entry, path: bytes) -> Entry:
        if entry.xattr_stream is None or entry.xattr_stream.root is None:
            return entry
        try:
            raw, _ = await self._nodes.load(entry.xattr_stream.root)
            return entry._replace(xattrs=decode_xattrs(raw), xattr_stream=None)
        except (FrameMissing, FormatError) as error:
            self._damage(path, [str(error)])
            return entry._replace(xattr_stream=None)

    async def _linked(self, place: Place, entry: Entry, path: bytes) -> bool:
        """Link to a name of this inode that is there already, if it has the very same content."""
        first = self._links.get(entry.link_group)
        if first is None or (first[0].type, first[0].content) != (entry.type, entry.content):
            return False
        done = await self._call(
            write_tasks.make_link, place, entry.name, first[1:3], first[3], self._replace
        )
        if done.error:
            self._warn(path, "unwritable", done.error)
        else:
            self.received.files += entry.type is FileType.FILE
        return True

    async def _special(self, place: Place, entry: Entry) -> Written:
        done: Written = await self._call(write_tasks.make_special, place, entry, self._replace)
        return done

    async def _plan(
        self, entry: Entry, path: bytes
    ) -> tuple[list[tuple[Reference, int, int]], list[tuple[int, int]]] | None:
        match entry.content:
            case Descriptor() as stream:
                damaged: list[tuple[int, int]] = []
                blocks: list[tuple[Reference, int, int]] = []
                zeros: list[tuple[int, int]] = []
                async for more, holes in stream_batches(self._nodes, stream, damaged):
                    blocks += more
                    zeros += holes
                if damaged:
                    self._damage(path, [f"{length} bytes at {at}" for at, length in damaged])
                    return None
                return blocks, zeros
            case Slice():
                self._damage(path, ["a slice, which this version does not restore yet"])
                return None
        return [], []

    async def _small(self, place: Place, batch: Sequence[Any], path: bytes) -> None:
        if not batch:
            return
        async with self._pool.lease() as worker:
            wanted = [each for _, blocks, _ in batch for each in blocks]
            frames, missing = await self._streams.fetcher.fill(worker, wanted)
            files, left, lost = [], iter(frames), set(missing)
            for entry, blocks, zeros in batch:
                mine = tuple(next(left) for reference, _, _ in blocks if reference not in lost)
                inline = entry.content.data if isinstance(entry.content, Inline) else None
                files.append(Small(entry, entry.size, inline, mine, tuple(zeros), self._replace))
            skip = [any(r in lost for r, _, _ in blocks) for _, blocks, _ in batch]
            chosen = [file for file, bad in zip(files, skip, strict=True) if not bad]
            if any(skip):
                chosen = await self._refill(worker, batch, files, skip)
            done = iter(await worker.call(write_tasks.write_small, place, chosen))
        for (entry, blocks, _), bad in zip(batch, skip, strict=True):
            below = path + b"/" + entry.name if path else entry.name
            if bad:
                self._damage(below, [str(r) for r, _, _ in blocks if r in lost])
            else:
                self._settle(place, entry, below, next(done))

    async def _refill(
        self, worker: Leased, batch: Sequence[Any], files: Sequence[Small], skip: Sequence[bool]
    ) -> list[Small]:
        """Fill the slot again with the frames of whole files only."""
        chosen = []
        keep = [each for each, bad in zip(batch, skip, strict=True) if not bad]
        frames, _ = await self._streams.fetcher.fill(
            worker, [block for _, blocks, _ in keep for block in blocks]
        )
        left = iter(frames)
        whole = [file for file, bad in zip(files, skip, strict=True) if not bad]
        for file, (_, blocks, _) in zip(whole, keep, strict=True):
            chosen.append(file._replace(frames=tuple(next(left) for _ in blocks)))
        return chosen

    async def _large(self, place: Place, entry: Entry, path: bytes) -> None:
        assert isinstance(entry.content, Descriptor)
        temporary = await self._call(write_tasks.create_large, place, entry.name, entry.size)

        async def write(worker: Leased, frames: Any, zeros: Any) -> Any:
            return await worker.call(
                write_tasks.write_blocks, place, temporary, frames, zeros, entry.sparse
            )

        try:
            damaged = await self._streams.run(entry.content, write)
        except BaseException:
            await asyncio.shield(self._call(write_tasks.discard, place, temporary))
            raise
        if damaged:
            await self._call(write_tasks.discard, place, temporary)
            return self._damage(path, damaged)
        done = await self._call(write_tasks.finish_large, place, temporary, entry, self._replace)
        self._settle(place, entry, path, done)

    def _settle(self, place: Place, entry: Entry, path: bytes, done: Written) -> None:
        if done.damaged:
            return self._damage(path, [str(reference) for reference in done.damaged])
        if done.error:
            return self._warn(path, "unwritable", done.error)
        self._failed(path, list(done.failed))
        if entry.type is FileType.FILE:
            self.received.files += 1
            if entry.size <= BATCH:
                self.received.bytes_written += entry.size
        if entry.link_group and done.identity != (0, 0):
            self._links[entry.link_group] = (entry, place, entry.name, done.identity)

    def _failed(self, path: bytes, codes: Sequence[str]) -> None:
        for code in codes:
            self._warn(path, code, f"the caller may not set its {code}")

    def _damage(self, path: bytes, what: Sequence[str]) -> None:
        self.received.damaged += [
            f"{path.decode(errors='backslashreplace')}: {each}" for each in what
        ]

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        async with self._pool.lease() as worker:
            return await worker.call(function, *args)
