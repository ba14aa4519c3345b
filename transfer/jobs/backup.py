"""Backup: open the session, find the parent, send what changed, commit.

    lock -> session -> parent and its mark -> sync -> send -> commit -> local head

The parent is the newest point of the item; its mark is sealed into it, so both come from the same
point. A run that fails or is interrupted leaves no point, and what it sent stays.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from transfer import __version__
from transfer.crypto import signing
from transfer.errors import IntegrityError, UsageError, ViewBroken
from transfer.files.directories import Place
from transfer.files.metadata import to_stat
from transfer.formats import point as point_codec
from transfer.formats.entry import Entry, FileType, Root
from transfer.formats.point import Consistency, Counts, Mark, Point, PointDetails
from transfer.formats.reference import NULL_ID, Reference
from transfer.formats.stream import DEFAULT_BLOCK, MAX_BLOCK, MIN_BLOCK, Descriptor
from transfer.jobs.agent import Agent
from transfer.jobs.progress import Progress, Warning
from transfer.jobs.protected import (
    Protected,
    TreeMark,
    encode_mark,
    resolve,
    rules_of,
    trusted,
    with_mounts,
)
from transfer.pipeline import tasks
from transfer.pipeline.batching import task_group
from transfer.pipeline.directories import DirectoryBuilder
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.send import Sender, Sent
from transfer.pipeline.streams import send_stream
from transfer.pipeline.tree import TreeOptions, TreeSender
from transfer.pipeline.workers import Pool
from transfer.policy.globs import Globs
from transfer.sources.image import image_size
from transfer.sources.reading import SourceChanged, SourceFile
from transfer.vault.base import Missing

_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


@dataclass(frozen=True)
class BackupOptions:
    item: str
    paths: list[Path]
    exclude: list[bytes] = field(default_factory=list)
    exclude_caches: bool = False
    one_file_system: bool = False
    block_size: int = DEFAULT_BLOCK
    compression: str = "auto"
    full: bool = False
    dry_run: bool = False
    workers: int | None = None


@dataclass
class BackupResult:
    point: str = ""
    item: str = ""
    parent: str | None = None
    consistency: str = ""
    bytes_source: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    bytes_stored: int = 0
    blocks_new: int = 0
    nodes_new: int = 0
    blocks_resent: int = 0
    files: int = 0
    sockets: int = 0
    warnings: list[Warning] = field(default_factory=list)
    warnings_total: int = 0
    seconds: float = 0.0
    limited_by: str | None = None


class _Parent(NamedTuple):
    """The item's newest point; *details* are None where they do not open."""

    point: Point
    details: PointDetails | None


async def backup(agent: Agent, options: BackupOptions, progress: Progress) -> BackupResult:
    """Make a recovery point, or raise and make none."""
    started = time.monotonic()
    check(options)
    protected = resolve(options.paths)
    item = agent.item_id(options.item)
    with agent.state.lock(item, options.item):
        result = await _Run(agent, options, progress, item, protected).go()
    result.seconds = round(time.monotonic() - started, 3)
    return result


def check(options: BackupOptions) -> None:
    """Raise UsageError or NotFound for what no run could do; nothing is opened or made."""
    if not 1 <= len(options.item) <= 64 or not _NAME.issuperset(options.item):
        raise UsageError(f"{options.item!r} is no item name", "1 to 64 of A-Z a-z 0-9 . _ -")
    size = options.block_size
    if size.bit_count() != 1 or not MIN_BLOCK <= size <= MAX_BLOCK:
        raise UsageError(f"block size {size}", "a power of two from 64K to 4M")
    Globs(options.exclude)
    resolve(options.paths)


