"""Try: back up, restore, verify and compare, all with a vault that is gone afterwards.

    choose -> serve -> register -> backup -> restore -> verify -> compare

All of it is the real thing but for the address: the vault is served over HTTPS by a process of its
own, on loopback. What it makes stands in one temporary directory, and PATH is only read.
"""

import asyncio
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from transfer.errors import NoSpace, UsageError
from transfer.files.directories import Place
from transfer.files.metadata import to_stat
from transfer.files.scratch import scratch
from transfer.jobs import backup as backup_job
from transfer.jobs import register as register_job
from transfer.jobs import restore as restore_job
from transfer.jobs.agent import Agent
from transfer.jobs.backup import BackupOptions, BackupResult
from transfer.jobs.comparison import Comparison
from transfer.jobs.embedded import EmbeddedVault, embedded_vault
from transfer.jobs.first_files import FirstFiles, Room, Selection
from transfer.jobs.limits import RunLimits, limited
from transfer.jobs.memory import Peak, with_children
from transfer.jobs.opening import Reach, Secret, open_agent
from transfer.jobs.progress import Progress
from transfer.jobs.protected import Protected, resolve
from transfer.jobs.restore import RestoreOptions
from transfer.jobs.try_result import Done, Excused, TryResult
from transfer.policy.globs import Globs
from transfer.sources.image import describe_image
from transfer.sources.reading import SourceFile, data_extents
from transfer.vault.open import open_vault
from transfer.waiting import task_group

