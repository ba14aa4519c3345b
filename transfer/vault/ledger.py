"""Keyrings and points of a stored vault. A record is durable before its row.

Synchronous; the vault's one writer thread runs it, what may take long in steps.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import sqlalchemy as sa

from transfer.errors import DamagedData, FormatError, NotFound, PointMissing, Refused, SessionEnded
from transfer.formats import record
from transfer.formats.point import Point
from transfer.formats.record import PointRecord, RecordKind, Tombstone
from transfer.formats.reference import Reference
from transfer.vault import adoption, checks, records, schema
from transfer.vault.base import Missing, SessionInfo, StoredPoint
from transfer.vault.catalog import PAGE, Catalog, current, next_number
from transfer.vault.closure import Closure, Walk
from transfer.vault.copies import Shelf, set_complete
from transfer.vault.damage import settled, trusting
from transfer.vault.objects import DirectoryObjects
from transfer.vault.schema import (
    Counter,
    EpochRow,
    KeyringRow,
    PointRow,
    PointState,
    SessionRow,
    SessionState,
    checked,
)
from transfer.vault.sessions import Sessions
from transfer.vault.steps import Steps

_AT_ONCE = 5_000  # references that a walk looks at before others have the thread; some 150 ms


class Ledger:
    def __init__(
        self, catalog: Catalog, objects: DirectoryObjects, incarnation: int,
        clock: Callable[[], int],
    ) -> None:  # fmt: skip
        self._catalog, self._objects = catalog, objects
        self._incarnation, self._clock = incarnation, clock
        self.sessions = Sessions(catalog, clock)

    def open_session(
        self, domain: bytes, item: bytes | None, owner: bytes, resume: int | None
    ) -> SessionInfo:
        with self._catalog.begin() as connection:
            number = self.sessions.open(connection, domain, item, checks.owner(owner), resume)
            version = self._newest(connection, domain)
        return SessionInfo(number, number, version, self._incarnation)

    def end_session(self, number: int) -> None:
        with self._catalog.begin() as connection:
            self.sessions.end(connection, number, SessionState.ENDED)

    def domain_of(self, number: int) -> bytes | None:
        with self._catalog.begin() as connection:
            session = self.sessions.find(connection, number)
        return None if session is None else session.domain

    def domains(self) -> list[bytes]:
        """Also those whose keyrings cannot be read: nobody shall take them for none."""
        with self._catalog.begin() as connection:
            rows = checked(KeyringRow, connection.execute(sa.select(schema.keyrings)))
            known = {row.domain for row in rows}
        return sorted(known.union(records.domains(self._objects, "keyrings")))

    def _newest(self, connection: sa.Connection, domain: bytes) -> int:
        query = sa.select(schema.keyrings).where(schema.keyrings.c.domain == domain)
        rows = checked(KeyringRow, connection.execute(query))
        return max((row.version for row in rows), default=0)

    def keyring(self, domain: bytes, version: int | None = None) -> bytes | None:
        with self._catalog.begin() as connection:
            newest = self._newest(connection, domain)
        newest = newest or max(records.versions(self._objects, domain), default=0)
        wanted = newest if version is None else version
        return self._stored(domain, wanted) if 1 <= wanted <= newest else None

    def _stored(self, domain: bytes, version: int) -> bytes:
        """Raises DamagedData if it cannot be read."""
        try:
            return records.load_keyring(self._objects, domain, version)[0]
        except FormatError as error:
            hint = (
                "restore this record from a copy of the vault, or of this domain in another vault"
            )
            raise DamagedData(f"keyring version {version}: {error}", hint) from error

    def add_keyring(self, domain: bytes, version: int, raw: bytes) -> None:
        with self._catalog.begin() as connection:
            newest = self._newest(connection, domain)
            keyring = checks.new_keyring(raw, domain, version, newest)
            name = records.keyring_name(domain, version)
            if not self._objects.has_record(name):
                self._objects.put_record(name, record.encode(RecordKind.KEYRING, raw))
            elif self._stored(domain, version) != raw:  # its row is damaged, or never was made
                raise Refused(
                    f"there is another keyring version {version}", "read the keyring again"
                )
            adoption.enter_keyring(connection, keyring)

    def epochs(self, domain: bytes) -> checks.Epochs:
        query = sa.select(schema.epochs).where(schema.epochs.c.domain == domain)
        with self._catalog.begin() as connection:
            rows = checked(EpochRow, connection.execute(query))
            return frozenset((row.epoch, row.generation) for row in rows)

    def commit(self, number: int, raw: bytes) -> Steps[StoredPoint]:
        with self._catalog.begin() as connection:
            session = self.sessions.find(connection, number)
        if session is None or session.item is None:
            raise SessionEnded(f"session {number} cannot commit", "run again")
        domain = session.domain
        point = checks.signed_point(raw, domain, session.item, self.keyring(domain))
        stored, committed = self._known(point, raw)
        if stored is not None and committed:
            return _answer(stored)
        self.sessions.get(number)
        checks.sealed_in(point, self.epochs(domain))
        yield from self._complete(point)
        return self._enter(number, point, raw)

    def _enter(self, number: int, point: Point, raw: bytes) -> StoredPoint:
        """Others had the thread meanwhile: what they may have changed is asked again."""
        stored, committed = self._known(point, raw)
        if stored is not None and committed:
            return _answer(stored)
        checks.sealed_in(point, self.epochs(point.domain))
        if stored is None:
            stored = self._numbered(raw)
        with self._catalog.begin() as connection:
            # From here on nobody else ends the session. A record alone would be adopted one day.
            self.sessions.alive(connection, number)
            name = records.point_name(point.domain, point.point_id)
            self._objects.put_record(name, record.encode_point(stored))
            adoption.enter_point(connection, point, stored)
            self.sessions.end(connection, number, SessionState.COMMITTED)
        return _answer(stored)

    def _known(self, point: Point, raw: bytes) -> tuple[PointRecord | None, bool]:
        """What an earlier call left, whose answer may have been lost: a record, and a row or not.

        A repeated call goes on with that record, and gives the first answer.
        """
        with self._catalog.begin() as connection:
            if adoption.is_dead(connection, self._objects, point.domain, point.point_id):
                raise PointMissing(
                    f"recovery point {point.point_id.hex()[:16]} was deleted", "run again"
                )
        column = schema.points.c
        rows, _ = self._rows(column.domain == point.domain, column.point == point.point_id)
        committed = any(row.state == PointState.COMMITTED for row in rows)
        try:
            stored, _ = records.load_point(self._objects, point.domain, point.point_id)
        except FormatError:
            return None, False  # the row alone gives nobody the point
        if stored.point != raw:
            raise Refused("another recovery point has this ID")
        return stored, committed

    def _complete(self, point: Point) -> Steps[None]:
        """Raise Missing unless everything below the root is there."""
        closure = yield from self._walk(point.domain, point.root)
        if not closure.complete:
            message = "frames below the root are missing, or nodes form a cycle"
            raise Missing(message, "run again", tuple(closure.missing), closure.more)

    def _walk(self, domain: bytes, root: Reference | None) -> Steps[Closure]:
        """What the walk learns stays true whatever comes of it: transactions of their own."""
        walk = Walk(() if root is None else (root,), thorough=False)
        while True:
            yield from settled(self._catalog, self._objects, domain)
            with trusting(self._catalog, self._objects, domain) as connection:
                shelf = Shelf(connection, self._objects, domain)
                completed = walk.step(shelf, _AT_ONCE)
                ended = completed is None
                set_complete(connection, domain, completed or walk.closure.completed)
            if ended:
                return walk.closure
            yield

    def _numbered(self, raw: bytes) -> PointRecord:
        # Should what follows fail, the number is lost: none is given twice.
        with self._catalog.begin() as connection:
            arrival = next_number(connection, Counter.ARRIVALS)
            sessions = current(connection, Counter.SESSIONS)
        return PointRecord(raw, arrival, self._clock(), sessions)

    def _rows(
        self, *conditions: sa.ColumnElement[bool], limit: int | None = None
    ) -> tuple[list[PointRow], bool]:
        """The first *limit* in order of arrival, and whether all the rows are sound."""
        order = schema.points.c.arrival_number
        query = sa.select(schema.points).where(*conditions).order_by(order).limit(limit)
        with self._catalog.begin() as connection:
            raw = connection.execute(query).all()
        rows = list(checked(PointRow, raw))
        return rows, len(rows) == len(raw)

    def _following(self, domain: bytes, after: int = 0) -> Iterator[PointRow]:
        """Committed points in order of arrival; not all are read for who wants some."""
        mine, number = schema.points.c.domain == domain, schema.points.c.arrival_number
        while True:
            # From the start without a number: one that is damaged may be below all.
            rows, sound = self._rows(mine, *((number > after,) if after else ()), limit=PAGE)
            last = len(rows) < PAGE
            if not sound:  # the records are the truth
                adoption.adopt_points(self._catalog, self._objects, domain)
                rows, last = self._rows(mine)[0], True
            yield from (
                row
                for row in rows
                if row.state == PointState.COMMITTED and row.arrival_number > after
            )
            if last:
                return
            after = rows[-1].arrival_number

    def points(self, domain: bytes, after: int, limit: int | None) -> list[StoredPoint]:
        rows = self._following(domain, after)
        return [_answer(stored) for stored, _ in islice(self._loaded(rows), limit)]

    def _loaded(self, rows: Iterable[PointRow]) -> Iterator[tuple[PointRecord, Point]]:
        for row in rows:
            try:
                yield records.load_point(self._objects, row.domain, row.point)
            except FormatError:
                continue  # `verify_vault` names it

    def delete_point(self, domain: bytes, point_id: bytes) -> None:
        """Leave a tombstone, durable before the row goes; raises NotFound."""
        if point_id not in {row.point for row in self._following(domain)}:
            raise NotFound(f"no recovery point {point_id.hex()[:16]}")
        tombstone = record.encode_tombstone(Tombstone(domain, point_id, self._clock()))
        self._objects.put_record(records.tombstone_name(domain, point_id), tombstone)
        with self._catalog.begin() as connection:
            adoption.bury(connection, domain, point_id)

    def wanted(self, session: SessionRow) -> Steps[list[Reference]]:
        mine = (row for row in self._following(session.domain) if row.item == session.item)
        points = (point for _, point in self._loaded(mine))
        newest = max(points, key=lambda point: point.order, default=None)
        if newest is None or newest.root is None:
            return []
        closure = yield from self._walk(session.domain, newest.root)
        return closure.missing


def _answer(stored: PointRecord) -> StoredPoint:
    return StoredPoint(stored.point, stored.arrival_number, stored.arrival_time)
