"""Entering records in the catalog: when they are made, and again when their rows are lost.

A record without a row is of a call that was cut short, or the row was damaged. A keyring is entered
if its signature holds; a tombstone always; a point if it is signed, not deleted, and everything
below its root is there, or is known to have been there and to be damaged now.
"""

import sqlalchemy as sa

from transfer.errors import FormatError
from transfer.formats.keyring import Keyring
from transfer.formats.point import Point
from transfer.formats.record import PointRecord
from transfer.vault import records, schema
from transfer.vault.catalog import Catalog, put, raise_counter, rows_of
from transfer.vault.closure import Walk
from transfer.vault.copies import TolerantShelf, resolve
from transfer.vault.damage import trusting
from transfer.vault.objects import DirectoryObjects
from transfer.vault.schema import (
    Counter,
    EpochRow,
    KeyringRow,
    PointRow,
    PointState,
    TombstoneRow,
)


def adopt_records(catalog: Catalog, objects: DirectoryObjects) -> list[str]:
    """Enter what has no row. The points that cannot be entered come back, each with the reason."""
    for domain in records.domains(objects, "keyrings"):
        _adopt_keyrings(catalog, objects, domain)
    for domain in records.domains(objects, "tombstones"):
        _adopt_tombstones(catalog, objects, domain)
    left: list[str] = []
    for domain in records.domains(objects, "points"):
        left += adopt_points(catalog, objects, domain)
    return left


def _adopt_keyrings(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> None:
    for version in records.versions(objects, domain):
        try:
            keyring = records.load_keyring(objects, domain, version)[1]
        except FormatError:
            continue  # `verify_vault` names it
        with catalog.begin() as connection:
            enter_keyring(connection, keyring)


def _adopt_tombstones(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> None:
    with catalog.begin() as connection:
        known = rows_of(connection, TombstoneRow, schema.tombstones, domain)
        for point_id in records.ids(objects, "tombstones", domain):
            if TombstoneRow(domain, point_id) not in known:
                bury(connection, domain, point_id)


def adopt_points(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> list[str]:
    with catalog.begin() as connection:
        rows = rows_of(connection, PointRow, schema.points, domain)
    known = {row.point for row in rows}
    left: list[str] = []
    for point_id in records.ids(objects, "points", domain):
        if point_id not in known:
            try:
                _adopt_point(catalog, objects, domain, point_id)
            except FormatError as error:
                left.append(str(error))
    return left


def _adopt_point(
    catalog: Catalog, objects: DirectoryObjects, domain: bytes, point_id: bytes
) -> None:
    """Raises FormatError for a point that is not entered."""
    name = records.point_name(domain, point_id)
    key = records.public_key(objects, domain)
    if key is None:
        raise FormatError(f"record {name}: no keyring tells the domain's public key")
    stored, point = records.load_point(objects, domain, point_id, key)
    with trusting(catalog, objects, domain) as connection:
        if is_dead(connection, objects, domain, point_id):
            return
        raise_counter(connection, Counter.SESSIONS, stored.counter)
        raise_counter(connection, Counter.ARRIVALS, stored.arrival_number)
        if _was_complete(connection, objects, point):
            enter_point(connection, point, stored)
            return
    raise FormatError(f"record {name}: frames below the point's root are missing")


def _was_complete(connection: sa.Connection, objects: DirectoryObjects, point: Point) -> bool:
    roots = () if point.root is None else (point.root,)
    if resolve(connection, objects, point.domain, roots).complete:
        return True
    return Walk(roots).run(TolerantShelf(connection, objects, point.domain)).complete


def enter_keyring(connection: sa.Connection, keyring: Keyring) -> None:
    """Writes only rows that are not there: it runs for every keyring whenever a vault is opened."""
    domain = keyring.domain
    version = {KeyringRow(domain, keyring.version)}
    epochs = {EpochRow(domain, one.epoch, one.generation) for one in keyring.epochs}
    put(
        connection,
        schema.keyrings,
        version - rows_of(connection, KeyringRow, schema.keyrings, domain),
    )
    put(connection, schema.epochs, epochs - rows_of(connection, EpochRow, schema.epochs, domain))


def enter_point(connection: sa.Connection, point: Point, stored: PointRecord) -> None:
    row = PointRow(
        point.domain, point.point_id, point.item, stored.arrival_number, PointState.COMMITTED,
        stored.arrival_time,
    )  # fmt: skip
    put(connection, schema.points, [row])


def bury(connection: sa.Connection, domain: bytes, point_id: bytes) -> None:
    put(connection, schema.tombstones, [TombstoneRow(domain, point_id)])
    column = schema.points.c
    this = (column.domain == domain, column.point == point_id)
    connection.execute(sa.delete(schema.points).where(*this))


def is_dead(
    connection: sa.Connection, objects: DirectoryObjects, domain: bytes, point_id: bytes
) -> bool:
    """A record or a row: either alone is enough."""
    if objects.has_record(records.tombstone_name(domain, point_id)):
        return True
    column = schema.tombstones.c
    query = sa.select(schema.tombstones).where(column.domain == domain, column.point == point_id)
    return connection.execute(query).first() is not None
