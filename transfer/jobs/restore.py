"""Restore and verify: give a point back into a target, or read all of it and say what is damaged.

A run that meets damage goes on: everything else is restored, and what is missing is named. One that
is interrupted leaves a mark; the next of the same point into the same target fetches only what is
not there.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from transfer.errors import NotFound, TargetRefused, TargetUnusable, TransientError, UsageError
from transfer.files.directories import Place, identity
from transfer.files.system import boot_id
from transfer.formats.entry import Entry, FileType
from transfer.formats.reference import Reference
from transfer.formats.stream import Descriptor
from transfer.jobs import unfinished
from transfer.jobs.agent import Agent, ListedPoint
from transfer.jobs.heartbeat import kept_alive
from transfer.jobs.meter import Meter
from transfer.jobs.progress import Progress, Warning
from transfer.jobs.tuning import tuned
from transfer.jobs.unfinished import RestoreMark
from transfer.pipeline import present_tasks, write_tasks
from transfer.pipeline.check import TreeChecker
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.overwrite import Overwrite
from transfer.pipeline.receive import TreeReceiver
from transfer.pipeline.receive_files import ReceiveOptions
from transfer.pipeline.receive_streams import Received, StreamReceiver
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import Extents, FrameAt, Piece
from transfer.policy.bottleneck import Cause
from transfer.policy.globs import Globs
from transfer.sources.handles import file_handle, inode_handle
from transfer.targets import image
from transfer.vault.durable import make_directory
from transfer.waiting import task_group, to_the_end


@dataclass(frozen=True)
class RestoreOptions:
    item: str
    to: Path
    paths: list[bytes] = field(default_factory=list)
    include: list[bytes] = field(default_factory=list)
    overwrite: str = "never"
    owner: str = "number"
    dry_run: bool = False
    workers: int | None = None


@dataclass
class RestoreResult:
    point: str
    item: str
    bytes_received: int = 0
    bytes_written: int = 0
    bytes_kept: int = 0
    blocks: int = 0
    files: int = 0
    damaged: list[str] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)
    warnings_total: int = 0
    seconds: float = 0.0
    limited_by: Cause | None = None


async def restore(agent: Agent, options: RestoreOptions, progress: Progress) -> RestoreResult:
    """Give back what *options* select; raises before the first byte if the target is refused."""
    listed = await agent.find(options.item)
    return await _Run(agent, listed, progress, options.workers).restore(options)


async def verify(
    agent: Agent, item: str, progress: Progress, workers: int | None = None, sample: float = 1.0
) -> RestoreResult:
    """Open all nodes below the point and that share of its blocks, and write nothing."""
    listed = await agent.find(item)
    return await _Run(agent, listed, progress, workers).verify(sample)


class _Run:
    def __init__(
        self, agent: Agent, listed: ListedPoint, progress: Progress, workers: int | None
    ) -> None:
        self.agent, self.listed, self.progress, self.workers = agent, listed, progress, workers
        self.received = Received()
        self.started = time.monotonic()
        self.limited_by: Cause | None = None
        progress.bytes_total = listed.details.counts.bytes_source

    @asynccontextmanager
    async def _reading(
        self, root: bytes, owner: str
    ) -> AsyncIterator[tuple[Pool, NodeReader, asyncio.TaskGroup]]:
        """Workers that write below *root*, and a session to read from."""
        agent = self.agent
        session = await agent.vault.open_session(agent.domain, None)
        try:
            generation = self.listed.point.generation
            pool = agent.pool(self.workers, write_tasks.WriteTools, root, owner, generation)
            alive = kept_alive(agent.vault, session.number)
            async with pool, alive:
                meter = Meter(pool, agent.vault, reads=False)
                async with tuned(agent.vault, meter, False), task_group() as group:
                    yield pool, NodeReader(pool, agent.vault, session.number, group), group
                self.limited_by = meter.limited_by()
        finally:
            await to_the_end(agent.vault.end_session(session.number))

    async def restore(self, options: RestoreOptions) -> RestoreResult:
        target = os.path.abspath(os.fsencode(options.to))
        listed, agent = self.listed, self.agent
        begins = unfinished.mark(
            agent.vault_id, listed.id, listed.details.item, os.path.realpath(target),
            sorted(options.paths), sorted(options.include), options.owner,
        )  # fmt: skip
        mark = RestoreMark(agent.state, begins)
        if options.dry_run:
            return await self._restore(options, target, Overwrite(options.overwrite), mark)
        whole, earlier = True, None
        try:
            earlier = await to_the_end(asyncio.to_thread(mark.begin))
            whole = False
            begun = earlier.begun if earlier is not None else None
            crashed = earlier is not None and earlier.boot != boot_id()
            result = await self._restore(
                options, target, Overwrite(options.overwrite, begun, crashed), mark
            )
            whole = not self.received.unfinished
            return result
        except UsageError:
            # It was refused, and nothing was begun.
            whole = earlier is None and not (self.received.files or self.received.bytes_written)
            raise
        finally:
            await to_the_end(asyncio.to_thread(mark.end, whole))

    async def _restore(
        self, options: RestoreOptions, target: bytes, overwrite: Overwrite, mark: RestoreMark
    ) -> RestoreResult:
        is_directory = os.path.isdir(target)
        selection = _Selection(options.paths, options.include)
        root = target if is_directory else os.path.dirname(target)
        self.progress.phase_is("opening the view")
        async with self._reading(root, options.owner) as (pool, nodes, group):
            found = nodes.entries(self.listed.point.root, self.received.damaged)
            entries = [
                entry async for entry, _ in found
                if selection(entry.name, entry.type is FileType.DIRECTORY)
            ]  # fmt: skip
            images = [entry for entry in entries if entry.type is FileType.DISK]
            one_image = len(images) == len(entries) == 1
            if not is_directory and not one_image and not options.dry_run and entries:
                _make_target(target)
            self.progress.phase_is("transferring")
            if not options.dry_run:
                for entry in images:
                    in_place = one_image and not is_directory
                    path = target if in_place else os.path.join(target, entry.name)
                    await self._image(pool, nodes, entry, path, overwrite, mark)
                selected = selection if options.paths or options.include else None
                choice = ReceiveOptions(overwrite, selected, self.listed.id)
                await self._trees(pool, nodes, entries, Place(target), choice, group, mark)
        self._unmatched(selection)
        return self._result()

    def _unmatched(self, selection: "_Selection") -> None:
        """Raise NotFound if none of the PATHs is in the point; name those that are not."""
        missing = selection.unmatched()
        if missing and len(missing) == selection.wanted:
            shown = missing[0].decode(errors="backslashreplace")
            raise NotFound(f"{shown} is not in this point", "`transfer ls` shows what is")
        for path in missing:
            self.progress.warn(path, "missing", "it is not in this point")

    async def _image(
        self, pool: Pool, nodes: NodeReader, entry: Entry, path: bytes, overwrite: Overwrite,
        mark: RestoreMark,
    ) -> None:  # fmt: skip
        assert isinstance(entry.content, Descriptor)
        replace = overwrite.mode != "never" or mark.is_own(*_identified(path))
        key = blake3(self.listed.id + os.path.basename(path)).hexdigest(8).encode()
        with image.image_target(path, entry.content.length, replace, key) as target:
            await to_the_end(asyncio.to_thread(mark.owns, _identified(target.fd)[0]))
            # The very file that is held here, whatever gets its name meanwhile.
            link = b"/proc/%d/fd/%d" % (os.getpid(), target.fd)
            held = write_tasks.HeldImage(link, identity(target.fd))

            async def write(
                worker: Leased, frames: list[FrameAt], zeros: Extents
            ) -> list[Reference]:
                holes = zeros if target.has_content else []
                self.progress.read(sum(each.piece.size for each in frames))
                found: list[Reference] = await worker.call(
                    write_tasks.write_image, held, frames, holes
                )
                return found

            async def present(worker: Leased, pieces: list[Piece]) -> list[bool]:
                found: list[bool] = await worker.call(present_tasks.present_in_image, held, pieces)
                self.progress.read(sum(p.size for p, has in zip(pieces, found, strict=True) if has))
                return found

            compares = target.has_content and (overwrite.resumes or overwrite.mode == "changed")
            receiver = StreamReceiver(pool, nodes, self.received)
            try:
                damaged = await receiver.run(entry.content, write, present if compares else None)
                await to_the_end(asyncio.to_thread(target.finish))
            except BaseException as error:
                if not isinstance(error, TargetRefused):
                    target.leave()
                raise
            await to_the_end(asyncio.to_thread(mark.owns, *_identified(target.fd)))
        self.received.files += 1
        name = entry.name.decode(errors="backslashreplace")
        self.received.damaged += [f"{name}: {each}" for each in damaged]

    async def _trees(
        self, pool: Pool, nodes: NodeReader, entries: list[Entry], place: Place,
        choice: ReceiveOptions, group: asyncio.TaskGroup, mark: RestoreMark,
    ) -> None:  # fmt: skip
        trees = [entry for entry in entries if entry.type is FileType.DIRECTORY]
        receiver = TreeReceiver(pool, nodes, self.received, choice, self.progress, group)
        for entry in trees:
            await receiver.directory(place, entry, entry.name)
        try:
            for each in receiver.filesystems:
                await pool.call(write_tasks.sync_target, each)
        except (OSError, TransientError):
            await to_the_end(asyncio.to_thread(mark.doubts))
            raise

    async def verify(self, sample: float) -> RestoreResult:
        self.progress.phase_is("reading")
        async with self._reading(b"/", "none") as (pool, nodes, _):
            chosen = random.SystemRandom().random
            checker = TreeChecker(
                pool, nodes, self.received, lambda: sample >= 1 or chosen() < sample,
                self.progress.file_done,
            )  # fmt: skip
            await checker.run(self.listed.point.root)
        return self._result()

    def _result(self) -> RestoreResult:
        received = self.received
        return RestoreResult(
            self.listed.id.hex(), self.listed.details.item, received.bytes_received,
            received.bytes_written, received.bytes_kept, received.blocks, received.files,
            received.damaged, self.progress.warnings, self.progress.warnings_total,
            round(time.monotonic() - self.started, 3), self.limited_by,
        )  # fmt: skip


def _identified(image: bytes | int) -> tuple[bytes, int]:
    """Handle and ctime of an image by path or descriptor, to know it again; b"" for none."""
    try:
        fd = image if isinstance(image, int) else os.open(image, os.O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b"", 0
    try:
        found = os.fstat(fd)
        return file_handle(fd, b"") or inode_handle(found.st_ino), found.st_ctime_ns
    finally:
        if fd is not image:
            os.close(fd)


def _make_target(target: bytes) -> None:
    shown = os.fsdecode(target)
    if os.path.lexists(target):
        raise TargetRefused(f"{shown} is not a directory", "name a directory with --to")
    try:
        make_directory(Path(shown))
    except OSError as error:
        raise TargetUnusable(f"{shown}: {error.strerror}", "name another with --to") from error


class _Selection:
    """PATHs and --include GLOBs, asked with paths from the point's root."""

    def __init__(self, paths: list[bytes], include: list[bytes]) -> None:
        if any(path.strip(b"/") == b"" for path in paths):
            raise UsageError("an empty PATH selects nothing")
        self._paths = [tuple(path.strip(b"/").split(b"/")) for path in paths]
        self._include = Globs(include) if include else None
        self._matched: set[tuple[bytes, ...]] = set()

    @property
    def wanted(self) -> int:
        return len(set(self._paths))

    def unmatched(self) -> list[bytes]:
        return [b"/".join(each) for each in dict.fromkeys(self._paths) if each not in self._matched]

    def __call__(self, path: bytes, is_directory: bool) -> bool:
        parts = tuple(path.split(b"/"))
        self._matched.update(each for each in self._paths if parts[: len(each)] == each)
        if self._paths and not any(_related(parts, each, is_directory) for each in self._paths):
            return False
        # A directory is entered: something below it may be included.
        return is_directory or self._include is None or self._included(parts)

    def _included(self, parts: tuple[bytes, ...]) -> bool:
        assert self._include is not None
        below = b"/".join(parts[1:]) or parts[0]
        return self._include.excludes(below, False)


def _related(parts: tuple[bytes, ...], wanted: tuple[bytes, ...], is_directory: bool) -> bool:
    if parts[: len(wanted)] == wanted:
        return True
    return is_directory and wanted[: len(parts)] == parts
