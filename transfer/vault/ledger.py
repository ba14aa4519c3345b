"""Sessions, keyrings and points of a stored vault. A record is durable before its row.

Synchronous; the vault's one writer thread runs it.
"""

from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa

from transfer.errors import (
    DamagedData,
    FormatError,
    ItemBusy,
    NotFound,
    PointMissing,
    Refused,
    SessionEnded,
)
from transfer.formats import keyring as keyring_format
from transfer.formats import point as point_format
from transfer.formats import record
from transfer.formats.record import PointRecord, RecordKind, Tombstone
from transfer.formats.reference import Reference
from transfer.vault import catalog as cat
from transfer.vault import checks
from transfer.vault.base import SESSION_LIFE, Missing, SessionInfo, StoredPoint
from transfer.vault.catalog import Catalog
from transfer.vault.frames import resolve
from transfer.vault.objects import DirectoryObjects

_s = cat.sessions.c


class Session(NamedTuple):
    number: int
    domain: bytes
    item: bytes | None
    fence: int
    state: str
    last_seen: int


def keyring_name(domain: bytes, version: int) -> str:
    return f"keyrings/{domain.hex()}/{version:08}"


def point_name(domain: bytes, point_id: bytes) -> str:
    return f"points/{domain.hex()}/{point_id.hex()}"


