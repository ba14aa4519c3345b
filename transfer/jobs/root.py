"""Send everything below one root, in the order of the PATHs' names: trees and images.

What the marks of the parent point prove unchanged is not read, and what its tree holds is not sent.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from transfer.errors import ViewBroken
from transfer.files.directories import Place
from transfer.files.system import boot_id
from transfer.formats.entry import Entry, FileType, Root
from transfer.formats.point import Consistency, Counts, Mark, Point, PointDetails
from transfer.formats.reference import Reference
from transfer.formats.stream import DEFAULT_BLOCK
from transfer.jobs.agent import Agent
from transfer.jobs.disks import Audits, DiskSender, DiskSent
from transfer.jobs.progress import Progress
from transfer.jobs.protected import (
    Protected,
    ProtectedSource,
    TreeMark,
    check_names,
    encode_mark,
    rules_of,
    trusted,
    with_mounts,
)
from transfer.pipeline import tasks
from transfer.pipeline.directories import DirectoryBuilder
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.node_cache import NodeCache
from transfer.pipeline.resume import Proofs, Reads
from transfer.pipeline.send import Sender, Sent
from transfer.pipeline.tree import TreeOptions, TreeSender
from transfer.pipeline.workers import Pool
from transfer.policy.globs import Globs
from transfer.sources.changes import MachineView, Since, View
from transfer.sources.reading import SourceChanged
from transfer.waiting import task_group


@dataclass(frozen=True)
class BackupOptions:
    item: str
    paths: Sequence[Path | str]
    exclude: list[bytes] = field(default_factory=list)
    exclude_caches: bool = False
    one_file_system: bool = False
    block_size: int = DEFAULT_BLOCK
    compression: str = "auto"
    full: bool = False
    dry_run: bool = False
    workers: int | None = None
    audits: Audits = field(default_factory=Audits)
    tracks: bool = True
    """Whether something may stay at a source, so that the next run knows what changed."""
    check: str = "all"
    """Of what is sealed: "all" is opened again in full, or "sampled" blocks are."""


class Parent(NamedTuple):
    """The item's newest point; *details* are None where they do not open."""

    point: Point
    details: PointDetails | None


