"""Restore and verify: give a point back into a target, or read all of it and say what is damaged.

A run that meets damage goes on: everything else is restored, and what is missing is named.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from transfer.errors import TargetRefused, TargetUnusable, UsageError
from transfer.files.directories import Place
from transfer.formats.entry import Entry, FileType, Root
from transfer.formats.reference import Reference
from transfer.formats.stream import Descriptor
from transfer.jobs.agent import Agent, ListedPoint
from transfer.jobs.progress import Progress, Warning
from transfer.pipeline import write_tasks
from transfer.pipeline.batching import task_group
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.receive import Received, ReceiveOptions, StreamReceiver, TreeReceiver
from transfer.pipeline.workers import Leased, Pool
from transfer.policy.globs import Globs
from transfer.targets import image

Frames = list[write_tasks.FrameAt]
Extents = list[tuple[int, int]]


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
    blocks: int = 0
    files: int = 0
    damaged: list[str] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)
    warnings_total: int = 0
    seconds: float = 0.0


async def restore(agent: Agent, options: RestoreOptions, progress: Progress) -> RestoreResult:
    """Give back what *options* select; raises before the first byte if the target is refused."""
    listed = await agent.find(options.item)
    return await _Run(agent, listed, progress, options.workers).restore(options)


async def verify(
    agent: Agent, item: str, progress: Progress, workers: int | None = None
) -> RestoreResult:
    """Open every frame below the point, and write nothing."""
    listed = await agent.find(item)
    return await _Run(agent, listed, progress, workers).verify()


class _Run:
    def __init__(
        self, agent: Agent, listed: ListedPoint, progress: Progress, workers: int | None
    ) -> None:
        self.agent, self.listed, self.progress, self.workers = agent, listed, progress, workers
        self.received = Received()
        self.started = time.monotonic()

    async def restore(self, options: RestoreOptions) -> RestoreResult:
        target = os.path.abspath(os.fsencode(options.to))
        is_directory = os.path.isdir(target)
        root = target if is_directory else os.path.dirname(target)
        session = await self.agent.vault.open_session(self.agent.domain, None)
        try:
            pool = self.agent.pool(self.workers, write_tasks.WriteTools, root, options.owner)
            async with pool, task_group() as group:
                nodes = NodeReader(pool, self.agent.vault, session.number, group)
                entries = [
                    e async for e, _ in nodes.entries(self.listed.point.root, self.received.damaged)
                ]
                images = [entry for entry in entries if entry.type is FileType.DISK]
                self._check(options, target, is_directory, entries, images)
                if options.dry_run:
                    return self._result()
                self.progress.phase_is("transferring")
                for entry in images:
                    path = os.path.join(target, entry.name) if is_directory else target
                    await self._image(pool, nodes, entry, path, options)
                await self._trees(pool, nodes, entries, Place(target), options)
        finally:
            await asyncio.shield(self.agent.vault.end_session(session.number))
        return self._result()

    def _check(
        self, options: RestoreOptions, target: bytes, is_directory: bool, entries: list[Entry],
        images: list[Entry],
    ) -> None:  # fmt: skip
        shown = os.fsdecode(target)
        if len(images) == len(entries) == 1 and not is_directory:
            return
        if not is_directory:
            if os.path.lexists(target):
                raise TargetRefused(f"{shown} is not a directory", "name a directory with --to")
            try:
                os.makedirs(target, 0o700)
            except OSError as error:
                raise TargetUnusable(f"{shown}: {error.strerror}") from error

    async def _image(
        self, pool: Pool, nodes: NodeReader, entry: Entry, path: bytes, options: RestoreOptions
    ) -> None:
        assert isinstance(entry.content, Descriptor)
        stream, replace = entry.content, options.overwrite != "never"
        size = stream.length
        # Opened here once, so that it is refused or made before any worker touches it.
        fd = image.open_image_target(path, size, replace)
        try:
            fresh = not replace

            async def write(worker: Leased, frames: Frames, zeros: Extents) -> list[Reference]:
                mine = await worker.call(write_tasks.open_image_again, path)
                return await worker.call(
                    write_tasks.write_image, mine, frames, [] if fresh else zeros
                )

            receiver = StreamReceiver(pool, nodes, self.received)
            damaged = await receiver.run(stream, write)
            await asyncio.to_thread(image.finish, fd)
        finally:
            os.close(fd)
        self.received.files += 1
        name = entry.name.decode(errors="backslashreplace")
        self.received.damaged += [f"{name}: {each}" for each in damaged]

    async def _trees(
        self, pool: Pool, nodes: NodeReader, entries: list[Entry], place: Place,
        options: RestoreOptions,
    ) -> None:  # fmt: skip
        choice = ReceiveOptions(options.overwrite, _selection(options))
        trees = [entry for entry in entries if entry.type is FileType.DIRECTORY]
        async with task_group() as group:
            receiver = TreeReceiver(pool, nodes, self.received, choice, self.progress.warn, group)
            for entry in trees:
                if choice.selected(entry.name, True):
                    await receiver.directory(place, entry, entry.name)
        if trees:
            async with pool.lease() as worker:
                await worker.call(write_tasks.sync_target)

    async def verify(self) -> RestoreResult:
        self.progress.phase_is("reading")
        session = await self.agent.vault.open_session(self.agent.domain, None)
        try:
            pool = self.agent.pool(self.workers, write_tasks.WriteTools, b"/", "none")
            async with pool, task_group() as group:
                nodes = NodeReader(pool, self.agent.vault, session.number, group)
                receiver = StreamReceiver(pool, nodes, self.received)
                await self._walk(nodes, receiver)
        finally:
            await asyncio.shield(self.agent.vault.end_session(session.number))
        return self._result()

    async def _walk(self, nodes: NodeReader, receiver: StreamReceiver) -> None:
        async def check(worker: Leased, frames: Frames, zeros: Extents) -> list[Reference]:
            return await worker.call(write_tasks.check_frames, frames)

        seen: set[bytes] = set()
        left = [(b"", self.listed.point.root)]
        while left:
            path, root = left.pop()
            damaged: list[str] = []
            async for entry, _ in nodes.entries(root, damaged):
                below = path + b"/" + entry.name if path else entry.name
                if isinstance(entry.content, Root):
                    left.append((below, entry.content.reference))
                    continue
                self.received.files += entry.type in (FileType.FILE, FileType.DISK)
                stream = entry.content
                if isinstance(stream, Descriptor) and stream.root and stream.root.id not in seen:
                    seen.add(stream.root.id)
                    damaged += await receiver.run(stream, check)
            shown = path.decode(errors="backslashreplace")
            self.received.damaged += [f"{shown}: {each}" for each in damaged]
        self.received.bytes_written = 0

    def _result(self) -> RestoreResult:
        received = self.received
        return RestoreResult(
            self.listed.id.hex(), self.listed.details.item, received.bytes_received,
            received.bytes_written, received.blocks, received.files, received.damaged,
            self.progress.warnings, self.progress.warnings_total,
            round(time.monotonic() - self.started, 3),
        )  # fmt: skip


class _Selection:
    """PATHs and --include GLOBs, asked with paths from the point's root."""

    def __init__(self, paths: list[bytes], include: list[bytes]) -> None:
        self._paths = [tuple(path.strip(b"/").split(b"/")) for path in paths]
        self._include = Globs(include) if include else None

    def __call__(self, path: bytes, is_directory: bool) -> bool:
        parts = tuple(path.split(b"/"))
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


def _selection(options: RestoreOptions) -> _Selection:
    if any(path.strip(b"/") == b"" for path in options.paths):
        raise UsageError("an empty PATH selects nothing")
    return _Selection(options.paths, options.include)
