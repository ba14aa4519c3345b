"""Verifying a stored vault, and making its catalog again from packs and records."""

import time
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from transfer.errors import FormatError
from transfer.formats import pack, point, record
from transfer.formats.pack import PackHeader
from transfer.formats.record import RecordKind
from transfer.formats.reference import Reference
from transfer.vault import catalog as cat
from transfer.vault.catalog import Catalog, Row, State, find_rows, put_rows
from transfer.vault.closure import Standing
from transfer.vault.frames import Shelf, recheck
from transfer.vault.ledger import point_name, read_point
from transfer.vault.objects import DirectoryObjects
from transfer.vault.recovery import adopt_records, enter_frames, settle_pack

PointId = bytes


class Damage(NamedTuple):
    """One finding: what is damaged, where, and how."""

    reference: Reference | None
    place: str
    offset: int
    reason: str


class VerifyReport(NamedTuple):
    frames: int  # intact ones
    bytes: int
    damaged: list[Damage]
    points_affected: list[PointId]


class RebuildReport(NamedTuple):
    frames: int
    packs: int
    unreadable: list[str]  # files that are no packs
    points: int
    points_left: int  # not adopted: something below their roots is missing, or their record
    incarnation: int


class _Verification:
    def __init__(self, catalog: Catalog, objects: DirectoryObjects) -> None:
        self._catalog, self._objects = catalog, objects
        self._frames = self._bytes = 0
        self._damaged: list[Damage] = []
        self._rows_of: dict[bytes, int] = {}

    def run(self) -> VerifyReport:
        with self._catalog.begin() as connection:
            known = {row.pack: row for row in connection.execute(sa.select(cat.packs))}
            tally = sa.select(cat.frames.c.pack, sa.func.count(cat.frames.c.tag))
            counts = connection.execute(tally.group_by(cat.frames.c.pack)).all()
        self._rows_of = dict(counts)
        # A pack that is younger than this list is a running vault's, and checked next time.
        for row in known.values():
            header = PackHeader(row.domain, pack.PackClass(row._mapping["class"]), row.pack)
            self._pack(header, row.closed, row.length)
        for place in self._objects.packs():
            if place.pack_id not in known and not self._is_young(place.path):
                self._note(None, place.pack_id.hex(), 0, "the catalog does not know this pack")
        self._keyrings()
        return VerifyReport(self._frames, self._bytes, self._damaged, self._points())

    def _is_young(self, path: Path) -> bool:
        with self._catalog.begin() as connection:
            this = cat.packs.c.pack == bytes.fromhex(path.name)
            listed = connection.execute(sa.select(cat.packs).where(this)).first() is not None
        return listed or time.time() - path.stat().st_mtime < 3600

    def _note(self, reference: Reference | None, place: str, offset: int, reason: str) -> None:
        self._damaged.append(Damage(reference, place, offset, reason))

    def _pack(self, header: PackHeader, closed: bool, length: int) -> None:
        name = header.pack_id.hex()
        raw = self._objects.read_pack(header)
        if raw is None:
            self._note(None, name, 0, "the pack is missing")
            raw = b""
        elif closed:
            self._whole(header, raw)
        found = list(pack.walk(raw, end=None if closed else length))
        entries = {one.offset: pack.entry_of(one.frame.header, one.offset) for one in found}
        self._frames += len(found)
        self._bytes += sum(one.frame.header.frame_length for one in found)
        with self._catalog.begin() as connection:
            for row in enter_frames(connection, header, list(entries.values())):
                self._note(row.reference, name, row.offset, "the catalog had no row; entered")
            rows = self._rows(connection, header, list(entries.values()))
            self._compare(connection, rows, {(e.offset, e.reference) for e in entries.values()})

    def _rows(
        self, connection: sa.Connection, header: PackHeader, entries: list[pack.IndexEntry]
    ) -> list[Row]:
        """The pack's rows, by key; by a scan of the domain only if those are not all."""
        found = find_rows(connection, header.domain, [one.reference for one in entries])
        copies = {row for rows in found.values() for row in rows if row.pack == header.pack_id}
        if len(copies) >= self._rows_of.get(header.pack_id, 0):
            return list(copies)
        domain, pack_id = cat.frames.c.domain, cat.frames.c.pack
        here = (domain == header.domain, pack_id == header.pack_id)
        return list(cat.scan_rows(connection, *here))

    def _whole(self, header: PackHeader, raw: bytes) -> None:
        name = header.pack_id.hex()
        try:
            trailer = pack.decode_trailer(raw)
            if pack.decode_header(raw) != header:
                self._note(None, name, 0, "the header is another pack's")
        except FormatError as error:
            self._note(None, name, 0, str(error))
            return
        if trailer is None:
            self._note(None, name, len(raw), "the trailer is missing")
        elif not pack.digest_holds(raw, trailer):
            self._note(None, name, 0, "the pack's BLAKE3 does not hold")

    def _compare(
        self, connection: sa.Connection, rows: list[Row], intact: set[tuple[int, Reference]]
    ) -> None:
        for row in rows:
            whole = (row.offset, row.reference) in intact
            if not whole:
                self._note(row.reference, row.pack.hex(), row.offset, "the frame is not intact")
            if not whole and row.state != State.DAMAGED:
                put_rows(connection, [row._replace(state=State.DAMAGED)])
            elif whole and row.state == State.DAMAGED:
                # The pack is back, or the disk read it wrongly once.
                put_rows(connection, [row._replace(state=State.GOOD)])

    def _keyrings(self) -> None:
        for name in self._objects.records("keyrings"):
            try:
                record.decode(self._objects.read_record(name) or b"", RecordKind.KEYRING)
            except FormatError as error:
                self._note(None, name, 0, str(error))

    def _points(self) -> list[PointId]:
        with self._catalog.begin() as connection:
            domains = list(connection.scalars(sa.select(cat.packs.c.domain).distinct()))
            for domain in domains:
                recheck(connection, self._objects, domain)
            rows = connection.execute(sa.select(cat.points.c.domain, cat.points.c.point)).all()
            return [id for domain, id in rows if not self._point_holds(connection, domain, id)]

    def _point_holds(self, connection: sa.Connection, domain: bytes, point_id: bytes) -> bool:
        name = point_name(domain, point_id)
        stored = read_point(self._objects, name)
        if stored is None:
            self._note(None, name, 0, "the point's record is missing or damaged")
            return False
        root = point.decode(stored.point).root
        if root is None:
            return True
        standings = Shelf(connection, self._objects, domain).standings((root,))
        return standings[root] == Standing.COMPLETE


def verify(catalog: Catalog, objects: DirectoryObjects) -> VerifyReport:
    """Read every frame of every pack against its checksum and the catalog, both ways."""
    return _Verification(catalog, objects).run()


def fill(catalog: Catalog, objects: DirectoryObjects, incarnation: int) -> RebuildReport:
    """Fill an empty catalog from packs and records."""
    packs, unreadable = 0, []
    for place in objects.packs():
        if settle_pack(catalog, objects, place.path.read_bytes()):
            packs += 1
        else:
            unreadable.append(str(place.path))
    with catalog.begin() as connection:
        for domain in list(connection.scalars(sa.select(cat.packs.c.domain).distinct())):
            recheck(connection, objects, domain)
        query = sa.select(sa.func.count(cat.frames.c.tag))
        frames = connection.scalar(query.where(cat.frames.c.state == int(State.GOOD))) or 0
    points, left = adopt_records(catalog, objects)
    return RebuildReport(frames, packs, unreadable, points, left, incarnation)