class RootSender:
    """Sends everything below one root. *views* holds what it opens, and outlives it."""

    def __init__(
        self, agent: Agent, options: BackupOptions, progress: Progress,
        protected: list[Protected | ProtectedSource], cache: NodeCache | None, reads: Reads,
        resumes: bool, views: AsyncExitStack, level: Callable[[], int | None] = lambda: None,
        is_first: bool = False,
    ) -> None:  # fmt: skip
        self.level = level
        self._views, self.views, self.told = views, list[View](), list[DiskSent]()
        self.reads, self.resumes, self.is_first = reads, resumes, is_first
        self.agent, self.options, self.progress = agent, options, progress
        self.protected, self.cache = protected, cache
        self.counts, self._consistencies, self.bytes_fleece = Counts(), list[Consistency](), 0
        self._names = [each.name for each in protected if isinstance(each, Protected)]
        self.boot = boot_id()

    @property
    def view_time(self) -> int:
        """Of the earliest view, ns since 1970; of trees it is now."""
        return min((time.time_ns(), *(view.moment for view in self.views)))

    async def send(
        self, pool: Pool, session: int, parent: Parent | None, trust: bool
    ) -> tuple[Reference | None, list[Mark], Sent]:
        """The root, the marks of this view, and what it took."""
        generation = self.agent.opened.generation
        comparable = parent if parent and parent.point.generation == generation else None
        root = comparable.point.root if comparable else None
        details = comparable.details if comparable else None
        old_marks = details.marks if details and trust and not self.options.full else []
        marks: list[Mark] = []
        async with task_group() as group:
            nodes = NodeReader(pool, self.agent.vault, session, group, self.cache)
            sender = Sender(
                pool, self.agent.vault, session, generation, group=group, trust_parent=trust,
                sending=self.progress.sending, uploads=lambda: self.agent.uploads, level=self.level,
                cache=self.cache, reads=self.reads, resumes=self.resumes, is_first=self.is_first,
            )  # fmt: skip
            before = await _entries(nodes, root)
            disks = DiskSender(
                sender, nodes, self.progress, self._proofs(time.time_ns()),
                Since(
                    self.agent.protects(self.options.item), _marks(parent), self.resumes,
                    self.options.tracks and not self.options.dry_run,
                ),
                self.options.audits, self.options.full, self.told,
            )  # fmt: skip
            entries: list[Entry] = []
            for each in self.protected:
                self.progress.phase_is("finding changes")
                if isinstance(each, Protected) and each.is_directory:
                    old = before.get(each.name)
                    entry, mark = await self._tree(sender, nodes, each, old, old_marks)
                    marks.append(mark)
                    entries.append(entry)
                else:
                    entries += await self._disks(disks, each, before)
            builder = DirectoryBuilder(sender, set() if root is None else {root.id})
            for entry in sorted(entries, key=lambda entry: entry.name):
                await builder.add(entry, 0, root.id if root else None)
            return await builder.finish(), marks + disks.marks, sender.sent

    async def _tree(
        self, sender: Sender, nodes: NodeReader, each: Protected, old: Entry | None,
        old_marks: list[Mark],
    ) -> tuple[Entry, Mark]:  # fmt: skip
        # Before the sync: of what is mapped and written during it, no later ctime need tell.
        moment, chosen = time.time_ns(), self.options
        identity = await sender.pool.call(tasks.sync_source, each.place)
        rules = rules_of(
            sorted(chosen.exclude), chosen.exclude_caches, chosen.one_file_system,
            [other.path for other in self.protected],
        )  # fmt: skip
        mark = TreeMark(moment, self.boot, identity, rules)
        until, mounts = trusted(old_marks, each.name, mark)
        options = TreeOptions(
            chosen.block_size, Globs(chosen.exclude), chosen.exclude_caches,
            chosen.one_file_system, self._own_directories(), until, mounts, self._proofs(moment),
        )  # fmt: skip
        before = old.content.reference if old and isinstance(old.content, Root) else None
        async with task_group() as group:
            tree = TreeSender(sender, nodes, options, self.progress, group)
            root = await tree.send(each.place, each.status.st_dev, before)
        files = tree.files.counts
        self._consistencies.append(Consistency.CRASH)
        self._count(files.bytes_source, files.files, tree.entries, tree.sockets, files.torn)
        entry = await self._root_entry(sender, each, root)
        return entry, encode_mark(each.name, with_mounts(mark, tree.mounts))

    def _own_directories(self) -> frozenset[tuple[int, int]]:
        paths = [self.agent.state.path]
        if isinstance(self.agent.place, Path):
            paths.append(self.agent.place)
        own = [os.stat(path) for path in paths]
        return frozenset((each.st_dev, each.st_ino) for each in own)

    async def _root_entry(self, sender: Sender, each: Protected, root: Root) -> Entry:
        parent, name = os.path.split(each.path)
        if not name:  # "/" has no place in a parent: stat alone describes it
            return each.bare_entry(FileType.DIRECTORY, root)
        scanned, _, _ = await sender.pool.call(tasks.scan_names, Place(parent), [name], b"")
        if not scanned or scanned[0].stat.identity != (each.status.st_dev, each.status.st_ino):
            raise ViewBroken(f"{os.fsdecode(each.path)} was replaced meanwhile", "run again")
        return scanned[0].entry._replace(name=each.name, content=root)

    async def _disks(
        self, disks: DiskSender, each: Protected | ProtectedSource, before: dict[bytes, Entry]
    ) -> list[Entry]:
        source = each.source
        try:
            view = await self._views.enter_async_context(source.open(disks.since))
            self.views.append(view)
            if isinstance(each, ProtectedSource):  # only now its disks have names
                self._names += [disk.name for disk in view.disks]
                check_names(self._names)
            if isinstance(each, Protected):
                each = replace(each, status=await asyncio.to_thread(os.stat, each.path))
            streams = [
                (disk, await disks.send(source.name, disk, before.get(disk.name)))
                for disk in view.disks
            ]
            is_moment = await view.check()
        except (SourceChanged, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ViewBroken(f"{os.fsdecode(each.path)}: {reason}", "run again") from error
        if not is_moment:
            self.progress.warn(each.path, "changed", "the image changed while it was read")
        self._judge(each.path, view)
        self.progress.files_done += len(streams)
        for disk, _ in streams:
            self._count(disk.size, 1, 1, 0, not is_moment)
        return [each.disk_entry(disk, stream) for disk, stream in streams]

    def _judge(self, path: bytes, view: View) -> None:
        found, why = Consistency.CRASH, ""
        if isinstance(view, MachineView):
            found, why = view.consistency, view.why
            self.bytes_fleece += view.bytes_fleece
        self._consistencies.append(found)
        if why:
            self.progress.warn(path, "not-frozen", f"the guest was not frozen: {why}")

    @property
    def consistency(self) -> Consistency:
        """That of the least consistent part."""
        return min(self._consistencies, default=Consistency.CRASH)

    def _proofs(self, moment: int) -> Proofs:
        generation = self.agent.opened.generation
        return Proofs(self.boot, moment, generation, self.options.block_size)

    def _count(self, size: int, files: int, entries: int, sockets: int, torn: bool) -> None:
        old = self.counts
        self.counts = Counts(
            old.bytes_source + size, old.files + files, old.entries + entries,
            old.sockets + sockets,
        )  # fmt: skip
        if torn:
            self._consistencies.append(Consistency.NONE)


def _marks(parent: Parent | None) -> list[Mark]:
    """Those of disks count for a full read, too: what belongs to them stays until its commit."""
    return parent.details.marks if parent and parent.details else []


async def _entries(nodes: NodeReader, root: Reference | None) -> dict[bytes, Entry]:
    """The parent point's PATHs; what cannot be read has no parent, and is read in full."""
    return {entry.name: entry async for entry, _ in nodes.entries(root, damaged=[])}
