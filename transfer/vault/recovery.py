"""What opening does: the catalog and the packs agree again before the first call is answered."""

import os
from collections.abc import Iterable

import sqlalchemy as sa
from blake3 import blake3

from transfer.errors import FormatError
from transfer.formats import pack, point, record
from transfer.formats.pack import IndexEntry, PackHeader
from transfer.formats.record import RecordKind
from transfer.vault import catalog as cat
from transfer.vault.catalog import Catalog, Row, State, find_rows, put_rows
from transfer.vault.frames import mark, note_pack, resolve, row_of
from transfer.vault.ledger import enter_keyring, enter_point, read_point
from transfer.vault.objects import DirectoryObjects

_BATCH = 1000


def recover(catalog: Catalog, objects: DirectoryObjects) -> None:
    """After this every row has its frame, as far as lengths tell, and every pack a trailer."""
    with catalog.begin() as connection:
        rows = connection.execute(sa.select(cat.packs))
        known = {row.pack: (row.length, row.closed) for row in rows}
    seen: set[bytes] = set()
    for place in objects.packs():
        seen.add(place.pack_id)
        length, closed = known.get(place.pack_id, (0, False))
        if not closed:
            known_before = place.pack_id in known
            settle_pack(catalog, objects, place.path.read_bytes(), known_before)
        elif place.path.stat().st_size < length:
            lose(catalog, objects, {place.pack_id: place.path.stat().st_size})
    lose(catalog, objects, dict.fromkeys(known.keys() - seen, 0))
    adopt_records(catalog, objects)


def lose(catalog: Catalog, objects: DirectoryObjects, lengths: dict[bytes, int]) -> None:
    """Frames that lie beyond these lengths of their packs are missing from now on."""
    if not lengths:
        return
    with catalog.begin() as connection:
        lost = [
            row
            for row in cat.scan_rows(connection)
            if row.pack in lengths and row.offset + row.length > lengths[row.pack]
        ]
        mark(connection, objects, lost, State.DAMAGED)


def settle_pack(
    catalog: Catalog, objects: DirectoryObjects, raw: bytes, known: bool = False
) -> bool:
    """Enter a pack's whole frames, cut it after the last one, close it; False for no pack.

    A pack with a trailer is entered by its index. If the catalog has *known* the pack, frames that
    the pack lacks are missing from now on.
    """
    try:
        header = pack.decode_header(raw)
    except FormatError:
        return False
    entries, length = entries_of(raw)
    with catalog.begin() as connection:
        enter_frames(connection, header, entries)
        if known:
            lost = _lost(connection, header, {entry.offset for entry in entries})
            mark(connection, objects, lost, State.DAMAGED)
    if length is None:
        length = close_cut_pack(objects, header, raw, entries)
    with catalog.begin() as connection:
        note_pack(connection, header, length, closed=True)
    return True


def entries_of(raw: bytes) -> tuple[list[IndexEntry], int | None]:
    """Index entries of a pack, and its length if it has a trailer that holds."""
    try:
        trailer = pack.decode_trailer(raw)
    except FormatError:
        trailer = None
    if trailer is not None and pack.digest_holds(raw, trailer):
        return list(trailer.entries), len(raw)
    # A trailer whose digest fails tells of damage: then only what is intact counts.
    found = [pack.entry_of(one.frame.header, one.offset) for one in pack.walk(raw)]
    return found, None if trailer is None else len(raw)


def close_cut_pack(
    objects: DirectoryObjects, header: PackHeader, raw: bytes, entries: Iterable[IndexEntry]
) -> int:
    """Cut an open pack after its last whole frame, write its trailer, and return its length."""
    entries = list(entries)
    cut = max((one.offset + one.frame_length for one in entries), default=pack.HEADER_SIZE)
    trailer = pack.encode_trailer(entries, cut, blake3(raw[:cut]))
    with objects.pack_path(header).open("r+b") as file:
        file.truncate(cut)
        file.seek(cut)
        file.write(trailer)
        file.flush()
        os.fsync(file.fileno())
    return cut + len(trailer)


def enter_frames(
    connection: sa.Connection, header: PackHeader, entries: list[IndexEntry]
) -> list[Row]:
    """Rows for those of *entries* that have none; they come back."""
    new: list[Row] = []
    for at in range(0, len(entries), _BATCH):
        batch = entries[at : at + _BATCH]
        found = find_rows(connection, header.domain, [entry.reference for entry in batch])
        for entry in batch:
            places = {(row.pack, row.offset) for row in found[entry.reference]}
            if (header.pack_id, entry.offset) not in places:
                new.append(row_of(header, entry))
    put_rows(connection, new)
    return new


def _lost(connection: sa.Connection, header: PackHeader, offsets: set[int]) -> list[Row]:
    rows = cat.scan_rows(
        connection, cat.frames.c.domain == header.domain, cat.frames.c.pack == header.pack_id
    )
    return [row for row in rows if row.offset not in offsets]


def adopt_records(catalog: Catalog, objects: DirectoryObjects) -> tuple[int, int]:
    """Enter records without rows: (points adopted, points left because frames are missing)."""
    _adopt_keyrings(catalog, objects)
    dead = _adopt_tombstones(catalog, objects)
    adopted = left = 0
    with catalog.begin() as connection:
        known = set(connection.scalars(sa.select(cat.points.c.point)))
    for name in objects.records("points"):
        if (found := _name_bytes(name)) in known or found in dead:
            continue
        taken = _adopt_point(catalog, objects, name)
        adopted, left = adopted + taken, left + (not taken)
    return adopted, left


def _adopt_keyrings(catalog: Catalog, objects: DirectoryObjects) -> None:
    for name in objects.records("keyrings"):
        raw = objects.read_record(name)
        try:
            body = b"" if raw is None else record.decode(raw, RecordKind.KEYRING)
            with catalog.begin() as connection:
                enter_keyring(connection, body)
        except FormatError:
            continue  # `verify_vault` names it


def _adopt_tombstones(catalog: Catalog, objects: DirectoryObjects) -> set[bytes]:
    dead = {found for name in objects.records("tombstones") if (found := _name_bytes(name))}
    with catalog.begin() as connection:
        cat.upsert(connection, cat.tombstones, [{"point": one} for one in sorted(dead)])
        for one in dead:
            connection.execute(sa.delete(cat.points).where(cat.points.c.point == one))
    return dead


def _adopt_point(catalog: Catalog, objects: DirectoryObjects, name: str) -> bool:
    stored = read_point(objects, name)
    if stored is None:
        return False
    try:
        decoded = point.decode(stored.point)
    except FormatError:
        return False
    with catalog.begin() as connection:
        for counter, value in (("sessions", stored.counter), ("arrivals", stored.arrival_number)):
            if cat.current(connection, counter) < value:
                cat.next_number(connection, counter, value)
        roots = () if decoded.root is None else (decoded.root,)
        if not resolve(connection, objects, decoded.domain, roots).complete:
            return False
        enter_point(connection, decoded, stored.arrival_number)
    return True


def _name_bytes(name: str) -> bytes:
    try:
        return bytes.fromhex(name.rpartition("/")[2])
    except ValueError:
        return b""
