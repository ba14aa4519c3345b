"""StoredVault: a vault in a directory, a catalog beside its objects.

All its work is done by one thread of its own, so calls follow each other, and the event loop never
waits for a disk. What may take long is done in steps, with other calls between them. Frames that
arrive while the disk is busy are stored together, under one fsync. `transfer.vault.open` makes one.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from transfer.errors import Refused
from transfer.formats.reference import Buffer, Reference
from transfer.vault import schema
from transfer.vault.base import Arrived, Outcome, SessionInfo, StoredPoint, VaultInfo
from transfer.vault.catalog import Catalog
from transfer.vault.directory import release_lock
from transfer.vault.frames import FrameStore
from transfer.vault.group_commit import Arrival, store_together
from transfer.vault.identities import Identities
from transfer.vault.ledger import Ledger
from transfer.vault.objects import DirectoryObjects
from transfer.vault.schema import METADATA_FROM
from transfer.vault.steps import Steps
from transfer.waiting import or_undone, to_the_end

P = ParamSpec("P")
T = TypeVar("T")


class StoredVault:
    """See `Vault`. *lock* is a locked file descriptor, or None to read beside another process."""

    def __init__(
        self, info: VaultInfo, catalog: Catalog, objects: DirectoryObjects,
        thread: ThreadPoolExecutor, lock: int | None, clock: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self._info, self._thread, self._lock = info, thread, lock
        self._catalog = catalog
        self._frames = FrameStore(catalog, objects)
        self._ledger = Ledger(catalog, objects, info.incarnation, clock)
        self._identities = Identities(objects)
        self._arrivals: deque[Arrival] = deque()
        self._closed = False

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def _in_steps(self, work: Steps[T]) -> T:
        """Calls that came meanwhile go before the next step; a cancelled one takes no more."""
        done: list[T] = []

        def step() -> None:
            try:
                next(work)
            except StopIteration as end:  # no future takes it as an exception
                done.append(end.value)

        while not done:
            await self._call(step)
        return done[0]

    async def _in_session(
        self, number: int, function: Callable[Concatenate[bytes, P], T],
        *args: P.args, **kwargs: P.kwargs,
    ) -> T:  # fmt: skip
        def work() -> T:
            return function(self._ledger.sessions.get(number).domain, *args, **kwargs)

        return await self._call(work)

    def _for_writing(self) -> None:
        if self._lock is None:
            raise Refused("this vault was opened for reading only")

    async def info(self) -> VaultInfo:
        return self._info

    async def domains(self) -> list[bytes]:
        return await self._call(self._ledger.domains)

    async def keyring(self, domain: bytes, version: int | None = None) -> bytes | None:
        return await self._call(self._ledger.keyring, domain, version)

    async def add_keyring(self, domain: bytes, version: int, keyring: bytes) -> None:
        self._for_writing()
        await self._call(self._ledger.add_keyring, domain, version, bytes(keyring))

    async def open_session(
        self, domain: bytes, item: bytes | None, owner: bytes = b"", resume: int | None = None
    ) -> SessionInfo:
        if item is not None:
            self._for_writing()
        opening = self._call(self._ledger.open_session, domain, item, bytes(owner), resume)
        return await or_undone(opening, lambda session: self.end_session(session.number))

    async def heartbeat(self, session: int) -> None:
        await self._call(self._ledger.sessions.get, session)

    async def end_session(self, session: int) -> None:
        await self._call(self._ledger.end_session, session)

    async def domain_of(self, session: int) -> bytes | None:
        """Whose session it is or was; None for a number that was never given."""
        return await self._call(self._ledger.domain_of, session)

    async def have(
        self, session: int, tag: int, generation: int, ids: Sequence[bytes]
    ) -> list[bool]:
        def work() -> Steps[list[bool]]:
            domain = self._ledger.sessions.get(session).domain
            return (yield from self._frames.have(domain, tag, generation, ids))

        return await self._in_steps(work())

    async def store(self, session: int, frames: Buffer) -> list[Outcome]:
        self._for_writing()

        arrival = Arrival(session, frames)
        self._arrivals.append(arrival)
        work = self._call(store_together, self._arrivals, self._frames, self._ledger)
        # The thread reads *frames* until it is done: a cancelled caller must not reuse them.
        await to_the_end(work)
        return arrival.answer()

    async def fetch(self, session: int, references: Sequence[Reference], arrived: Arrived) -> None:
        asked = list(dict.fromkeys(Reference(*reference) for reference in references))
        work = partial(self._frames.fetch, session)
        for reference, raw in zip(asked, await self._in_session(session, work, asked), strict=True):
            if raw is not None:
                arrived(reference, raw)

    async def fetch_some(
        self, session: int, references: Sequence[Reference], limit: int
    ) -> list[bytes | None]:
        """The first of them, None if missing: as many as fit *limit* bytes, and at least one."""
        work = partial(self._frames.fetch, session, limit=limit)
        return await self._in_session(session, work, [Reference(*one) for one in references])

    async def commit(self, session: int, point: bytes) -> StoredPoint:
        self._for_writing()
        return await self._in_steps(self._ledger.commit(session, bytes(point)))

    async def points(
        self, domain: bytes, after: int = 0, limit: int | None = None
    ) -> list[StoredPoint]:
        return await self._call(self._ledger.points, domain, after, limit)

    async def delete_point(self, domain: bytes, point_id: bytes) -> None:
        """Leave a tombstone in the point's place."""
        self._for_writing()
        await self._call(self._ledger.delete_point, domain, point_id)

    async def report_damaged(self, session: int, references: Sequence[Reference]) -> None:
        asked = [Reference(*reference) for reference in references]
        await self._in_session(session, partial(self._frames.report_damaged, session), asked)

    async def pass_over(self, session: int, references: Sequence[Reference]) -> None:
        """As `report_damaged`, for this session alone: nothing is marked."""
        asked = [Reference(*reference) for reference in references]
        await self._in_session(session, partial(self._frames.pass_over, session), asked)

    async def wanted(self, session: int) -> list[Reference]:
        def work() -> Steps[list[Reference]]:
            found = yield from self._ledger.wanted(self._ledger.sessions.get(session))
            if found:
                self._frames.doubt(session)
            return found

        return await self._in_steps(work())

    async def statistics(self, domain: bytes | None = None) -> dict[str, int]:
        return await self._call(statistics, self._catalog, self._identities, domain)

    async def close(self) -> None:
        """Close the open packs with trailers and release the lock; closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            await to_the_end(self._call(self._release))
        finally:
            self._thread.shutdown(wait=False)

    def _release(self) -> None:
        try:
            self._frames.close()
            self._catalog.close()
        finally:
            if self._lock is not None:
                release_lock(self._lock)


def statistics(catalog: Catalog, identities: Identities, domain: bytes | None) -> dict[str, int]:
    """Of a vault without registered machines each domain counts as one."""
    registered = [
        one for one in identities.machines()
        if one.revoked is None and domain in (None, one.domain)
    ]  # fmt: skip

    def count(table: sa.Table, what: sa.ColumnElement[int], *of: sa.ColumnElement[bool]) -> int:
        here = () if domain is None else (table.c.domain == domain,)
        return connection.scalar(sa.select(what).where(*of, *here)) or 0

    frames, points, keyrings = schema.frames, schema.points, schema.keyrings
    tag = frames.c.tag
    with catalog.begin() as connection:
        return {
            "bytes_stored": count(frames, sa.func.sum(frames.c.length)),
            "blocks": count(frames, sa.func.count(tag), tag < METADATA_FROM),
            "nodes": count(frames, sa.func.count(tag), tag >= METADATA_FROM),
            "points": count(points, sa.func.count(points.c.point)),
            "machines": len(registered)
            or count(keyrings, sa.func.count(keyrings.c.domain.distinct())),
        }