ITEM = "try"
_PATIENCE = 5.0  # seconds; a vault on loopback that is away does not come back
_SHARE = 3  # the vault takes one of them, what is restored another
T = TypeVar("T")
Watch = Callable[[], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class TryOptions:
    path: Path
    workers: int | None = None
    connections: int | None = None
    up: int | None = None
    down: int | None = None


async def try_(options: TryOptions, watch: Watch) -> TryResult:
    """*watch* gives the Progress of one step.

    Raises NotFound or UsageError for a PATH that is none, NoSpace for an image that is too large.
    """
    started = time.monotonic()
    (protected,) = resolve([options.path])
    if not isinstance(protected, Protected):
        raise UsageError(f"{options.path} names a disk", "try a directory, a file or a device")
    result = await _Try(options, watch, protected).go()
    result.seconds = round(time.monotonic() - started, 3)
    return result


class _Try:
    def __init__(self, options: TryOptions, watch: Watch, protected: Protected) -> None:
        self.options, self.watch, self.protected = options, watch, protected
        given = options.workers
        workers = len(os.sched_getaffinity(0)) if given is None else given
        self.result = TryResult(str(options.path), workers=workers)

    async def go(self) -> TryResult:
        with scratch("transfer-try-") as top:
            selection = await self._chosen(top)
            since = time.time_ns()
            vault = await open_vault(top / "vault", create=True)
            await vault.close()
            async with embedded_vault(top / "vault", top / "server.log") as server:
                with ExitStack() as peaks:
                    own = os.getpid()
                    client = peaks.enter_context(Peak(lambda: with_children(own, server.pid)))
                    far = peaks.enter_context(Peak(lambda: with_children(server.pid)))
                    async with task_group() as group:
                        dying = group.create_task(server.watch())
                        done = await self._used(server, top, selection)
                        dying.cancel()
            self.result.memory_client, self.result.memory_server = client.bytes, far.bytes
            self.result.whole, self.result.left_out = selection.whole, selection.left_out
            self.result.count(done)
            await self._compare(top / "restored", selection, since, done)
        return self.result

    async def _chosen(self, top: Path) -> Selection:
        room = _room(top)
        if not self.protected.is_directory:
            _check_image(self.protected, room)
            return Selection()
        with self.watch() as progress:
            progress.phase_is("choosing files")
            return await _interruptible(lambda stop: self._choose(top, room, progress, stop))

    def _choose(
        self, top: Path, room: Room, progress: Progress, stop: threading.Event
    ) -> Selection:
        found = os.stat(top)
        chosen = FirstFiles(self.protected.place, room, (found.st_dev, found.st_ino))
        try:
            while not stop.is_set() and chosen.step():
                progress.files_done = chosen.selection.entries
        finally:
            chosen.close()
        return chosen.selection

    async def _used(self, server: EmbeddedVault, top: Path, selection: Selection) -> Done:
        options, passphrase = self.options, secrets.token_urlsafe(32)
        secret, reach = Secret(lambda _: passphrase), Reach(options.connections, _PATIENCE)
        credential = await asyncio.to_thread(server.credential)
        state = top / "state"
        await register_job.register(state, credential, secret, "try", reach)
        async with (
            open_agent(state, None, secret, reach=reach) as agent,
            limited(agent, RunLimits(options.up, options.down)) as run,
        ):
            made = await self._backup(run, selection)
            target = top / "restored"
            target.mkdir(0o700)
            with self.watch() as progress:
                restored = await restore_job.restore(
                    run, RestoreOptions(ITEM, target, workers=options.workers), progress
                )
            with self.watch() as progress:
                verified = await restore_job.verify(run, ITEM, progress, options.workers)
        return Done(made, restored, verified)

    async def _backup(self, agent: Agent, selection: Selection) -> BackupResult:
        chosen = BackupOptions(
            ITEM, [self.options.path], selection.exclude, workers=self.options.workers,
            tracks=False,
        )  # fmt: skip
        with self.watch() as progress:
            progress.bytes_total = selection.content
            return await backup_job.backup(agent, chosen, progress)

    async def _compare(self, to: Path, selection: Selection, since: int, done: Done) -> None:
        started = time.monotonic()
        with self.watch() as progress:
            progress.phase_is("comparing")
            progress.bytes_total = done.backup.bytes_source
            excused = Excused(self.protected, done.backup, done.restore)
            comparison = Comparison(Globs(selection.exclude), since, excused, progress.read)
            try:
                await _interruptible(lambda stop: self._run(comparison, to, stop))
            finally:
                comparison.close()
        self.result.settle(self.protected, comparison.differences)
        self.result.compare_seconds = round(time.monotonic() - started, 3)

    def _run(self, comparison: Comparison, to: Path, stop: threading.Event) -> None:
        source, right = self.protected, Place(os.fsencode(to))
        if source.is_directory:
            comparison.begin(source.place, right.child(source.name))
            while not stop.is_set() and comparison.step():
                pass
            return
        file = SourceFile(source.place, os.path.basename(source.path), to_stat(source.status))
        size = self.result.bytes_source
        comparison.image(file, size, right, source.name, _is_busy(source))


def _room(top: Path) -> Room:
    found = os.statvfs(top)
    entries = found.f_favail // _SHARE if found.f_files else 2**63
    return Room(found.f_bavail * found.f_frsize // _SHARE, entries)


def _check_image(source: Protected, room: Room) -> None:
    """Raise NoSpace for one that is too large; holes take no room."""
    shown, fd = os.fsdecode(source.path), os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = sum(length for _, length in data_extents(fd, 0, describe_image(fd).size))
    finally:
        os.close(fd)
    if size > room.bytes:
        raise NoSpace(
            f"{shown} has {size} bytes, and in {tempfile.gettempdir()} there is room to try "
            f"{room.bytes}",
            "name a larger place with TMPDIR, or try another PATH",
        )


def _is_busy(source: Protected) -> bool:
    """True for a device that is mounted or otherwise held: it may be written all the time."""
    if not source.is_device:
        return False
    try:
        os.close(os.open(source.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError:
        return True
    return False


async def _interruptible(work: Callable[[threading.Event], T]) -> T:
    """Run *work* in a thread, and tell it to stop when this is cancelled."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(work, stop)
    finally:
        stop.set()
