"""Backup: open the session, find the parent, send what changed, commit.

    lock -> session -> parent and its mark -> sync -> send -> commit -> local head

The parent is the newest point of the item whose mark the source still knows; mark and parent come
from the same point. A run that fails or is interrupted leaves no point, and what it sent stays.
"""

import asyncio
import os
import stat as modes
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from transfer import __version__
from transfer.crypto import keys, signing
from transfer.errors import NotFound, TransferError, UsageError
from transfer.files.directories import Place
from transfer.files.metadata import to_stat
from transfer.formats import point as point_codec
from transfer.formats.entry import Entry, FileType, Root
from transfer.formats.point import Consistency, Counts, Mark, Point, PointDetails
from transfer.formats.reference import NULL_ID, Kind, Reference, tag_of
from transfer.formats.stream import DEFAULT_BLOCK, MAX_BLOCK, MIN_BLOCK, Descriptor
from transfer.jobs.agent import Agent, ListedPoint
from transfer.jobs.progress import Progress, Warning
from transfer.pipeline import tasks
from transfer.pipeline.batching import task_group
from transfer.pipeline.directories import DirectoryBuilder
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.sealing import Sealer
from transfer.pipeline.send import Sender
from transfer.pipeline.tree import TreeOptions, TreeSender
from transfer.policy.globs import Globs
from transfer.sources.reading import SourceChanged, SourceFile


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


class TreeMark(msgspec.Struct, frozen=True):
    """When stat proves that a file did not change: same boot, clock, root and rules."""

    moment: int
    boot: str
    root: bytes
    rules: str


@dataclass(frozen=True)
class _Protected:
    """One PATH, resolved."""

    name: bytes
    place: Place
    path: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return modes.S_ISDIR(self.status.st_mode)


async def backup(agent: Agent, options: BackupOptions, progress: Progress) -> BackupResult:
    """Make a recovery point, or raise and make none."""
    started = time.monotonic()
    check(options)
    protected = [_resolve(path) for path in options.paths]
    item = agent.item_id(options.item)
    with agent.state.lock(item, options.item):
        run = _Run(agent, options, progress, item, protected)
        result = await run.go()
    result.seconds = round(time.monotonic() - started, 3)
    return result


def _resolve(path: Path) -> _Protected:
    try:
        real = os.path.realpath(os.fsencode(path), strict=True)
        status = os.stat(real)
    except OSError as error:
        raise NotFound(
            f"{path}: {error.strerror}", "name a directory, a file or a device"
        ) from error
    name = os.path.basename(os.path.abspath(os.fsencode(path))) or b"root"
    if modes.S_ISDIR(status.st_mode):
        return _Protected(name, Place(real), real, status)
    if not (modes.S_ISREG(status.st_mode) or modes.S_ISBLK(status.st_mode)):
        raise UsageError(f"{path} is neither a directory, a regular file nor a block device")
    return _Protected(name, Place(os.path.dirname(real)), real, status)


def check(options: BackupOptions) -> None:
    """Raise UsageError or NotFound for what no run could do; nothing is opened or made."""
    allowed = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    if not 1 <= len(options.item) <= 64 or not allowed.issuperset(options.item):
        raise UsageError(f"{options.item!r} is no item name", "1 to 64 of A-Z a-z 0-9 . _ -")
    size = options.block_size
    if size.bit_count() != 1 or not MIN_BLOCK <= size <= MAX_BLOCK:
        raise UsageError(f"block size {size}", "a power of two from 64K to 4M")
    Globs(options.exclude)
    names = [_resolve(path).name for path in options.paths]
    if twice := {name for name in names if names.count(name) > 1}:
        shown = os.fsdecode(min(twice))
        raise UsageError(f"two PATHs end in {shown!r}", "they would be one when restored")