class _Run:
    def __init__(
        self, agent: Agent, options: BackupOptions, progress: Progress, item: bytes,
        protected: list[Protected],
    ) -> None:  # fmt: skip
        self.agent, self.options, self.progress, self.item = agent, options, progress, item
        self.protected = protected

    async def go(self) -> BackupResult:
        self.progress.phase_is("opening the view")
        agent = self.agent
        session = await agent.vault.open_session(agent.domain, self.item)
        try:
            pool = agent.pool(self.options.workers, tasks.Tools, self.options.compression)
            async with pool:
                parent = await self._parent(pool)
                wanted = await agent.vault.wanted(session.number) if parent else []
                result, point = await self._commit(pool, session.number, parent, not wanted)
        except BaseException:
            await asyncio.shield(agent.vault.end_session(session.number))
            raise
        if point is None:
            await agent.vault.end_session(session.number)
        else:
            agent.remember_head(self.item, point.number, point.point_id)
        return result

    async def _parent(self, pool: Pool) -> _Parent | None:
        """The newest point of this item; the vault's word for it is its signature."""
        stored = await self.agent.vault.points(self.agent.domain)
        decoded = [point_codec.decode(each.record) for each in stored]
        mine = [each for each in decoded if each.item == self.item]
        if not mine:
            return None
        newest = max(mine, key=lambda each: each.order)
        public = self.agent.opened.keyring.public_key
        if not signing.verify(public, newest.signature, newest.signed_part):
            raise IntegrityError(f"point {newest.point_id.hex()[:16]}: wrong signature")
        return _Parent(newest, await pool.call(tasks.open_point, newest.sealed))

    async def _commit(
        self, pool: Pool, session: int, parent: _Parent | None, trust: bool
    ) -> tuple[BackupResult, Point | None]:
        """Send and commit; once more without trust in the parent if its closure has a gap."""
        while True:
            attempt = _Attempt(self.agent, self.options, self.progress, self.protected)
            root, marks, sent = await attempt.send(pool, session, parent, trust)
            if self.options.dry_run:
                return self._result(attempt, sent, None, parent), None
            self.progress.phase_is("committing")
            point = await self._sealed(pool, attempt, parent, root, marks)
            try:
                await self.agent.vault.commit(session, point_codec.encode(point))
            except Missing:
                if not trust:
                    raise
                trust = False
                continue
            return self._result(attempt, sent, point, parent), point

    async def _sealed(
        self, pool: Pool, attempt: "_Attempt", parent: _Parent | None, root: Reference | None,
        marks: list[Mark],
    ) -> Point:  # fmt: skip
        agent, opened = self.agent, self.agent.opened
        details = PointDetails(
            self.options.item, agent.machine.name, agent.machine.id,
            [each.path for each in self.protected], f"transfer {__version__}",
            msgspec.structs.replace(attempt.counts, warnings=self.progress.warnings_total), marks,
        )  # fmt: skip
        number = parent.point.number + 1 if parent else 1
        before = parent.point.point_id if parent else NULL_ID
        bare = Point(
            agent.domain, self.item, number, before, root, opened.generation, time.time_ns(),
            attempt.consistency,
        )  # fmt: skip
        point = await pool.call(tasks.seal_point, bare, details)
        signature = signing.sign(opened.secrets.signing_key, point.signed_part)
        return point._replace(signature=signature)

    def _result(
        self, attempt: "_Attempt", sent: Sent, point: Point | None, parent: _Parent | None
    ) -> BackupResult:
        counts = attempt.counts
        result = BackupResult(
            point.point_id.hex() if point else "", self.options.item,
            parent.point.point_id.hex() if parent else None,
            attempt.consistency.name.lower().replace("_", "-"), counts.bytes_source,
            sent.bytes_read, sent.bytes_sent, sent.bytes_stored, sent.blocks_new, sent.nodes_new,
            files=counts.files, sockets=counts.sockets,
        )  # fmt: skip
        return replace(
            result, warnings=self.progress.warnings, warnings_total=self.progress.warnings_total
        )


