"""A complete vault in dictionaries; what most tests run against."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transfer.errors import NotFound, PointMissing, Refused, SessionEnded
from transfer.formats import point as points_format
from transfer.formats.reference import Buffer, Kind, Reference
from transfer.vault import checks
from transfer.vault.base import (
    SESSION_LIFE,
    Arrived,
    Missing,
    Outcome,
    SessionInfo,
    StoredPoint,
    VaultInfo,
)
from transfer.vault.closure import Closure, Standing, Walk


@dataclass(slots=True)
class _Copy:
    arrived: checks.Arrived
    good: bool = True


@dataclass(slots=True)
class _Domain:
    """One domain's frames; `Copies` for a walk over its trees."""

    copies: dict[Reference, list[_Copy]] = field(default_factory=dict)
    complete: set[Reference] = field(default_factory=set)
    keyrings: list[bytes] = field(default_factory=list)

    def good(self, reference: Reference) -> _Copy | None:
        return next((copy for copy in self.copies.get(reference, ()) if copy.good), None)

    def standings(self, references: Sequence[Reference]) -> dict[Reference, Standing]:
        return {reference: self._standing(reference) for reference in references}

    def _standing(self, reference: Reference) -> Standing:
        if self.good(reference) is None:
            return Standing.MISSING
        return Standing.COMPLETE if reference in self.complete else Standing.INCOMPLETE

    def children(self, reference: Reference) -> tuple[Reference, ...] | None:
        copy = self.good(reference)
        return None if copy is None else copy.arrived.references

    def resolve(self, root: Reference | None) -> Closure:
        closure = Walk(() if root is None else (root,)).run(self)
        self.complete |= closure.completed
        return closure


@dataclass(slots=True)
class _Session:
    number: int
    domain: bytes
    item: bytes | None
    owner: bytes
    opened: int
    last_seen: int
    open: bool = True
    passed: list[_Copy] = field(default_factory=list)