class _Run:
    def __init__(
        self, agent: Agent, options: BackupOptions, progress: Progress, item: bytes,
        protected: list[_Protected],
    ) -> None:  # fmt: skip
        self.agent, self.options, self.progress, self.item = agent, options, progress, item
        self.protected = sorted(protected, key=lambda each: each.name)
        self.globs = Globs(options.exclude)
        self.counts = Counts()
        self.consistency = Consistency.CRASH
        self.boot = _boot_id()

    async def go(self) -> BackupResult:
        self.progress.phase_is("opening the view")
        agent = self.agent
        session = await agent.vault.open_session(agent.domain, self.item)
        try:
            parent = await self._parent()
            wanted = await agent.vault.wanted(session.number) if parent else []
            pool = agent.pool(self.options.workers, tasks.Tools, self.options.compression)
            async with pool, task_group() as group:
                nodes = NodeReader(pool, agent.vault, session.number, group)
                sender = Sender(
                    pool, agent.vault, session.number, agent.opened.generation, nodes,
                    group=group, trust_parent=not wanted,
                )  # fmt: skip
                use_stat = parent is not None and not self.options.full and not wanted
                root, marks = await self._send(sender, nodes, parent, use_stat)
            if self.options.dry_run:
                return self._result(sender, None, parent)
            self.progress.phase_is("committing")
            record = self._seal_point(parent, root, marks)
            point = point_codec.decode(record)
            await agent.vault.commit(session.number, record)
        except BaseException:
            await asyncio.shield(agent.vault.end_session(session.number))
            raise
        agent.remember_head(self.item, point.number, point.point_id)
        return self._result(sender, point, parent)

    async def _parent(self) -> ListedPoint | None:
        """The newest point of this item whose generation is the current one."""
        points = [each for each in await self.agent.list_points() if each.point.item == self.item]
        if not points:
            return None
        return max(points, key=lambda each: each.point.order)

    async def _send(
        self, sender: Sender, nodes: NodeReader, parent: ListedPoint | None, use_stat: bool
    ) -> tuple[Reference | None, list[Mark]]:
        comparable = (
            parent if parent and parent.point.generation == self.agent.opened.generation else None
        )
        before = await self._parent_entries(nodes, comparable)
        root = comparable.point.root if comparable else None
        builder = DirectoryBuilder(sender, set() if root is None else {root.id})
        marks: list[Mark] = []
        for each in self.protected:
            await self._sync(sender, each.place)
            moment = time.time_ns()
            self.progress.phase_is("transferring")
            old = before.get(each.name)
            if each.is_directory:
                mark = self._mark(each, moment)
                until = self._trusted_until(comparable, each, mark) if use_stat else 0
                entry = await self._tree(sender, nodes, each, old, until)
                marks.append(mark)
            else:
                entry = await self._image(sender, each, old)
            await builder.add(entry, 0, root.id if root else None)
        return await builder.finish(), marks

    async def _sync(self, sender: Sender, place: Place) -> None:
        """Dirty mapped pages change no ctime until they are written; after this they have."""
        await sender.leased(lambda worker: worker.call(tasks.sync_source, place))

    async def _parent_entries(
        self, nodes: NodeReader, parent: ListedPoint | None
    ) -> dict[bytes, Entry]:
        if parent is None:
            return {}
        damaged: list[str] = []
        return {entry.name: entry async for entry, _ in nodes.entries(parent.point.root, damaged)}

    def _mark(self, each: _Protected, moment: int) -> Mark:
        identity = f"{each.status.st_ino}:{os.statvfs(each.path).f_fsid}"
        rules = msgspec.json.encode(
            [sorted(self.options.exclude), self.options.exclude_caches,
             self.options.one_file_system, [other.path for other in self.protected]]
        ).decode()  # fmt: skip
        token = TreeMark(moment, self.boot, identity.encode(), rules)
        return Mark("tree", each.name.hex(), msgspec.json.encode(token))

    def _trusted_until(self, parent: ListedPoint | None, each: _Protected, mark: Mark) -> int:
        """The parent's moment, if its mark is of this very tree and the clock did not go back."""
        now = msgspec.json.decode(mark.token, type=TreeMark)
        for old in parent.details.marks if parent else []:
            if (old.source, old.epoch) == (mark.source, mark.epoch):
                then = msgspec.json.decode(old.token, type=TreeMark)
                same = (then.boot, then.root, then.rules) == (now.boot, now.root, now.rules)
                return then.moment if same and then.moment <= now.moment else 0
        return 0

    async def _tree(
        self, sender: Sender, nodes: NodeReader, each: _Protected, old: Entry | None, until: int
    ) -> Entry:
        own = [self.agent.state.path, self.agent.vault_path]
        never = frozenset((s.st_dev, s.st_ino) for s in (os.stat(path) for path in own))
        options = TreeOptions(
            self.options.block_size, self.globs, self.options.exclude_caches,
            self.options.one_file_system, never, until,
        )  # fmt: skip
        before = old.content.reference if old and isinstance(old.content, Root) else None
        async with task_group() as group:
            tree = TreeSender(sender, nodes, options, self.progress, group)
            root = await tree.send(each.place, b"", each.status.st_dev, before)
        found = tree.counts
        self._count(found.bytes_source, found.files, found.entries, found.sockets, found.torn)
        parent, name = os.path.split(each.path)
        if not name:  # the root directory has no place in a parent: stat alone describes it
            return _bare_entry(each, FileType.DIRECTORY, root)
        scanned, _, _ = await sender.leased(
            lambda worker: worker.call(tasks.scan_names, Place(parent), [name])
        )
        return scanned[0].entry._replace(name=each.name, content=root)

    async def _image(self, sender: Sender, each: _Protected, old: Entry | None) -> Entry:
        name = os.path.basename(each.path)
        is_device = modes.S_ISBLK(each.status.st_mode)
        size = _size(each.path)
        self.progress.bytes_total += size
        file = SourceFile(each.place, name, to_stat(each.status))
        parent = old.content if old and isinstance(old.content, Descriptor) else None
        if (
            parent is not None
            and parent.block_size != self.options.block_size
            and not self.options.full
        ):
            raise UsageError(
                f"{os.fsdecode(each.path)} has blocks of {parent.block_size} bytes so far",
                "another --block-size needs --full",
            )
        try:
            content = await sender.stream(file, size, self.options.block_size, parent, False)
        except SourceChanged as error:
            raise TransferError(f"{os.fsdecode(each.path)}: {error}") from error
        torn = not is_device and not to_stat(os.stat(each.path)).same_content(file.stat)
        if torn:
            self.progress.warn(each.path, "changed", "the image changed while it was read")
        self._count(size, 1, 1, 0, torn)
        entry = _bare_entry(each, FileType.DISK, content)
        sparse = not is_device and each.status.st_blocks * 512 < size
        return entry._replace(sparse=sparse)

    def _count(self, size: int, files: int, entries: int, sockets: int, torn: bool) -> None:
        old = self.counts
        self.counts = Counts(
            old.bytes_source + size, old.files + files, old.entries + entries,
            old.sockets + sockets, self.progress.warnings_total,
        )  # fmt: skip
        if torn:
            self.consistency = Consistency.NONE

    def _seal_point(
        self, parent: ListedPoint | None, root: Reference | None, marks: list[Mark]
    ) -> bytes:
        agent, opened = self.agent, self.agent.opened
        details = PointDetails(
            self.options.item, agent.machine.name, agent.machine.id,
            [each.path for each in self.protected], f"transfer {__version__}", self.counts, marks,
        )  # fmt: skip
        _, sealed = Sealer(opened.seal_keys()).seal(
            tag_of(Kind.POINT), msgspec.json.encode(details)
        )
        number = parent.point.number + 1 if parent else 1
        before = parent.id if parent else NULL_ID
        point = Point(
            agent.domain, self.item, number, before, root, opened.generation, time.time_ns(),
            self.consistency, sealed=sealed,
        )  # fmt: skip
        key = keys.id_key(opened.secrets.id_keys[opened.generation], tag_of(Kind.POINT))
        body = point_codec.encode_body(point) + sealed
        point = point._replace(point_id=keys.frame_id(key, b"", body))
        signature = signing.sign(opened.secrets.signing_key, point.signed_part)
        return point_codec.encode(point._replace(signature=signature))

    def _result(
        self, sender: Sender, point: Point | None, parent: ListedPoint | None
    ) -> BackupResult:
        sent, counts = sender.sent, self.counts
        result = BackupResult(
            point.point_id.hex() if point else "", self.options.item,
            parent.id.hex() if parent else None,
            self.consistency.name.lower().replace("_", "-"), counts.bytes_source,
            sent.bytes_read, sent.bytes_sent, sent.bytes_stored, sent.blocks_new, sent.nodes_new,
            files=counts.files, sockets=counts.sockets,
        )  # fmt: skip
        return replace(
            result, warnings=self.progress.warnings, warnings_total=self.progress.warnings_total
        )


def _bare_entry(each: _Protected, kind: FileType, content: Root | Descriptor) -> Entry:
    status = each.status
    return Entry(
        each.name, kind, modes.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
        status.st_mtime_ns, status.st_ctime_ns, content,
    )  # fmt: skip


def _size(path: bytes) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return (
            f"{os.getpid()}-{time.monotonic_ns()}"  # unknown: no other run's stat proves anything
        )
