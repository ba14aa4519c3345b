"""Receive a tree: a point's entries come back into a target.

What is damaged is named, everything else is given back. Directories are walked like in tree.py: one
task each, at most BRANCHES together, and beyond that in their parent's place.
"""

import asyncio
from collections.abc import Sequence

from transfer.errors import FormatError, FrameMissing
from transfer.files.directories import Place
from transfer.formats.entry import Entry, FileType, Root, decode_xattrs
from transfer.formats.reference import Reference
from transfer.pipeline import directory_tasks
from transfer.pipeline.batching import Batcher
from transfer.pipeline.branches import Branches
from transfer.pipeline.directory_tasks import Done, Entered, Refusal, There
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.files import Report
from transfer.pipeline.overwrite import Fate, Wanted
from transfer.pipeline.receive_files import FileReceiver, ReceiveOptions
from transfer.pipeline.receive_streams import Received
from transfer.pipeline.small_files import message_size
from transfer.pipeline.workers import Pool
from transfer.targets import may_pass

BRANCHES = 48
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
        self._branches = Branches(group, BRANCHES)
        self._everything = options.everything
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
        entered = await self._entering.ask((place, entry.name))
        if isinstance(entered, Exception):
            why = f"no directory can be made here: {entered}"
            return self._files.unwritable(path, why, may_pass(entered), "exists")
        root = entry.content.reference if isinstance(entry.content, Root) else None
        below = entered.place
        self._files.left_over(below, entered.leftovers)
        if below.pin is not None:
            self._filesystems.setdefault(below.pin[0], below)
        await self._children(entered, root, path)
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

    async def _children(self, entered: Entered, root: Reference | None, path: bytes) -> None:
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
            if not self._selected(below, is_directory):
                continue
            if is_directory:
                branches.append(
                    await self._branches.start(self.directory(entered.place, entry, below))
                )
            else:
                others.append(entry)
        await self._others(entered, others, path)
        if branches:
            await asyncio.wait(branches)
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