class Ledger:
    def __init__(
        self, catalog: Catalog, objects: DirectoryObjects, incarnation: int,
        clock: Callable[[], int],
    ) -> None:  # fmt: skip
        self._catalog, self._objects = catalog, objects
        self._incarnation, self._clock = incarnation, clock

    def domains(self) -> list[bytes]:
        with self._catalog.begin() as connection:
            return list(connection.scalars(sa.select(cat.keyrings.c.domain).distinct()))

    def newest_version(self, connection: sa.Connection, domain: bytes) -> int:
        query = sa.select(sa.func.max(cat.keyrings.c.version))
        return connection.scalar(query.where(cat.keyrings.c.domain == domain)) or 0

    def keyring(self, domain: bytes, version: int | None = None) -> bytes | None:
        with self._catalog.begin() as connection:
            newest = self.newest_version(connection, domain)
        wanted = newest if version is None else version
        if not 1 <= wanted <= newest:
            return None
        raw = self._objects.read_record(keyring_name(domain, wanted))
        if raw is None:
            raise DamagedData(f"keyring version {wanted} is gone from the vault's records")
        return record.decode(raw, RecordKind.KEYRING)

    def add_keyring(self, domain: bytes, version: int, raw: bytes) -> None:
        with self._catalog.begin() as connection:
            checks.new_keyring(raw, domain, version, self.newest_version(connection, domain))
            sealed = record.encode(RecordKind.KEYRING, raw)
            self._objects.put_record(keyring_name(domain, version), sealed)
            enter_keyring(connection, raw)

    def epochs(self, domain: bytes) -> checks.Epochs:
        query = sa.select(cat.epochs.c.epoch, cat.epochs.c.generation)
        with self._catalog.begin() as connection:
            rows = connection.execute(query.where(cat.epochs.c.domain == domain))
            return frozenset((epoch, generation) for epoch, generation in rows)

    def open_session(self, domain: bytes, item: bytes | None, take_over: bool) -> SessionInfo:
        now = self._clock()
        with self._catalog.begin() as connection:
            self._expire(connection, now)
            if item is not None:
                self._displace(connection, domain, item, take_over)
            number = cat.next_number(connection, "sessions")
            session = Session(number, domain, item, number, "open", now)
            cat.upsert(connection, cat.sessions, [session._asdict()])
            version = self.newest_version(connection, domain)
        return SessionInfo(number, session.fence, version, self._incarnation)

    def _expire(self, connection: sa.Connection, now: int) -> None:
        silent = (_s.state == "open", _s.last_seen < now - SESSION_LIFE)
        connection.execute(sa.update(cat.sessions).where(*silent).values(state="expired"))

    def _displace(
        self, connection: sa.Connection, domain: bytes, item: bytes, take_over: bool
    ) -> None:
        writer = (_s.domain == domain, _s.item == item, _s.state == "open")
        other = connection.scalar(sa.select(_s.number).where(*writer))
        if other is not None and not take_over:
            raise ItemBusy(f"session {other} writes this item", "wait until it ends")
        connection.execute(sa.update(cat.sessions).where(*writer).values(state="fenced"))

    def session(self, number: int) -> Session:
        """The session, noted as alive; raises SessionEnded for one that is not open."""
        with self._catalog.begin() as connection:
            session = self._find(connection, number)
            now = self._clock()
            if session is None or session.state != "open" or now - session.last_seen > SESSION_LIFE:
                state = "is unknown" if session is None else f"was {session.state}"
                raise SessionEnded(f"session {number} {state}", "run again")
            # A sign of life a minute is enough; each one costs a sync of the catalog.
            if now - session.last_seen > 60 * 10**9:
                alive = sa.update(cat.sessions).where(_s.number == number)
                connection.execute(alive.values(last_seen=now))
        return session

    def _find(self, connection: sa.Connection, number: int) -> Session | None:
        row = connection.execute(sa.select(cat.sessions).where(_s.number == number)).first()
        return None if row is None else Session(*row)

    def end_session(self, number: int, state: str = "ended") -> None:
        with self._catalog.begin() as connection:
            self._end(connection, number, state)

    def _end(self, connection: sa.Connection, number: int, state: str) -> None:
        still_open = (_s.number == number, _s.state == "open")
        connection.execute(sa.update(cat.sessions).where(*still_open).values(state=state))

    def commit(self, number: int, raw: bytes) -> StoredPoint:
        with self._catalog.begin() as connection:
            owner = self._find(connection, number)
        if owner is None or owner.item is None:
            raise SessionEnded(f"session {number} cannot commit")
        point = checks.signed_point(raw, owner.domain, owner.item, self.keyring(owner.domain))
        if (stored := self._committed(point, raw)) is not None:
            return stored
        self.session(number)
        checks.sealed_in(point, self.epochs(owner.domain))
        # What the walk learns stays true when the commit is refused: a transaction of its own.
        with self._catalog.begin() as connection:
            roots = () if point.root is None else (point.root,)
            closure = resolve(connection, self._objects, point.domain, roots)
        if not closure.complete:
            message = "frames below the root are missing, or nodes form a cycle"
            raise Missing(message, "run again", tuple(closure.missing), closure.more)
        with self._catalog.begin() as connection:
            stored = self._enter(connection, point, raw)
            self._end(connection, number, "committed")
        return stored

    def _committed(self, point: point_format.Point, raw: bytes) -> StoredPoint | None:
        """The same point from an earlier call, whose answer may have been lost."""
        with self._catalog.begin() as connection:
            dead = sa.select(cat.tombstones).where(cat.tombstones.c.point == point.point_id)
            if connection.execute(dead).first() is not None:
                raise PointMissing(f"recovery point {point.point_id.hex()[:16]} was deleted")
            known = sa.select(cat.points).where(cat.points.c.point == point.point_id)
            if connection.execute(known).first() is None:
                return None
        stored = read_point(self._objects, point_name(point.domain, point.point_id))
        if stored is None or stored.point != raw:
            raise Refused("another recovery point has this ID")
        return StoredPoint(stored.point, stored.arrival_number, stored.arrival_time)

    def _enter(
        self, connection: sa.Connection, point: point_format.Point, raw: bytes
    ) -> StoredPoint:
        arrival = cat.next_number(connection, "arrivals")
        counter = cat.current(connection, "sessions")
        stored = PointRecord(raw, arrival, self._clock(), counter)
        name = point_name(point.domain, point.point_id)
        self._objects.put_record(name, record.encode_point(stored))
        enter_point(connection, point, arrival)
        return StoredPoint(raw, arrival, stored.arrival_time)

    def points(self, domain: bytes) -> list[StoredPoint]:
        query = sa.select(cat.points.c.point).where(cat.points.c.domain == domain)
        with self._catalog.begin() as connection:
            names = list(connection.scalars(query.order_by(cat.points.c.arrival_number)))
        found = [read_point(self._objects, point_name(domain, name)) for name in names]
        return [
            StoredPoint(one.point, one.arrival_number, one.arrival_time) for one in found if one
        ]

    def delete_point(self, domain: bytes, point_id: bytes) -> None:
        """Leave a tombstone, durable before the row goes; raises NotFound."""
        with self._catalog.begin() as connection:
            this = (cat.points.c.point == point_id, cat.points.c.domain == domain)
            if connection.execute(sa.select(cat.points).where(*this)).first() is None:
                raise NotFound(f"no recovery point {point_id.hex()[:16]}")
            tombstone = record.encode_tombstone(Tombstone(domain, point_id, self._clock()))
            self._objects.put_record(f"tombstones/{point_id.hex()}", tombstone)
            cat.upsert(connection, cat.tombstones, [{"point": point_id}])
            connection.execute(sa.delete(cat.points).where(*this))

    def wanted(self, session: Session) -> list[Reference]:
        decoded = [point_format.decode(one.record) for one in self.points(session.domain)]
        mine = [point for point in decoded if point.item == session.item]
        newest = max(mine, key=lambda point: point.order, default=None)
        if newest is None or newest.root is None:
            return []
        with self._catalog.begin() as connection:
            return resolve(connection, self._objects, session.domain, (newest.root,)).missing


def read_point(objects: DirectoryObjects, name: str) -> PointRecord | None:
    """None for a record that is missing or damaged; `verify_vault` names those."""
    raw = objects.read_record(name)
    try:
        return None if raw is None else record.decode_point(raw)
    except FormatError:
        return None


def enter_point(connection: sa.Connection, point: point_format.Point, arrival: int) -> None:
    row = {
        "point": point.point_id, "domain": point.domain, "item": point.item,
        "arrival_number": arrival,
    }  # fmt: skip
    cat.upsert(connection, cat.points, [row])


def enter_keyring(connection: sa.Connection, raw: bytes) -> None:
    decoded = keyring_format.decode(raw)
    version = {"domain": decoded.domain, "version": decoded.version}
    cat.upsert(connection, cat.keyrings, [version])
    names = [
        {"domain": decoded.domain, "epoch": one.epoch, "generation": one.generation}
        for one in decoded.epochs
    ]
    cat.upsert(connection, cat.epochs, names)