class MemoryVault:
    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._info = VaultInfo(os.urandom(16), 1)
        self._domains: dict[bytes, _Domain] = {}
        self._sessions: dict[int, _Session] = {}
        self._points: dict[bytes, StoredPoint] = {}
        self._tombstones: set[bytes] = set()

    async def info(self) -> VaultInfo:
        return self._info

    async def domains(self) -> list[bytes]:
        return [domain for domain, content in self._domains.items() if content.keyrings]

    async def keyring(self, domain: bytes, version: int | None = None) -> bytes | None:
        keyrings = self._domain(domain).keyrings
        place = len(keyrings) if version is None else version
        return keyrings[place - 1] if 1 <= place <= len(keyrings) else None

    async def add_keyring(self, domain: bytes, version: int, keyring: bytes) -> None:
        keyrings = self._domain(domain).keyrings
        checks.new_keyring(keyring, domain, version, len(keyrings))
        keyrings.append(bytes(keyring))

    async def open_session(
        self, domain: bytes, item: bytes | None, owner: bytes = b"", resume: int | None = None
    ) -> SessionInfo:
        now, keyrings = self._clock(), self._domain(domain).keyrings
        for other in self._sessions.values():
            other.open = other.open and now - other.last_seen < SESSION_LIFE
            if item is not None and other.open and (other.domain, other.item) == (domain, item):
                checks.may_replace(other.number, other.owner, other.opened, owner)
                if other.number == resume:
                    other.last_seen = now
                    return self._session_info(other.number, keyrings)
                other.open = False
        number = len(self._sessions) + 1
        owner = checks.owner(owner)
        self._sessions[number] = _Session(number, domain, item, owner, now, now)
        return self._session_info(number, keyrings)

    def _session_info(self, number: int, keyrings: Sequence[bytes]) -> SessionInfo:
        return SessionInfo(number, number, len(keyrings), self._info.incarnation)

    async def heartbeat(self, session: int) -> None:
        self._open(session)

    async def end_session(self, session: int) -> None:
        if session in self._sessions:
            self._sessions[session].open = False

    async def have(
        self, session: int, tag: int, generation: int, ids: Sequence[bytes]
    ) -> list[bool]:
        domain = self._content(session)

        def known(reference: Reference) -> bool:
            copy = domain.good(reference)
            right = copy is not None and copy.arrived.header.generation == generation
            return right and reference in domain.complete

        return [known(Reference(tag, id)) for id in ids]

    async def store(self, session: int, frames: Buffer) -> list[Outcome]:
        domain = self._content(session)
        epochs = checks.epochs_of(domain.keyrings)
        arrived = checks.split(bytes(frames))
        return [self._store(domain, one, epochs) for one in arrived]

    def _store(self, domain: _Domain, one: checks.Arrived, epochs: checks.Epochs) -> Outcome:
        reference = one.header.reference
        if not one.acceptable(epochs):
            return Outcome.REJECTED
        outcome = Outcome.EXISTED
        if domain.good(reference) is None:
            domain.copies.setdefault(reference, []).append(_Copy(one))
            outcome = Outcome.STORED
        if set(one.references) <= domain.complete:
            domain.complete.add(reference)
        return outcome

    async def fetch(self, session: int, references: Sequence[Reference], arrived: Arrived) -> None:
        self._open(session)
        for reference in dict.fromkeys(Reference(*each) for each in references):
            if (copy := self._best(session, reference)) is not None:
                arrived(reference, bytes(copy.arrived.raw))

    def _best(self, session: int, reference: Reference) -> _Copy | None:
        copies = self._content(session).copies.get(reference, ())
        passed = {id(copy): at for at, copy in enumerate(self._sessions[session].passed, 1)}
        rank = {id(copy): (passed.get(id(copy), 0), not copy.good) for copy in copies}
        return min(copies, key=lambda copy: rank[id(copy)], default=None)

    async def commit(self, session: int, point: bytes) -> StoredPoint:
        owner = self._sessions.get(session)
        if owner is None or owner.item is None:
            raise SessionEnded(f"session {session} cannot commit")
        domain = self._domain(owner.domain)
        newest = domain.keyrings[-1] if domain.keyrings else None
        decoded = checks.signed_point(point, owner.domain, owner.item, newest)
        if decoded.point_id in self._tombstones:
            raise PointMissing(f"recovery point {decoded.point_id.hex()[:16]} was deleted")
        if (stored := self._points.get(decoded.point_id)) is not None:
            if stored.record != point:
                raise Refused("another recovery point has this ID")
            return stored
        self._open(session)
        checks.sealed_in(decoded, checks.epochs_of(domain.keyrings))
        closure = domain.resolve(decoded.root)
        if not closure.complete:
            raise Missing(
                "frames below the root are missing", "", tuple(closure.missing), closure.more
            )
        number = len(self._points) + len(self._tombstones) + 1
        self._points[decoded.point_id] = StoredPoint(bytes(point), number, self._clock())
        owner.open = False
        return self._points[decoded.point_id]

    async def points(
        self, domain: bytes, after: int = 0, limit: int | None = None
    ) -> list[StoredPoint]:
        stored = [
            one
            for one in self._points.values()
            if points_format.decode(one.record).domain == domain and one.arrival_number > after
        ]
        return sorted(stored, key=lambda one: one.arrival_number)[:limit]

    async def report_damaged(self, session: int, references: Sequence[Reference]) -> None:
        domain = self._content(session)
        for reference in dict.fromkeys(Reference(*reference) for reference in references):
            if (copy := self._best(session, reference)) is not None:
                copy.good = False
                self._sessions[session].passed.append(copy)
        nodes = [one for one in domain.complete if one.kind != Kind.DATA]
        domain.complete = {
            one for one in domain.complete if one.kind == Kind.DATA and domain.good(one)
        }
        domain.complete |= Walk(nodes).run(domain).completed

    async def wanted(self, session: int) -> list[Reference]:
        owner = self._open(session)
        stored = await self.points(owner.domain)
        decoded = [points_format.decode(one.record) for one in stored]
        mine = [one for one in decoded if one.item == owner.item]
        if not mine:
            return []
        return self._domain(owner.domain).resolve(max(mine, key=lambda one: one.order).root).missing

    async def statistics(self, domain: bytes | None = None) -> dict[str, int]:
        chosen = list(self._domains) if domain is None else [domain]
        every = [
            copy.arrived
            for each in chosen
            for copies in self._domain(each).copies.values()
            for copy in copies
        ]
        blocks = sum(one.header.kind == Kind.DATA for one in every)
        return {
            "bytes_stored": sum(len(one.raw) for one in every),
            "blocks": blocks,
            "nodes": len(every) - blocks,
            "points": sum([len(await self.points(each)) for each in chosen]),
            "machines": sum(bool(self._domain(each).keyrings) for each in chosen),
        }

    async def close(self) -> None:
        for session in self._sessions.values():
            session.open = False

    async def delete_point(self, point_id: bytes) -> None:
        """Leave a tombstone in the point's place."""
        if self._points.pop(point_id, None) is None:
            raise NotFound(f"no recovery point {point_id.hex()[:16]}")
        self._tombstones.add(point_id)

    def _domain(self, domain: bytes) -> _Domain:
        return self._domains.setdefault(domain, _Domain())

    def _open(self, session: int) -> _Session:
        found = self._sessions.get(session)
        if found is not None and self._clock() - found.last_seen > SESSION_LIFE:
            found.open = False
        if found is None or not found.open:
            raise SessionEnded(f"session {session} has ended")
        found.last_seen = self._clock()
        return found

    def _content(self, session: int) -> _Domain:
        return self._domain(self._open(session).domain)
