"""The vault's catalog: where each frame is, and what was promised about it. SQLite, synchronous.

Used by one thread at a time. A frame's row carries a check over its values, because SQLite has
none: a row that fails it is unknown, and never a yes.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from transfer.formats.reference import Kind, Reference

METADATA_FROM = Kind.STREAM << 4  # the lowest tag of a node
_BATCH = 500


class State(IntEnum):
    GOOD = 1
    SUSPECT = 2  # a client could not open it
    DAMAGED = 3  # its checksum fails, or its pack lacks it


class Row(NamedTuple):
    """One copy of a frame."""

    domain: bytes
    tag: int
    id: bytes
    pack: bytes
    offset: int
    length: int
    state: int
    complete: bool
    stored_by: int
    condemned: int | None
    epoch: bytes
    generation: int

    @property
    def reference(self) -> Reference:
        return Reference(self.tag, self.id)

    @property
    def good(self) -> bool:
        return self.state == State.GOOD and self.condemned is None

    @property
    def check(self) -> int:
        condemned = -1 if self.condemned is None else self.condemned
        return zlib.crc32(_CHECKED.pack(*self._replace(condemned=condemned)))


_CHECKED = struct.Struct("<16sB32s16sQQB?Qq8sI")
_schema = sa.MetaData()
_id = sa.LargeBinary
frames = sa.Table(
    "frames", _schema,
    sa.Column("domain", _id, primary_key=True),
    sa.Column("tag", sa.Integer, primary_key=True),
    sa.Column("id", _id, primary_key=True),
    sa.Column("pack", _id, primary_key=True),
    sa.Column("offset", sa.Integer, primary_key=True),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("state", sa.Integer, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),
    sa.Column("stored_by", sa.Integer, nullable=False),
    sa.Column("condemned", sa.Integer),
    sa.Column("epoch", _id, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("row_check", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)  # fmt: skip
packs = sa.Table(
    "packs", _schema,
    sa.Column("pack", _id, primary_key=True),
    sa.Column("domain", _id, nullable=False),
    sa.Column("class", sa.Integer, nullable=False),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("closed", sa.Boolean, nullable=False),
)  # fmt: skip
counters = sa.Table(
    "counters", _schema,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)  # fmt: skip
sessions = sa.Table(
    "sessions", _schema,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("domain", _id, nullable=False),
    sa.Column("item", _id),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("last_seen", sa.Integer, nullable=False),
)  # fmt: skip
keyrings = sa.Table(
    "keyrings", _schema,
    sa.Column("domain", _id, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
)  # fmt: skip
epochs = sa.Table(
    "epochs", _schema,
    sa.Column("domain", _id, primary_key=True),
    sa.Column("epoch", _id, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
)  # fmt: skip
points = sa.Table(
    "points", _schema,
    sa.Column("point", _id, primary_key=True),
    sa.Column("domain", _id, nullable=False, index=True),
    sa.Column("item", _id, nullable=False),
    sa.Column("arrival_number", sa.Integer, nullable=False),
)  # fmt: skip
tombstones = sa.Table("tombstones", _schema, sa.Column("point", _id, primary_key=True))


def _pragmas(connection: Any, _: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later would fail beside another process.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class Catalog:
    def __init__(self, path: Path) -> None:
        self._engine = sa.create_engine(
            f"sqlite:///{path}",
            poolclass=sa.pool.StaticPool,
            connect_args={"check_same_thread": False},
        )
        sa.event.listen(self._engine, "connect", _pragmas)
        sa.event.listen(self._engine, "begin", _begin_immediate)
        with self._engine.begin() as connection:
            _schema.create_all(connection)

    def begin(self) -> AbstractContextManager[sa.Connection]:
        """A transaction: committed at the end, rolled back by an exception."""
        return self._engine.begin()

    def close(self) -> None:
        self._engine.dispose()


def next_number(connection: sa.Connection, name: str, at_least: int = 0) -> int:
    """Count *name* up by one, to *at_least* or more."""
    value = max(current(connection, name) + 1, at_least)
    upsert(connection, counters, [{"name": name, "value": value}])
    return value


def current(connection: sa.Connection, name: str) -> int:
    found = connection.scalar(sa.select(counters.c.value).where(counters.c.name == name))
    return int(found or 0)


def upsert(connection: sa.Connection, table: sa.Table, values: list[dict[str, Any]]) -> None:
    if values:
        connection.execute(insert(table).prefix_with("OR REPLACE"), values)


def put_rows(connection: sa.Connection, rows: Iterable[Row]) -> None:
    """Insert *rows*, or replace those of the same copies."""
    upsert(connection, frames, [row._asdict() | {"row_check": row.check} for row in rows])


def delete_rows(connection: sa.Connection, rows: Iterable[Row]) -> None:
    key = [frames.c[name] for name in ("domain", "tag", "id", "pack", "offset")]
    for row in rows:
        place = (row.domain, row.tag, row.id, row.pack, row.offset)
        connection.execute(
            sa.delete(frames).where(*(column == v for column, v in zip(key, place, strict=True)))
        )


def find_rows(
    connection: sa.Connection, domain: bytes, references: Sequence[Reference]
) -> dict[Reference, list[Row]]:
    """All copies of *references* whose rows' checks hold, best first."""
    found: dict[Reference, list[Row]] = {reference: [] for reference in references}
    by_tag: dict[int, list[bytes]] = {}
    for reference in found:
        by_tag.setdefault(reference.tag, []).append(reference.id)
    for tag, ids in by_tag.items():
        for at in range(0, len(ids), _BATCH):
            query = sa.select(frames).where(
                frames.c.domain == domain,
                frames.c.tag == tag,
                frames.c.id.in_(ids[at : at + _BATCH]),
            )
            for row in _checked(connection.execute(query)):
                found[row.reference].append(row)
    for rows in found.values():
        rows.sort(key=lambda row: (not row.good, row.state))
    return found


def scan_rows(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Iterator[Row]:
    """All rows whose checks hold, in key order; read them all before writing."""
    query = sa.select(frames).where(*conditions).execution_options(yield_per=_BATCH)
    return _checked(connection.execute(query))


def _checked(result: Iterable[Any]) -> Iterator[Row]:
    for *values, check in result:
        try:
            row = Row(*values)
            holds = row.check == check
        except (struct.error, TypeError):
            continue
        if holds:
            yield row
