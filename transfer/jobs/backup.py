"""Backup: open the session, find the parent, send what changed, commit.

    lock -> session -> parent and its mark -> sync -> send -> commit -> local head

The parent is the newest point of the item; its mark is sealed into it, so both come from the same
point. A run that is interrupted leaves no point; its session stays open, and with it what it sent.
The next run continues that session and reads on where its journal ends.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import msgspec

from transfer import __version__
from transfer.crypto import signing
from transfer.errors import NotStored, Refused, TransientError, UsageError
from transfer.formats import point as point_codec
from transfer.formats.journal import Begin
from transfer.formats.point import Mark, Point, PointDetails
from transfer.formats.reference import NULL_ID, Reference
from transfer.formats.stream import MAX_BLOCK, MIN_BLOCK
from transfer.jobs.agent import Agent
from transfer.jobs.disks import Audits, DiskSent
from transfer.jobs.heartbeat import kept_alive
from transfer.jobs.journal import Interrupted, RunJournal
from transfer.jobs.meter import Meter
from transfer.jobs.progress import Progress, Warning
from transfer.jobs.protected import Protected, ProtectedSource, resolve
from transfer.jobs.root import BackupOptions, Parent, RootSender
from transfer.jobs.tuning import tuned
from transfer.pipeline import tasks
from transfer.pipeline.send import Sent
from transfer.pipeline.workers import Pool
from transfer.policy.bottleneck import Cause
from transfer.policy.globs import Globs
from transfer.vault.base import Missing, SessionInfo
from transfer.waiting import to_the_end

__all__ = ["Audits", "BackupOptions", "BackupResult", "backup", "check"]

_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


@dataclass
class BackupResult:
    point: str = ""
    item: str = ""
    parent: str | None = None
    consistency: str = ""
    bytes_source: int = 0
    bytes_read: int = 0
    bytes_resumed: int = 0
    bytes_sent: int = 0
    bytes_stored: int = 0
    blocks_new: int = 0
    nodes_new: int = 0
    blocks_resent: int = 0
    bytes_fleece: int = 0
    files: int = 0
    sockets: int = 0
    disks: list[DiskSent] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)
    warnings_total: int = 0
    seconds: float = 0.0
    limited_by: Cause | None = None


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
        protected: list[Protected | ProtectedSource],
    ) -> None:  # fmt: skip
        self.agent, self.options, self.progress, self.item = agent, options, progress, item
        self.protected, self.cache = protected, agent.node_cache(item)
        self.before: Interrupted | None = None
        self._is_first = False  # no point of the domain, nor any run that was interrupted
        self.level: Callable[[], int | None] = lambda: None

    async def go(self) -> BackupResult:
        self.progress.phase_is("opening the view")
        agent = self.agent
        agent.check_keyring()
        journal = RunJournal(agent.state.path, agent.vault_id, self.item)
        self.before = await asyncio.to_thread(journal.interrupted)
        session = await agent.vault.open_session(
            agent.domain, self.item, agent.machine.owner,
            self._session_to_resume(),
        )  # fmt: skip
        resumable = self.options.dry_run and self.before is not None
        try:
            if session.keyring_version > agent.opened.keyring.version:
                raise NotStored("another machine has changed the keyring meanwhile", "run again")
            chosen = self.options
            pool = agent.pool(chosen.workers, tasks.Tools, chosen.compression, chosen.check)
            async with pool, kept_alive(agent.vault, session.number):
                meter = Meter(pool, agent.vault, reads=True)
                if self.cache is not None:
                    await to_the_end(asyncio.to_thread(self.cache.open))
                parent = await self._parent(pool)
                wanted = await agent.vault.wanted(session.number) if parent else []
                async with tuned(agent.vault, meter, chosen.compression == "auto") as self.level:
                    result, point = await self._commit(pool, journal, session, parent, not wanted)
                result.limited_by = meter.limited_by()
        except (asyncio.CancelledError, TransientError):
            resumable = not self.options.dry_run or resumable
            raise
        finally:
            await to_the_end(asyncio.to_thread(journal.close))
            if self.cache is not None:
                self.cache.close()
            if not resumable:  # after a commit this changes nothing
                await to_the_end(agent.vault.end_session(session.number))
        if point is not None:
            await to_the_end(
                asyncio.to_thread(agent.remember_head, self.item, point.number, point.point_id)
            )
        return result

    async def _parent(self, pool: Pool) -> Parent | None:
        """The newest point of this item; the vault's word for it is its signature."""
        stored = await self.agent.vault.points(self.agent.domain)
        self._is_first = not stored and self.before is None
        decoded = [point_codec.decode(each.record) for each in stored]
        mine = [each for each in decoded if each.item == self.item and self._holds(each)]
        newest = max(mine, key=lambda each: each.order, default=None)
        if newest is not None:
            newest.check_parent()
        self._compare_with_head(newest)
        return newest and Parent(newest, await pool.call(tasks.open_point, newest.sealed))

    def _session_to_resume(self) -> int | None:
        """Not that of a run in doubt: what it posted may still be on its way, and is fenced."""
        if self.before is None or self.before.in_doubt is not None:
            return None
        return self.before.begin.session

    def _holds(self, point: Point) -> bool:
        public = self.agent.opened.keyring.public_key
        if signing.verify(public, point.signature, point.signed_part):
            return True
        message = f"the signature of point {point.point_id.hex()[:16]} does not hold; not a parent"
        self.progress.warn(os.fsencode(self.options.item), "bad-point", message)
        return False

    def _compare_with_head(self, newest: Point | None) -> None:
        """Hear of a commit whose answer was lost; tell of points that were committed and are gone.

        Either way the point that is made now stands on what the vault has: its parent and its mark
        are one and the same point's.
        """
        before = self.before
        if newest is not None and before is not None and newest.point_id == before.in_doubt:
            self.agent.remember_head(self.item, newest.number, newest.point_id)
            self.before = None  # it has come to its end
        if why := self.agent.rolled_back(self.item, newest.number if newest else 0):
            self.progress.warn(os.fsencode(self.options.item), "vault-rolled-back", why)

    def _begin(self, session: SessionInfo, parent: Parent | None) -> Begin:
        return Begin(
            self.agent.vault_id, session.incarnation, session.number, self.item,
            parent.point.point_id if parent else NULL_ID, self.agent.opened.generation,
            self.options.block_size,
        )  # fmt: skip

    async def _commit(
        self, pool: Pool, journal: RunJournal, session: SessionInfo, parent: Parent | None,
        trust: bool,
    ) -> tuple[BackupResult, Point | None]:  # fmt: skip
        """Send and commit; once more without trust in the parent if its closure has a gap."""
        resume = self.before is not None and not self.options.full
        while True:
            try:
                async with AsyncExitStack() as views:
                    return await self._attempt(pool, journal, session, parent, trust, resume, views)
            except Missing:
                if not trust:
                    raise
                trust, resume = False, True

    async def _attempt(
        self, pool: Pool, journal: RunJournal, session: SessionInfo, parent: Parent | None,
        trust: bool, resume: bool, views: AsyncExitStack,
    ) -> tuple[BackupResult, Point | None]:  # fmt: skip
        begin, resumes = self._begin(session, parent), False
        if not self.options.dry_run:
            resumes = await to_the_end(asyncio.to_thread(journal.begin, begin, resume))
        attempt = RootSender(
            self.agent, self.options, self.progress, self.protected, self.cache, journal,
            resumes, views, self.level, self._is_first and trust and not self.options.dry_run,
        )  # fmt: skip
        root, marks, sent = await attempt.send(pool, session.number, parent, trust)
        if self.options.dry_run:
            return self._result(attempt, sent, None, parent), None
        self.progress.phase_is("committing")
        point = await self._sealed(pool, attempt, parent, root, marks)
        await to_the_end(asyncio.to_thread(journal.post, point.point_id))
        try:
            await self.agent.vault.commit(session.number, point_codec.encode(point))
        except (Missing, Refused):
            await to_the_end(asyncio.to_thread(journal.end, False))
            raise
        await to_the_end(asyncio.to_thread(journal.end, True))
        for view in attempt.views:
            await to_the_end(view.commit())
        if self.cache is not None:
            await to_the_end(asyncio.to_thread(self.cache.commit))
        return self._result(attempt, sent, point, parent), point

    async def _sealed(
        self, pool: Pool, attempt: RootSender, parent: Parent | None, root: Reference | None,
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
            agent.domain, self.item, number, before, root, opened.generation, attempt.view_time,
            attempt.consistency,
        )  # fmt: skip
        point = await pool.call(tasks.seal_point, bare, details)
        signature = signing.sign(opened.secrets.signing_key, point.signed_part)
        return point._replace(signature=signature)

    def _result(
        self, attempt: RootSender, sent: Sent, point: Point | None, parent: Parent | None
    ) -> BackupResult:
        counts = attempt.counts
        result = BackupResult(
            point.point_id.hex() if point else "", self.options.item,
            parent.point.point_id.hex() if parent else None,
            attempt.consistency.name.lower().replace("_", "-"), counts.bytes_source,
            sent.bytes_read, sent.bytes_resumed, sent.bytes_sent, sent.bytes_stored,
            sent.blocks_new, sent.nodes_new, sent.blocks_resent,
            attempt.bytes_fleece, counts.files, counts.sockets,
        )  # fmt: skip
        return replace(
            result, disks=attempt.told, warnings=self.progress.warnings,
            warnings_total=self.progress.warnings_total,
        )  # fmt: skip
