"""The vault's catalog: where each frame is, and what was promised about it. SQLite, synchronous.

Used by one thread at a time. `begin` is the only way in, and the one place where SQLite's errors
become ours.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from transfer.errors import (
    DamagedData,
    NewerFormat,
    NoSpace,
    NotStored,
    TransferError,
    VaultUnavailable,
)
from transfer.formats.reference import Reference
from transfer.vault import schema
from transfer.vault.schema import (
    AnyRow,
    Counter,
    CounterRow,
    FrameRow,
    R,
    checked,
    with_check,
)

VERSION = 2  # of the schema
_IN = 500  # values in one IN (...)
PAGE = 1000  # rows read or written at once where there may be millions


def _pragmas(connection: Any, _: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    connection.text_factory = bytes  # damage can make a blob a text, and a text must decode
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later would fail beside another process.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class Catalog:
    """Raises DamagedData if the file is no sound catalog, NewerFormat for a later schema."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._path = path
        self._failed = False
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)),
            poolclass=sa.pool.StaticPool,
            connect_args={"check_same_thread": False},
        )
        sa.event.listen(self._engine, "connect", _pragmas)
        sa.event.listen(self._engine, "begin", _begin_immediate)
        try:
            with self.begin() as connection:
                if create:
                    _create(connection)
                self._check_schema(connection)
        except BaseException:
            self.close()
            raise

    def _check_schema(self, connection: sa.Connection) -> None:
        version: Any = connection.exec_driver_sql("PRAGMA application_id").scalar()
        check = connection.exec_driver_sql("PRAGMA user_version").scalar()
        if check != _schema_check(connection, version):
            raise self.damaged("its schema is not what was written")
        if version != VERSION:
            if version > VERSION:
                raise NewerFormat(f"{self._path}: a newer catalog", "use a newer version")
            raise self.damaged("its schema is of an older version")

    def damaged(self, what: object) -> DamagedData:
        return _damaged(str(self._path), what)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end, rolled back by an exception.

        Raises NoSpace, NotStored for an I/O error (and from then on: what the disk holds is not
        known any more), VaultUnavailable when another process holds it for a minute, DamagedData.
        """
        if self._failed:
            raise NotStored(f"the catalog {self._path} failed", "open the vault again")
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            known = self._explained(error)
            if known is None:
                raise
            raise known from error
        except UnicodeDecodeError as error:
            # SQLite's message quotes damaged text: it cannot even be told what is damaged.
            raise self.damaged("its text is damaged") from error

    def _explained(self, error: sa.exc.DBAPIError) -> TransferError | None:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return NoSpace(f"no space for the catalog {self._path}", "make room, then run again")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self.damaged(error.orig)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return VaultUnavailable(f"another process holds the catalog {self._path}", "try again")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return VaultUnavailable(
                f"the catalog {self._path} cannot be written: {error.orig}",
                "the directory must be writable, also for reading",
            )
        if code == sqlite3.SQLITE_IOERR:
            self._failed = True
            return NotStored(f"the catalog {self._path} failed: {error.orig}", "look at the disk")
        return None

    def close(self) -> None:
        self._engine.dispose()


def _damaged(path: str, what: object) -> DamagedData:
    hint = f"run: transfer vault rebuild {Path(path).parent}"
    return DamagedData(f"the catalog {path} cannot be believed: {what}", hint)


def _create(connection: sa.Connection) -> None:
    schema.create(connection)
    # Both counters are there from the start: one that is missing was lost.
    put(connection, schema.counters, [CounterRow(counter, 0) for counter in Counter])
    check = _schema_check(connection, VERSION)
    connection.exec_driver_sql(f"PRAGMA application_id = {VERSION}")
    connection.exec_driver_sql(f"PRAGMA user_version = {check}")


def _schema_check(connection: sa.Connection, version: object) -> int:
    """31 bits over the tables' definitions: one flipped bit there renames a column."""
    texts = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master ORDER BY name")
    return zlib.crc32(repr((version, [tuple(row) for row in texts])).encode()) & 0x7FFFFFFF


def current(connection: sa.Connection, counter: Counter) -> int:
    """Raises DamagedData for a counter that cannot be believed: numbers never come twice."""
    this = schema.counters.c.name == int(counter)
    rows = checked(CounterRow, connection.execute(sa.select(schema.counters).where(this)))
    row = next(rows, None)
    if row is None:
        path = connection.engine.url.database or ""
        raise _damaged(path, f"the counter of {counter.name.lower()} is damaged")
    return row.value


def next_number(connection: sa.Connection, counter: Counter) -> int:
    value = current(connection, counter) + 1
    put(connection, schema.counters, [CounterRow(counter, value)])
    return value


def raise_counter(connection: sa.Connection, counter: Counter, value: int) -> None:
    if current(connection, counter) < value:
        put(connection, schema.counters, [CounterRow(counter, value)])


def put(connection: sa.Connection, table: sa.Table, rows: Iterable[AnyRow]) -> None:
    """Insert *rows*, or replace those of the same keys."""
    values = [with_check(row) for row in rows]
    if values:
        connection.execute(insert(table).prefix_with("OR REPLACE"), values)


def rows_of(connection: sa.Connection, kind: type[R], table: sa.Table, domain: bytes) -> set[R]:
    """A domain's rows whose checks hold."""
    query = sa.select(table).where(table.c.domain == domain)
    return set(checked(kind, connection.execute(query)))


def put_frames(connection: sa.Connection, rows: Iterable[FrameRow]) -> None:
    put(connection, schema.frames, rows)


def find_frames(
    connection: sa.Connection, domain: bytes, references: Iterable[Reference]
) -> dict[Reference, list[FrameRow]]:
    """All copies of *references* whose rows' checks hold, best first."""
    found: dict[Reference, list[FrameRow]] = {reference: [] for reference in references}
    by_tag: dict[int, list[bytes]] = {}
    for reference in found:
        by_tag.setdefault(reference.tag, []).append(reference.id)
    column = schema.frames.c
    for tag, ids in by_tag.items():
        for at in range(0, len(ids), _IN):
            these = (column.domain == domain, column.tag == tag, column.id.in_(ids[at : at + _IN]))
            rows = connection.execute(sa.select(schema.frames).where(*these))
            for row in checked(FrameRow, rows):
                # From a page that is out of order SQLite gives rows that nobody asked for.
                if row.domain == domain and row.reference in found:
                    found[row.reference].append(row)
    for copies in found.values():
        copies.sort(key=lambda row: (not row.good, row.state))
    return found


def frame_domains(catalog: Catalog) -> list[bytes]:
    """The domains that have frames, one look-up each: a DISTINCT would read all the rows."""
    column, found = schema.frames.c.domain, [b""]
    with catalog.begin() as connection:
        while found[-1] is not None:
            following = sa.select(sa.func.min(column)).where(column > found[-1])
            found.append(connection.scalar(following))
    return found[1:-1]


def page_of_frames(
    connection: sa.Connection, domain: bytes, after: FrameRow | None, first: int, last: int
) -> list[FrameRow]:
    """The next PAGE rows with tags *first* to *last* whose checks hold, in key order."""
    key = [schema.frames.c[name] for name in ("tag", "id", "pack", "offset")]
    start = (first, b"", b"", -1) if after is None else tuple(after._asdict()[c.name] for c in key)
    these = (schema.frames.c.domain == domain, sa.tuple_(*key) > start, key[0] <= last)
    query = sa.select(schema.frames).where(*these).order_by(*key)
    with connection.execute(query.execution_options(yield_per=PAGE)) as result:
        return list(islice(checked(FrameRow, result), PAGE))
