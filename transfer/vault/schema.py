"""The catalog's tables, and their rows as tuples with a check.

SQLite checks nothing of what it reads, so every row carries a CRC-32 over its values. A row that
fails it is unknown: never a yes, never a no that costs data (points and keyrings come again from
their records, a session has ended). No column is text, and none is converted before its check:
a damaged row fails its check, not its reading.
"""

import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import sqlalchemy as sa

from transfer.formats.pack import PackClass, PackHeader
from transfer.formats.record import CopyState
from transfer.formats.reference import Kind, Reference

METADATA_FROM = Kind.STREAM << 4  # the lowest tag of a node


class State(IntEnum):
    """Of one copy of a frame."""

    GOOD = 1
    SUSPECT = CopyState.SUSPECT
    DAMAGED = CopyState.DAMAGED


class SessionState(IntEnum):
    OPEN = 1
    COMMITTED = 2
    ENDED = 3
    FENCED = 4
    EXPIRED = 5


class PointState(IntEnum):
    """Only COMMITTED is written and listed so far; retention will need the others."""

    COMMITTED = 1
    PENDING = 2
    TRASHED = 3


class Counter(IntEnum):
    SESSIONS = 1  # numbers sessions, and one day condemnations
    ARRIVALS = 2


class FrameRow(NamedTuple):
    """One copy of a frame."""

    domain: bytes
    tag: int
    id: bytes
    pack: bytes
    offset: int
    length: int
    state: int
    complete: bool
    stored_by: int  # number of the session
    condemned: int | None
    epoch: bytes
    generation: int

    @property
    def reference(self) -> Reference:
        return Reference(self.tag, self.id)

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def place(self) -> tuple[Reference, bytes, int]:
        """Which copy it is."""
        return self.reference, self.pack, self.offset

    @property
    def good(self) -> bool:
        return self.state == State.GOOD and self.condemned is None


class PackRow(NamedTuple):
    """*length* is what was durable when the row was written."""

    pack: bytes
    domain: bytes
    pack_class: int
    length: int
    closed: bool

    @property
    def header(self) -> PackHeader:
        return PackHeader(self.domain, PackClass(self.pack_class), self.pack)


class BrokenRow(NamedTuple):
    """A frame that lost a good copy: nodes above it may be called complete, and not be."""

    domain: bytes
    tag: int
    id: bytes


class CounterRow(NamedTuple):
    name: int
    value: int


class SessionRow(NamedTuple):
    """Times in ns. *owner* is 16 bytes, or empty for nobody; *item* is None for a reader."""

    number: int
    domain: bytes
    item: bytes | None
    owner: bytes
    state: int
    opened: int
    last_seen: int


class KeyringRow(NamedTuple):
    domain: bytes
    version: int


class EpochRow(NamedTuple):
    domain: bytes
    epoch: bytes
    generation: int


class PointRow(NamedTuple):
    """*since*: when it took its state, in ns."""

    domain: bytes
    point: bytes
    item: bytes
    arrival_number: int
    state: int
    since: int


class TombstoneRow(NamedTuple):
    domain: bytes
    point: bytes


class _Blob(sa.types.UserDefinedType[bytes]):
    """Bytes as SQLite gives them: LargeBinary would convert what damage made a number."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "BLOB"


_metadata = sa.MetaData()


def _table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    check = sa.Column("row_check", sa.Integer, nullable=False)
    return sa.Table(name, _metadata, *columns, check, sqlite_with_rowid=False)


def _key(name: str, type_: Any = sa.Integer) -> sa.Column[Any]:
    # SQLite numbers a lone integer key by itself; no key here is for it to choose.
    return sa.Column(name, type_, primary_key=True, autoincrement=False)


def _value(name: str, type_: Any = sa.Integer, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=nullable)


# The columns of each table are the fields of its row, in the same order, then the check.
frames = _table(
    "frames",
    _key("domain", _Blob), _key("tag"), _key("id", _Blob), _key("pack", _Blob), _key("offset"),
    _value("length"), _value("state"), _value("complete", sa.Boolean), _value("stored_by"),
    _value("condemned", nullable=True), _value("epoch", _Blob), _value("generation"),
)  # fmt: skip
packs = _table(
    "packs",
    _key("pack", _Blob), _value("domain", _Blob), _value("pack_class"), _value("length"),
    _value("closed", sa.Boolean),
)  # fmt: skip
broken = _table("broken", _key("domain", _Blob), _key("tag"), _key("id", _Blob))
counters = _table("counters", _key("name"), _value("value"))
sessions = _table(
    "sessions",
    _key("number"), _value("domain", _Blob), _value("item", _Blob, nullable=True),
    _value("owner", _Blob), _value("state"), _value("opened"), _value("last_seen"),
    sa.Index("sessions_by_state", "state"),
)  # fmt: skip
keyrings = _table("keyrings", _key("domain", _Blob), _key("version"))
epochs = _table("epochs", _key("domain", _Blob), _key("epoch", _Blob), _key("generation"))
points = _table(
    "points",
    _key("domain", _Blob), _key("point", _Blob), _value("item", _Blob), _value("arrival_number"),
    _value("state"), _value("since"),
)  # fmt: skip
tombstones = _table("tombstones", _key("domain", _Blob), _key("point", _Blob))


def create(connection: sa.Connection) -> None:
    _metadata.create_all(connection)


class AnyRow(Protocol):
    def _asdict(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=AnyRow)


def check_of(row: AnyRow) -> int:
    return zlib.crc32(msgspec.msgpack.encode(row))


def with_check(row: AnyRow) -> dict[str, Any]:
    """The values of a table's columns."""
    return row._asdict() | {"row_check": check_of(row)}


def checked(kind: type[R], result: Iterable[Any]) -> Iterator[R]:
    """Rows of *kind* whose checks hold."""
    for *values, check in result:
        row = kind(*values)
        if check_of(row) == check:
            yield row
