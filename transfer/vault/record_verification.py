"""Verifying a stored vault's records: each is what its name says, is signed, and has its row."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from transfer.errors import FormatError
from transfer.formats.point import Point
from transfer.vault import records, schema
from transfer.vault.adoption import is_dead
from transfer.vault.catalog import Catalog, rows_of
from transfer.vault.copies import resolve
from transfer.vault.damage import trusting
from transfer.vault.findings import Findings, is_young
from transfer.vault.identities import Identities
from transfer.vault.objects import DirectoryObjects
from transfer.vault.schema import KeyringRow, PointRow, TombstoneRow, checked

_WITH_ROWS: dict[str, tuple[type[Any], sa.Table]] = {
    "keyrings": (KeyringRow, schema.keyrings),
    "points": (PointRow, schema.points),
    "tombstones": (TombstoneRow, schema.tombstones),
}


def verify_records(catalog: Catalog, objects: DirectoryObjects, findings: Findings) -> None:
    for name, error in Identities(objects).damaged():
        findings.note(name, error)
    found = set(records.domains(objects, "damage"))
    for name, (kind, table) in _WITH_ROWS.items():
        found.update(records.domains(objects, name))
        with catalog.begin() as connection:
            rows = connection.execute(sa.select(table)).all()
        sound = {row.domain for row in checked(kind, rows)}
        found |= sound
    for domain in sorted(found):
        _Domain(catalog, objects, findings, domain).verify()


class _Domain:
    """Names are listed before rows: what a running vault writes meanwhile has its row by then."""

    def __init__(
        self, catalog: Catalog, objects: DirectoryObjects, findings: Findings, domain: bytes
    ) -> None:
        self._catalog, self._objects, self._findings = catalog, objects, findings
        self._domain = domain

    def verify(self) -> None:
        self._keyrings()
        self._points()
        self._tombstones()
        for name in self._objects.records(f"damage/{self._domain.hex()}"):
            try:
                records.load_damage(self._objects, name, self._domain)
            except FormatError as error:
                self._findings.note(name, error)

    def _keyrings(self) -> None:
        """The versions are 1 to the newest; each in a row, and signed by the domain's key."""
        domain, there = self._domain, set(records.versions(self._objects, self._domain))
        with self._catalog.begin() as connection:
            rows = {row.version for row in rows_of(connection, KeyringRow, schema.keyrings, domain)}
        for version in range(1, max(there | rows, default=0) + 1):
            try:
                records.load_keyring(self._objects, domain, version)
            except FormatError as error:
                self._findings.note(records.keyring_name(domain, version), error)
        self._without_row(records.keyring_name(domain, version) for version in there - rows)

    def _points(self) -> None:
        domain, there = self._domain, set(records.ids(self._objects, "points", self._domain))
        key = records.public_key(self._objects, domain)
        with self._catalog.begin() as connection:
            rows = {row.point for row in rows_of(connection, PointRow, schema.points, domain)}
            lone = {
                one for one in there - rows if not is_dead(connection, self._objects, domain, one)
            }
        self._without_row(records.point_name(domain, one) for one in lone)
        for point_id in sorted(rows):
            try:
                point = records.load_point(self._objects, domain, point_id, key)[1]
                affected = not self._is_complete(point)
            except FormatError as error:
                self._findings.note(records.point_name(domain, point_id), error)
                affected = True
            if affected:
                self._findings.affected.append(point_id)

    def _is_complete(self, point: Point) -> bool:
        roots = () if point.root is None else (point.root,)
        with trusting(self._catalog, self._objects, self._domain) as connection:
            return resolve(connection, self._objects, self._domain, roots).complete

    def _tombstones(self) -> None:
        domain, there = self._domain, set(records.ids(self._objects, "tombstones", self._domain))
        with self._catalog.begin() as connection:
            rows = rows_of(connection, TombstoneRow, schema.tombstones, domain)
        known = {row.point for row in rows}
        for point_id in sorted(there | known):
            try:
                records.check_tombstone(self._objects, domain, point_id)
            except FormatError as error:
                self._findings.note(records.tombstone_name(domain, point_id), error)
        self._without_row(records.tombstone_name(domain, one) for one in there - known)

    def _without_row(self, names: Iterable[str]) -> None:
        for name in names:
            if not is_young(self._objects.record_path(name)):
                self._findings.note(name, "the catalog has no row for this record")
