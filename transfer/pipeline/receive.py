"""Receive a tree: a point's entries come back into a target.

What is damaged is named, everything else is given back. Directories are walked like in tree.py: one
task each, at most BRANCHES together, and beyond that in their parent's place.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transfer.errors import FormatError, FrameMissing, TargetRefused
from transfer.files.directories import Place
from transfer.files.metadata import Stat
from transfer.formats.entry import Content, Entry, FileType, Inline, Root, Slice, decode_xattrs
from transfer.formats.reference import Reference
from transfer.pipeline import write_tasks
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.files import Report
from transfer.pipeline.receive_streams import Extents, Received, StreamReceiver, batches, fill
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import FrameAt, Piece, Small, Written
from transfer.vault.waiting import or_undone, to_the_end

BRANCHES = 16
MAX_SMALL = 128


@dataclass
class ReceiveOptions:
    overwrite: str = "never"
    selected: Callable[[bytes, bool], bool] = lambda path, is_directory: True
    """Whether an entry is wanted; for a directory also when something below it may be."""


class _Planned(NamedTuple):
    """A small file, and what it is made of."""

    entry: Entry
    pieces: list[Piece]
    zeros: Extents

    @property
    def weight(self) -> int:
        """Bytes that its frames may need of a slot; of a slice the whole block is fetched."""
        return BATCH if isinstance(self.entry.content, Slice) else self.entry.size


class _Linked(NamedTuple):
    """A file that was written, under a name of its link group."""

    content: Content
    place: Place
    name: bytes
    identity: tuple[int, int]


class TreeReceiver:
    def __init__(
        self, pool: Pool, nodes: NodeReader, received: Received, options: ReceiveOptions,
        report: Report, group: asyncio.TaskGroup,
    ) -> None:  # fmt: skip
        self._pool, self._nodes, self._received = pool, nodes, received
        self._options, self._report, self._group = options, report, group
        self._streams = StreamReceiver(pool, nodes, received)
        self._branches = asyncio.Semaphore(BRANCHES)
        # The first to come writes the inode; who has another name of it waits for that.
        self._links: dict[bytes, asyncio.Future[_Linked | None]] = {}

    async def directory(self, place: Place, entry: Entry, path: bytes) -> None:
        """Give back the directory *entry*, whose parent in the target is *place*."""
        try:
            below = await self._pool.call(write_tasks.enter_directory, place, entry.name)
        except (OSError, TargetRefused) as error:
            return self._report.warn(path, "exists", f"no directory can be made here: {error}")
        root = entry.content.reference if isinstance(entry.content, Root) else None
        await self._children(below, root, path)
        full = await self._with_xattrs(entry, path)
        try:
            failed = await self._pool.call(write_tasks.finish_directory, place, full, below)
        except (OSError, TargetRefused) as error:
            return self._report.warn(path, "unwritable", str(error))
        self._failed(path, failed)

    async def _children(self, place: Place, root: Reference | None, path: bytes) -> None:
        damaged: list[str] = []
        others: list[Entry] = []
        branches: list[asyncio.Task[None]] = []
        async for entry, _ in self._nodes.entries(root, damaged):
            below = path + b"/" + entry.name
            is_directory = entry.type is FileType.DIRECTORY
            if not self._options.selected(below, is_directory):
                continue
            if is_directory:
                branches.append(await self._branch(self.directory(place, entry, below)))
            else:
                others.append(entry)
            if len(others) == MAX_SMALL:
                await self._others(place, others, path)
                others = []
        await self._others(place, others, path)
        if branches:
            await asyncio.wait(branches)
        self._damage(path, damaged)

    async def _branch(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if not self._branches.locked():
            await self._branches.acquire()
            task = self._group.create_task(work)
            task.add_done_callback(lambda _: self._branches.release())
        else:
            task = self._group.create_task(work)
            await asyncio.wait([task])
        return task

    async def _others(self, place: Place, entries: Sequence[Entry], path: bytes) -> None:
        """All that is no directory, small files many at a time."""
        if not entries:
            return
        names = [entry.name for entry in entries]
        there = await self._pool.call(write_tasks.existing, place, names)
        batch: list[_Planned] = []
        for entry, found in zip(entries, there, strict=True):
            below = path + b"/" + entry.name
            if not self._may_write(entry, found, below):
                continue
            full = await self._with_xattrs(entry, below)
            if entry.link_group:
                await self._grouped(place, full, below)
            elif entry.type is not FileType.FILE or entry.size > BATCH:
                await self._single(place, full, below)
            elif (plan := await self._plan(full, below)) is not None:
                if sum(each.weight for each in batch) + plan.weight > BATCH:
                    await self._small(place, batch, path)
                    batch = []
                batch.append(plan)
        await self._small(place, batch, path)

    def _may_write(self, entry: Entry, there: Stat | None, path: bytes) -> bool:
        if there is None or self._options.overwrite == "always":
            return True
        if self._options.overwrite == "changed":
            same = (there.type, there.size, there.mtime) == (entry.type, entry.size, entry.mtime)
            return not same
        self._report.warn(path, "exists", "it is there already, and stays (--overwrite never)")
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

    async def _grouped(self, place: Place, entry: Entry, path: bytes) -> None:
        """Write the inode, or link to it where another name of the group has it by now."""
        while (first := self._links.get(entry.link_group)) is not None:
            await asyncio.wait((first,))
            linked = None if first.cancelled() else first.result()
            if linked is not None and linked.content == entry.content:
                done = await self._pool.call(
                    write_tasks.make_link, place, entry.name, (linked.place, linked.name),
                    linked.identity, self._replace,
                )  # fmt: skip
                return self._settle(entry, path, done)
            if self._links[entry.link_group] is first:
                break  # nobody else has tried since
        claim = self._links[entry.link_group] = asyncio.get_running_loop().create_future()
        try:
            written = await self._single(place, entry, path)
        except BaseException:
            claim.cancel()
            raise
        there = written is not None and written.identity != (0, 0)
        linked = _Linked(entry.content, place, entry.name, written.identity) if written else None
        claim.set_result(linked if there else None)

    async def _single(self, place: Place, entry: Entry, path: bytes) -> Written | None:
        """Write one entry by itself; None if it is damaged, and named."""
        if entry.type is not FileType.FILE:
            done = await self._again(write_tasks.make_special, place, entry, self._replace)
            self._settle(entry, path, done)
        elif entry.size > BATCH:
            return await self._large(place, entry, path)
        else:
            plan = await self._plan(entry, path)
            if plan is None:
                return None
            done = (await self._small(place, [plan], path.rpartition(b"/")[0]))[0]
        return done

    async def _plan(self, entry: Entry, path: bytes) -> _Planned | None:
        unreadable: Extents = []
        pieces: list[Piece] = []
        zeros: Extents = []
        async for more, holes in batches(self._nodes, entry.content, unreadable):
            pieces += more
            zeros += holes
        if unreadable:
            self._damage(path, [f"{length} bytes at {at}" for at, length in unreadable])
            return None
        return _Planned(entry, pieces, zeros)

    async def _small(self, place: Place, batch: Sequence[_Planned], path: bytes) -> list[Written]:
        if not batch:
            return []
        tries = 0

        async def work(worker: Leased) -> list[Written]:
            nonlocal tries
            tries += 1
            pieces = [piece for each in batch for piece in each.pieces]
            left = iter(await fill(self._nodes, worker, pieces, self._received))
            files = [
                Small(
                    each.entry, each.entry.size, _inline(each.entry.content),
                    tuple(next(left) for _ in each.pieces), tuple(each.zeros), self._replace,
                )
                for each in batch
            ]  # fmt: skip
            done: list[Written] = await worker.call(
                write_tasks.write_small, place, files, tries > 1
            )
            return done

        written = await self._pool.run(work)
        bad = [reference for done in written for reference in done.damaged]
        if bad:
            await self._nodes.report(bad)
        for each, done in zip(batch, written, strict=True):
            self._settle(each.entry, path + b"/" + each.entry.name, done)
            if not (done.error or done.damaged):
                self._received.bytes_written += each.entry.size
        return written

    async def _large(self, place: Place, entry: Entry, path: bytes) -> Written | None:
        async def discard(temporary: bytes) -> None:
            await self._pool.call(write_tasks.discard, place, temporary)

        creating = self._pool.call(write_tasks.create_large, place, entry.name, entry.size)
        temporary = await or_undone(creating, discard)

        async def write(worker: Leased, frames: list[FrameAt], zeros: Extents) -> list[Reference]:
            found: list[Reference] = await worker.call(
                write_tasks.write_blocks, place, temporary, frames, zeros, entry.sparse
            )
            return found

        try:
            damaged = await self._streams.run(entry.content, write)
        except BaseException:
            await to_the_end(discard(temporary))
            raise
        if damaged:
            await discard(temporary)
            self._damage(path, damaged)
            return None
        done = await self._again(write_tasks.finish_large, place, entry, self._replace, temporary)
        self._settle(entry, path, done)
        return done

    async def _again(self, function: Callable[..., Written], *arguments: Any) -> Written:
        """Call *function*, told when it is not the first try: it may have finished before."""
        tries = 0

        async def work(worker: Leased) -> Written:
            nonlocal tries
            tries += 1
            return await worker.call(function, *arguments, again=tries > 1)

        return await self._pool.run(work)

    def _settle(self, entry: Entry, path: bytes, done: Written) -> None:
        if done.damaged:
            return self._damage(path, [str(reference) for reference in done.damaged])
        if done.error:
            return self._report.warn(path, "unwritable", done.error)
        self._failed(path, list(done.failed))
        if entry.type is FileType.FILE:
            self._received.files += 1
            self._report.file_done(entry.size)

    def _failed(self, path: bytes, codes: Sequence[str]) -> None:
        for code in codes:
            self._report.warn(path, code, f"the caller may not set its {code}")

    def _damage(self, path: bytes, what: Sequence[str]) -> None:
        shown = path.decode(errors="backslashreplace")
        self._received.damaged += [f"{shown}: {each}" for each in what]


def _inline(content: Content) -> bytes | None:
    return content.data if isinstance(content, Inline) else None
