"""What interrupted runs have read, by key: on disk, for there may be millions of extents.

SQLite's temporary database has no name, keeps 2 MiB in memory, and goes with its last user.
"""

import sqlite3
from collections.abc import Iterable, Sequence

from transfer.formats.journal import Ids
from transfer.formats.reference import ID_SIZE, NULL_ID

_SETUP = """
    pragma journal_mode = off;
    pragma synchronous = off;
    create table read (key blob primary key, ids blob not null) without rowid;
    begin;
"""


class KnownReads:
    """Whoever uses it from several threads does so one after the other."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(_SETUP)

    def __bool__(self) -> bool:
        return self._database.execute("select 1 from read limit 1").fetchone() is not None

    def add(self, extents: Iterable[tuple[bytes, Ids]]) -> None:
        """Of two that have one key the later one counts."""
        rows = ((key, b"".join(id or NULL_ID for id in ids)) for key, ids in extents)
        self._database.executemany("insert or replace into read values (?, ?)", rows)

    def find(self, keys: Sequence[bytes]) -> list[Ids | None]:
        return [self._find(key) for key in keys]

    def _find(self, key: bytes) -> Ids | None:
        row = self._database.execute("select ids from read where key = ?", (key,)).fetchone()
        if row is None:
            return None
        raw: bytes = row[0]
        ids = (raw[at : at + ID_SIZE] for at in range(0, len(raw), ID_SIZE))
        return tuple(id if id != NULL_ID else None for id in ids)

    def clear(self) -> None:
        self._database.execute("delete from read")

    def close(self) -> None:
        self._database.close()
