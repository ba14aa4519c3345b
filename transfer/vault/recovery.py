"""What opening does: the catalog and the packs agree again before the first call is answered."""

from itertools import pairwise

import sqlalchemy as sa

from transfer.errors import DamagedData
from transfer.formats.pack import HEADER_SIZE, IndexEntry, PackHeader
from transfer.vault import schema
from transfer.vault.adoption import adopt_records
from transfer.vault.catalog import (
    PAGE,
    Catalog,
    find_frames,
    frame_domains,
    page_of_frames,
    put_frames,
)
from transfer.vault.copies import row_of
from transfer.vault.damage import mark, note_broken
from transfer.vault.frames import note_pack
from transfer.vault.objects import DirectoryObjects, PackPlace
from transfer.vault.open_pack import close_cut
from transfer.vault.pack_file import Contents, examine
from transfer.vault.schema import FrameRow, PackRow, State, checked

_PACKS = 10_000  # looked at together; some 10 MiB of memory


def recover(catalog: Catalog, objects: DirectoryObjects) -> None:
    """After this every row has its frame, as far as lengths tell, and every pack a trailer."""
    lost: dict[bytes, int] = {}  # what is left of packs that were longer once
    known_any = seen_any = False
    for prefixes in pack_ranges(catalog):
        with catalog.begin() as connection:
            known = {row.header: row for row in pack_rows(connection, prefixes)}
        seen = {place.header: place for place in objects.packs(prefixes)}
        known_any, seen_any = known_any or bool(known), seen_any or bool(seen)
        for header, place in seen.items():
            lost |= _look(catalog, objects, place, known.get(header))
        lost |= {header.pack_id: 0 for header in known.keys() - seen.keys()}
    if known_any and not seen_any:
        hint = f"mount their disk; if they are gone: transfer vault rebuild {objects.root}"
        raise DamagedData(f"none of the packs in {objects.root / 'packs'} is there", hint)
    lose(catalog, objects, lost)
    adopt_records(catalog, objects)


def pack_ranges(catalog: Catalog) -> list[range]:
    """First bytes of pack IDs, so many at a time that some _PACKS packs have them."""
    with catalog.begin() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(schema.packs)) or 0
    parts = min(256, count // _PACKS + 1)
    bounds = [256 * part // parts for part in range(parts + 1)]
    return [range(*pair) for pair in pairwise(bounds)]


def pack_rows(connection: sa.Connection, prefixes: range) -> list[PackRow]:
    """Rows of packs whose IDs begin with one of these bytes."""
    column = schema.packs.c.pack
    last = bytes((prefixes[-1],)) + b"\xff" * 15
    query = sa.select(schema.packs).where(column.between(bytes((prefixes[0],)), last))
    return list(checked(PackRow, connection.execute(query)))


def _look(
    catalog: Catalog, objects: DirectoryObjects, place: PackPlace, row: PackRow | None
) -> dict[bytes, int]:
    """Settle a pack that is not known to be closed; what is left of one that is shorter now."""
    size = objects.pack_size(place.header)
    if row is not None and row.closed:
        return {row.pack: size} if size < row.length else {}
    if settle_pack(catalog, objects, place, 0 if row is None else row.length):
        return {}
    if row is None and size <= HEADER_SIZE:
        place.path.unlink()  # its header was just being written
    return {} if row is None else {row.pack: 0}


def lose(catalog: Catalog, objects: DirectoryObjects, lengths: dict[bytes, int]) -> None:
    """Frames that lie beyond these lengths of their packs are damaged from now on."""
    if not lengths:
        return
    for domain in frame_domains(catalog):
        after: FrameRow | None = None
        while True:
            with catalog.begin() as connection:
                page = page_of_frames(connection, domain, after, 0, 255)
                if not page:
                    break
                beyond = [row for row in page if row.end > lengths.get(row.pack, row.end)]
                mark(connection, objects, domain, beyond, State.DAMAGED)
            after = page[-1]


def settle_pack(
    catalog: Catalog, objects: DirectoryObjects, place: PackPlace, known: int | None = None
) -> bool:
    """Enter a pack's whole frames, and close it after the last one; False for no pack.

    Frames that its index names, and that are not whole, are entered as damaged: they were there.
    *known* is how many bytes of it the catalog promised, None if it is new. If they are not all
    there, or a sector cannot be read, nothing is cut: the disk may do better another day.
    """
    contents = examine(place.path, place.header)
    if contents is None:
        return False
    enter_frames(catalog, place.header, contents.entries)
    enter_frames(catalog, place.header, contents.lost, State.DAMAGED)
    length, closed = contents.size, contents.closed
    if not closed and contents.readable and contents.cut >= (known or 0):
        length, closed = close_cut(place.path, contents), True
    with catalog.begin() as connection:
        if known is not None and not _covers(contents, known):
            rows = rows_in(connection, place.header)
            whole = {(entry.reference, entry.offset) for entry in contents.entries}
            lacking = [row for row in rows if (row.reference, row.offset) not in whole]
            mark(connection, objects, place.header.domain, lacking, State.DAMAGED)
        note_pack(connection, place.header, length, closed)
    return True


def _covers(contents: Contents, length: int) -> bool:
    """Whether whole frames follow each other up to *length*: then no row can lack its frame."""
    whole = HEADER_SIZE + sum(entry.frame_length for entry in contents.entries)
    return whole == contents.cut >= length


def rows_in(connection: sa.Connection, header: PackHeader) -> list[FrameRow]:
    """Costs a scan of the domain: no index leads from a pack to its rows."""
    column = schema.frames.c
    here = (column.domain == header.domain, column.pack == header.pack_id)
    return list(checked(FrameRow, connection.execute(sa.select(schema.frames).where(*here))))


def enter_frames(
    catalog: Catalog, header: PackHeader, entries: list[IndexEntry], state: State = State.GOOD
) -> list[FrameRow]:
    """Rows for those of *entries* that have none; they come back."""
    new: list[FrameRow] = []
    for at in range(0, len(entries), PAGE):
        batch = entries[at : at + PAGE]
        with catalog.begin() as connection:
            found = find_frames(connection, header.domain, {one.reference for one in batch})
            places = {row.place for rows in found.values() for row in rows}
            rows = [row_of(header, entry)._replace(state=state) for entry in batch]
            rows = [row for row in rows if row.place not in places]
            put_frames(connection, rows)
            if state != State.GOOD:
                note_broken(connection, header.domain, {row.reference for row in rows})
            new += rows
    return new