class _Attempt:
    """Sends everything below one root, in the order of the PATHs' names."""

    def __init__(
        self, agent: Agent, options: BackupOptions, progress: Progress, protected: list[Protected]
    ) -> None:
        self.agent, self.options, self.progress = agent, options, progress
        self.protected = protected
        self.counts, self.consistency = Counts(), Consistency.CRASH
        self.boot = _boot_id()

    async def send(
        self, pool: Pool, session: int, parent: _Parent | None, trust: bool
    ) -> tuple[Reference | None, list[Mark], Sent]:
        """The root, the marks of this view, and what it took."""
        generation = self.agent.opened.generation
        comparable = parent if parent and parent.point.generation == generation else None
        root = comparable.point.root if comparable else None
        details = comparable.details if comparable else None
        old_marks = details.marks if details and trust and not self.options.full else []
        marks: list[Mark] = []
        async with task_group() as group:
            nodes = NodeReader(pool, self.agent.vault, session, group)
            sender = Sender(
                pool, self.agent.vault, session, generation, group=group, trust_parent=trust,
                sending=self.progress.sending,
            )  # fmt: skip
            before = await _entries(nodes, root)
            builder = DirectoryBuilder(sender, set() if root is None else {root.id})
            for each in self.protected:
                self.progress.phase_is("finding changes")
                old = before.get(each.name)
                if each.is_directory:
                    entry, mark = await self._tree(sender, nodes, each, old, old_marks)
                    marks.append(mark)
                else:
                    entry = await self._image(sender, nodes, each, old)
                await builder.add(entry, 0, root.id if root else None)
            return await builder.finish(), marks, sender.sent

    async def _tree(
        self, sender: Sender, nodes: NodeReader, each: Protected, old: Entry | None,
        old_marks: list[Mark],
    ) -> tuple[Entry, Mark]:  # fmt: skip
        identity = await sender.pool.call(tasks.sync_source, each.place)
        chosen = self.options
        rules = rules_of(
            sorted(chosen.exclude), chosen.exclude_caches, chosen.one_file_system,
            [other.path for other in self.protected],
        )  # fmt: skip
        mark = TreeMark(time.time_ns(), self.boot, identity, rules)
        until, mounts = trusted(old_marks, each.name, mark)
        options = TreeOptions(
            chosen.block_size, Globs(chosen.exclude), chosen.exclude_caches,
            chosen.one_file_system, self._own_directories(), until, mounts,
        )  # fmt: skip
        before = old.content.reference if old and isinstance(old.content, Root) else None
        async with task_group() as group:
            tree = TreeSender(sender, nodes, options, self.progress, group)
            root = await tree.send(each.place, each.status.st_dev, before)
        files = tree.files.counts
        self._count(files.bytes_source, files.files, tree.entries, tree.sockets, files.torn)
        entry = await self._root_entry(sender, each, root)
        return entry, encode_mark(each.name, with_mounts(mark, tree.mounts))

    def _own_directories(self) -> frozenset[tuple[int, int]]:
        own = [os.stat(path) for path in (self.agent.state.path, self.agent.vault_path)]
        return frozenset((each.st_dev, each.st_ino) for each in own)

    async def _root_entry(self, sender: Sender, each: Protected, root: Root) -> Entry:
        parent, name = os.path.split(each.path)
        if not name:  # "/" has no place in a parent: stat alone describes it
            return each.bare_entry(FileType.DIRECTORY, root)
        scanned, _, _ = await sender.pool.call(tasks.scan_names, Place(parent), [name], b"")
        if not scanned or scanned[0].stat.identity != (each.status.st_dev, each.status.st_ino):
            raise ViewBroken(f"{os.fsdecode(each.path)} was replaced meanwhile", "run again")
        return scanned[0].entry._replace(name=each.name, content=root)

    async def _image(
        self, sender: Sender, nodes: NodeReader, each: Protected, old: Entry | None
    ) -> Entry:
        size = image_size(each.path)
        self.progress.bytes_total += size
        file = SourceFile(each.place, os.path.basename(each.path), to_stat(each.status))
        parent = self._image_parent(each, old)
        try:
            content = await send_stream(
                sender, nodes, file, size, self.options.block_size, parent, False,
                self.progress.read,
            )  # fmt: skip
            torn = not each.is_device and not to_stat(os.stat(each.path)).same_content(file.stat)
        except (SourceChanged, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ViewBroken(f"{os.fsdecode(each.path)}: {reason}", "run again") from error
        if torn:
            self.progress.warn(each.path, "changed", "the image changed while it was read")
        self.progress.files_done += 1
        self._count(size, 1, 1, 0, torn)
        sparse = not each.is_device and each.status.st_blocks * 512 < size
        return each.bare_entry(FileType.DISK, content)._replace(sparse=sparse)

    def _image_parent(self, each: Protected, old: Entry | None) -> Descriptor | None:
        parent = old.content if old and isinstance(old.content, Descriptor) else None
        other = parent is not None and parent.block_size != self.options.block_size
        if other and parent is not None and not self.options.full:
            raise UsageError(
                f"{os.fsdecode(each.path)} has blocks of {parent.block_size} bytes so far",
                "another --block-size needs --full",
            )
        return parent

    def _count(self, size: int, files: int, entries: int, sockets: int, torn: bool) -> None:
        old = self.counts
        self.counts = Counts(
            old.bytes_source + size, old.files + files, old.entries + entries,
            old.sockets + sockets,
        )  # fmt: skip
        if torn:
            self.consistency = Consistency.NONE


async def _entries(nodes: NodeReader, root: Reference | None) -> dict[bytes, Entry]:
    """The parent point's PATHs; what cannot be read has no parent, and is read in full."""
    return {entry.name: entry async for entry, _ in nodes.entries(root, damaged=[])}


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Unknown: no other run's stat proves anything.
        return f"{os.getpid()}-{time.monotonic_ns()}"
