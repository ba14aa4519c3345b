"""What interrupted runs have read, by key: on disk, for there may be millions of extents.

It is a database of SQLite in a file without a name, which keeps 2 MiB in memory and goes with its
last user. Where the disk does not hold it, nothing is known.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from transfer.formats.journal import Ids
from transfer.formats.reference import ID_SIZE, NULL_ID

_SETUP = """
    pragma journal_mode = off;
    pragma synchronous = off;
    pragma locking_mode = exclusive;
    create table read (key blob primary key, ids blob not null) without rowid;
    begin;
"""


class KnownReads:
    """In *directory*. Whoever uses it from several threads does so one after the other."""

    def __init__(self, directory: Path) -> None:
        self._database: sqlite3.Connection | None = None
        with self._working():
            path = directory / f".known-{secrets.token_hex(8)}"
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._database.executescript(_SETUP)
            finally:
                path.unlink(missing_ok=True)

    def __bool__(self) -> bool:
        return bool(self._all("select 1 from read limit 1"))

    def add(self, extents: Iterable[tuple[bytes, Ids]]) -> None:
        """Of two that have one key the later one counts."""
        rows = ((key, b"".join(id or NULL_ID for id in ids)) for key, ids in extents)
        with self._working():
            if self._database is not None:
                self._database.executemany("insert or replace into read values (?, ?)", rows)

    def find(self, keys: Sequence[bytes]) -> list[Ids | None]:
        return [self._find(key) for key in keys]

    def _find(self, key: bytes) -> Ids | None:
        for (raw,) in self._all("select ids from read where key = ?", key):
            ids = (raw[at : at + ID_SIZE] for at in range(0, len(raw), ID_SIZE))
            return tuple(id if id != NULL_ID else None for id in ids)
        return None

    def clear(self) -> None:
        self._all("delete from read")

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _all(self, query: str, *values: bytes) -> list[tuple[bytes]]:
        with self._working():
            if self._database is not None:
                with closing(self._database.execute(query, values)) as cursor:
                    return cursor.fetchall()
        return []

    @contextmanager
    def _working(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError):
            self.close()
