"""Copies of frames: reading one, and what a walk over a domain's trees learns from their rows."""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from transfer.errors import FormatError
from transfer.formats import frame
from transfer.formats.pack import IndexEntry, PackHeader, class_of
from transfer.formats.reference import Reference
from transfer.vault import checks
from transfer.vault.catalog import find_frames, put_frames
from transfer.vault.closure import Closure, Standing, Walk
from transfer.vault.objects import DirectoryObjects
from transfer.vault.schema import METADATA_FROM, FrameRow, State


def row_of(header: PackHeader, entry: IndexEntry, session: int = 0) -> FrameRow:
    """The row of a frame in a pack; a node's completeness is still to be decided."""
    return FrameRow(
        header.domain, entry.tag, entry.id, header.pack_id, entry.offset, entry.frame_length,
        State.GOOD, entry.tag < METADATA_FROM, session, None, entry.epoch, entry.generation,
    )  # fmt: skip


def read_copy(objects: DirectoryObjects, row: FrameRow, raw: bytes | None = None) -> bytes | None:
    """The frame of *row*, its checksum verified; None for any damage. *raw* was read already."""
    if raw is None:
        place = PackHeader(row.domain, class_of(row.tag), row.pack)
        raw = objects.read_frame(place, row.offset, row.length)
    return raw if raw is not None and checks.intact(raw, row.reference) else None


def child_list(objects: DirectoryObjects, row: FrameRow) -> bytes | None:
    """The child list of an intact node, not decoded; None for any damage."""
    raw = read_copy(objects, row)
    header = None if raw is None else frame.decode_header(raw)
    if raw is None or header is None:
        return None
    return raw[frame.HEADER_SIZE : frame.HEADER_SIZE + header.children_size]


def children_of(objects: DirectoryObjects, row: FrameRow) -> tuple[Reference, ...] | None:
    """None also for a list that no frame of this kind can have: no vault wrote that pack."""
    children = child_list(objects, row)
    try:
        return None if children is None else frame.decode_children(row.tag, children)
    except FormatError:
        return None


class Shelf:
    """One domain's copies inside a transaction, for a walk."""

    def __init__(self, connection: sa.Connection, objects: DirectoryObjects, domain: bytes) -> None:
        self._connection, self._objects, self._domain = connection, objects, domain
        # Rows of nodes that were asked about and not entered yet: a query less for each.
        self._ahead: dict[Reference, list[FrameRow]] = {}

    def standings(self, references: Sequence[Reference]) -> dict[Reference, Standing]:
        found = find_frames(self._connection, self._domain, references)
        standings = {reference: self._standing(rows) for reference, rows in found.items()}
        for reference, standing in standings.items():
            if standing == Standing.INCOMPLETE:
                self._ahead[reference] = found[reference]
        return standings

    def _standing(self, rows: list[FrameRow]) -> Standing:
        good = [row for row in rows if row.good]
        if not good:
            return Standing.MISSING
        return Standing.COMPLETE if any(row.complete for row in good) else Standing.INCOMPLETE

    def children(self, reference: Reference) -> tuple[Reference, ...] | None:
        rows = self._ahead.pop(reference, None)
        if rows is None:
            rows = find_frames(self._connection, self._domain, (reference,))[reference]
        lists = (children_of(self._objects, row) for row in rows if row.good)
        return next((children for children in lists if children is not None), None)


class TolerantShelf(Shelf):
    """Takes what is known to be damaged as complete: it was there, once."""

    def _standing(self, rows: list[FrameRow]) -> Standing:
        standing = super()._standing(rows)
        return Standing.COMPLETE if rows and standing == Standing.MISSING else standing


def resolve(
    connection: sa.Connection, objects: DirectoryObjects, domain: bytes,
    roots: Sequence[Reference],
) -> Closure:  # fmt: skip
    """Walk what is not known to be complete below *roots*, and keep what was learnt."""
    closure = Walk(roots).run(Shelf(connection, objects, domain))
    set_complete(connection, domain, closure.completed)
    return closure


def set_complete(connection: sa.Connection, domain: bytes, references: Iterable[Reference]) -> None:
    found = find_frames(connection, domain, references)
    good = [row for rows in found.values() for row in rows if row.good and not row.complete]
    put_frames(connection, [row._replace(complete=True) for row in good])
