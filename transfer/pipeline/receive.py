"""Receive a tree: a point's entries come back into a target.

What is damaged is named, everything else is given back. One task per directory, at most BRANCHES of
them side by side (branches.py). Pages of new ones are given back in workers (page_writer.py);
memory for each: the FEW directories that are in it.

Others are walked name by name, BY_NAME of them side by side: those in which something stands
already, or of which not all is wanted; and new ones that have many pages or directories take as
much room. Memory for each: MAX_SMALL entries and a page, or AT_ONCE pages.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing

from transfer.errors import FormatError, FrameMissing
from transfer.files.directories import Place
from transfer.formats.entry import Entry, FileType, Root, decode_xattrs
from transfer.formats.reference import Kind, Reference
from transfer.pipeline import directory_tasks
from transfer.pipeline.batching import Batcher
from transfer.pipeline.branches import Branches, Permits
from transfer.pipeline.directory_tasks import Done, Entered, Refusal, There
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.files import Report
from transfer.pipeline.overwrite import Fate, Wanted
from transfer.pipeline.page_tasks import Given, How, Left, NewPage
from transfer.pipeline.page_writer import PageWriter
from transfer.pipeline.receive_files import FileReceiver, ReceiveOptions
from transfer.pipeline.receive_streams import Received
from transfer.pipeline.small_files import message_size
from transfer.pipeline.workers import Pool
from transfer.targets import may_pass
from transfer.waiting import task_group

BRANCHES = 256
BY_NAME = 32
AT_ONCE = 4  # pages of a directory
MAX_SMALL = 512
TOGETHER = 64  # directories that are entered, or finished, in one task
MESSAGE = 2**20  # bytes
ENOUGH = 128  # where a page ends: slices of one block stand on one page


class TreeReceiver:
    def __init__(
        self, pool: Pool, nodes: NodeReader, received: Received, options: ReceiveOptions,
        report: Report, group: asyncio.TaskGroup,
    ) -> None:  # fmt: skip
        self._pool, self._nodes, self._received = pool, nodes, received
        self._overwrite, self._selected = options.overwrite, options.selected
        self._files = FileReceiver(pool, nodes, received, options, report, group)
        self._branches = Branches(group, BRANCHES, BY_NAME)
        self._everything = options.selected is None
        how = How(self._overwrite.replaces_new, self._overwrite.resumes, self._everything)
        self._pages = PageWriter(pool, nodes, received, how, group)
        self._filesystems: dict[int, Place] = {}
        self._entering: Batcher[tuple[Place, bytes], Entered | Refusal] = Batcher(
            group, self._entered, lambda _: 1, limit=TOGETHER, count=TOGETHER, parallel=2
        )
        self._finishing: Batcher[Done, list[str] | Refusal] = Batcher(
            group, self._finished, lambda done: message_size(done.entry), limit=MESSAGE,
            count=TOGETHER, parallel=2,
        )  # fmt: skip

    @property
    def filesystems(self) -> list[Place]:
        """A directory of each that was written to."""
        return list(self._filesystems.values())

    async def directory(self, place: Place, entry: Entry, path: bytes) -> None:
        """Give back the directory *entry*, whose parent in the target is *place*."""
        await self._directory(place, entry, path, None)

    async def _directory(
        self, place: Place, entry: Entry, path: bytes, lent: Permits | None,
        entered: Entered | Refusal | None = None,
    ) -> None:  # fmt: skip
        """*lent* is what the nearest one that it is in, and that takes much room, lends."""
        if entered is None:
            entered = await self._entering.ask((place, entry.name))
        if isinstance(entered, Exception):
            why = f"no directory can be made here: {entered}"
            return self._files.unwritable(path, why, may_pass(entered), "exists")
        root = entry.content.reference if isinstance(entry.content, Root) else None
        below = entered.place
        self._files.left_over(below, entered.leftovers)
        if below.pin is not None:
            self._filesystems.setdefault(below.pin[0], below)
        if root is not None and entered.is_new and self._everything:
            await self._new(entered, root, path, lent)
        elif root is not None:
            async with self._branches.large(lent) as lends:
                await self._by_name(entered, root, path, lends)
        full = await self._with_xattrs(entry, path)
        failed = await self._finishing.ask(Done(place, full, below))
        if isinstance(failed, Exception):
            return self._files.unwritable(path, str(failed), may_pass(failed))
        self._files.failed(path, failed)

    async def _entered(self, wanted: list[tuple[Place, bytes]]) -> list[Entered | Refusal]:
        return await self._pool.call(
            directory_tasks.enter_directories, wanted, self._overwrite.resumes, self._everything
        )

    async def _finished(self, done: list[Done]) -> list[list[str] | Refusal]:
        everything = self._everything and not self._received.unfinished
        return await self._pool.call(directory_tasks.finish_directories, done, everything)

    async def _new(
        self, entered: Entered, root: Reference, path: bytes, lent: Permits | None
    ) -> None:
        """One in which nothing stands, and of which all is wanted."""
        if root.kind is Kind.PAGE:
            given = await self._pages.write(NewPage(entered.place, root, narrow=True))
            if isinstance(given, Given):
                return await _ended(await self._given(entered, given, path, lent))
        async with self._branches.large(lent) as lends:
            await self._wide(entered, root, path, lends)

    async def _wide(self, entered: Entered, root: Reference, path: bytes, lends: Permits) -> None:
        damaged: list[str] = []
        branches: list[asyncio.Task[None]] = []
        ahead: deque[tuple[Reference, asyncio.Task[Given | Left]]] = deque()
        last = b""

        async def take() -> None:
            nonlocal last
            page, task = ahead.popleft()
            given = await task
            if isinstance(given, Left):
                return await self._by_name(entered, page, path, lends)
            if given.first <= last:
                raise FormatError(f"{page}: pages of a directory are out of order")
            last = given.last
            branches.extend(await self._given(entered, given, path, lends))

        async with task_group() as group, aclosing(self._nodes.pages(root, damaged)) as pages:
            async for page in pages:
                new = NewPage(entered.place, page, narrow=False)
                ahead.append((page, group.create_task(self._pages.write(new))))
                if len(ahead) == AT_ONCE:
                    await take()
            while ahead:
                await take()
        await _ended(branches)
        self._files.damage(path, damaged)

    async def _given(
        self, entered: Entered, given: Given, path: bytes, lent: Permits | None
    ) -> list[asyncio.Task[None]]:
        """The directories that are walked meanwhile."""
        self._files.settle(path, given.done)
        branches = [
            await self._branches.start(
                self._directory(entered.place, entry, path + b"/" + entry.name, lent, below)
            )
            for entry, below in given.below
        ]
        await self._others(entered, given.others, path)
        return branches

    async def _by_name(
        self, entered: Entered, root: Reference, path: bytes, lends: Permits
    ) -> None:
        damaged: list[str] = []
        others: list[Entry] = []
        branches: list[asyncio.Task[None]] = []
        last: Reference | None = None
        async for entry, page in self._nodes.entries(root, damaged):
            if len(others) >= (ENOUGH if page != last else MAX_SMALL):
                await self._others(entered, others, path)
                others = []
            last, below = page, path + b"/" + entry.name
            is_directory = entry.type is FileType.DIRECTORY
            if self._selected is not None and not self._selected(below, is_directory):
                continue
            if is_directory:
                branches.append(
                    await self._branches.start(self._directory(entered.place, entry, below, lends))
                )
            else:
                others.append(entry)
        await self._others(entered, others, path)
        await _ended(branches)
        self._files.damage(path, damaged)

    async def _others(self, entered: Entered, entries: Sequence[Entry], path: bytes) -> None:
        """All that is no directory."""
        if not entries:
            return
        there: list[There | None] = [None] * len(entries)
        if not entered.is_new:
            names = [entry.name for entry in entries]
            there = await self._pool.call(directory_tasks.existing, entered.place, names)
        wanted = [
            await self._wanted(entry, found, path + b"/" + entry.name)
            for entry, found in zip(entries, there, strict=True)
        ]
        await self._files.all(entered.place, [each for each in wanted if each is not None])

    async def _wanted(self, entry: Entry, found: There | None, path: bytes) -> Wanted | None:
        """None if nothing is to be done about it."""
        there, leads_to = found or (None, b"")
        fate = self._overwrite.fate(entry, there, leads_to)
        if fate is Fate.REFUSE:
            self._files.exists(path)
        stays = fate is Fate.STAY
        if fate is Fate.REFUSE or (stays and not entry.link_group):
            return None
        compared = there if fate in (Fate.COMPARE, Fate.STAY) else None
        full = await self._with_xattrs(entry, path)
        return Wanted(full, path, compared, self._overwrite.replaces(entry, there), stays)

    async def _with_xattrs(self, entry: Entry, path: bytes) -> Entry:
        if entry.xattr_stream is None or entry.xattr_stream.root is None:
            return entry
        try:
            raw, _ = await self._nodes.load(entry.xattr_stream.root)
            return entry._replace(xattrs=decode_xattrs(raw), xattr_stream=None)
        except (FrameMissing, FormatError) as error:
            self._files.damage(path, [str(error)])
            return entry._replace(xattr_stream=None)


async def _ended(branches: Sequence[asyncio.Task[None]]) -> None:
    if branches:
        await asyncio.wait(branches)
