"""Frames of a stored vault: durable first, then in the catalog, then answered.

Synchronous; the vault's one writer thread runs it.
"""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from transfer.errors import NotStored
from transfer.formats import frame, pack
from transfer.formats.pack import PackClass, PackHeader, class_of
from transfer.formats.reference import Kind, Reference, decode_references
from transfer.vault import catalog as cat
from transfer.vault import checks
from transfer.vault.base import Outcome
from transfer.vault.catalog import METADATA_FROM, Catalog, Row, State, find_rows, put_rows
from transfer.vault.checks import Arrived, Epochs
from transfer.vault.closure import Closure, Standing, Walk
from transfer.vault.objects import DirectoryObjects, OpenPack, not_stored


def place_of(row: Row) -> PackHeader:
    return PackHeader(row.domain, class_of(row.tag), row.pack)


def read_row(objects: DirectoryObjects, row: Row) -> bytes | None:
    """The frame of *row*, its checksum verified; None for any damage."""
    raw = objects.read_frame(place_of(row), row.offset, row.length)
    return raw if raw is not None and checks.intact(raw, row.reference) else None


class Shelf:
    """One domain's copies inside a transaction, for a walk.

    With *trusting* off only data is taken as complete: all nodes are walked again.
    """

    def __init__(
        self, connection: sa.Connection, objects: DirectoryObjects, domain: bytes,
        trusting: bool = True,
    ) -> None:  # fmt: skip
        self._connection, self._objects = connection, objects
        self._domain, self._trusting = domain, trusting
        # Rows of nodes that were asked about and not entered yet: a query less for each.
        self._ahead: dict[Reference, list[Row]] = {}

    def standings(self, references: Sequence[Reference]) -> dict[Reference, Standing]:
        found = find_rows(self._connection, self._domain, references)
        standings = {reference: self._standing(rows) for reference, rows in found.items()}
        for reference, standing in standings.items():
            if standing == Standing.INCOMPLETE:
                self._ahead[reference] = found[reference]
        return standings

    def _standing(self, rows: list[Row]) -> Standing:
        good = [row for row in rows if row.good]
        if not good:
            return Standing.MISSING
        believed = self._trusting or good[0].tag < METADATA_FROM
        complete = believed and any(row.complete for row in good)
        return Standing.COMPLETE if complete else Standing.INCOMPLETE

    def children(self, reference: Reference) -> tuple[Reference, ...] | None:
        rows = self._ahead.pop(reference, None)
        if rows is None:
            rows = find_rows(self._connection, self._domain, (reference,))[reference]
        for row in rows:
            raw = read_row(self._objects, row) if row.good else None
            if raw is not None:
                header = frame.decode_header(raw)
                assert header is not None
                return decode_references(
                    raw[frame.HEADER_SIZE : frame.HEADER_SIZE + header.children_size]
                )
        return None


def resolve(
    connection: sa.Connection, objects: DirectoryObjects, domain: bytes,
    roots: Sequence[Reference],
) -> Closure:  # fmt: skip
    """Walk what is not known to be complete below *roots*, and keep what was learnt."""
    closure = Walk(Shelf(connection, objects, domain)).run(roots)
    set_complete(connection, domain, closure.completed)
    return closure


def set_complete(connection: sa.Connection, domain: bytes, references: Iterable[Reference]) -> None:
    found = find_rows(connection, domain, list(references))
    good = [row for rows in found.values() for row in rows if row.good and not row.complete]
    put_rows(connection, [row._replace(complete=True) for row in good])


def recheck(connection: sa.Connection, objects: DirectoryObjects, domain: bytes) -> None:
    """Decide completeness of all the domain's nodes anew, in one walk from the data up."""
    condition = (cat.frames.c.domain == domain, cat.frames.c.tag >= METADATA_FROM)
    nodes = list(cat.scan_rows(connection, *condition))
    walk = Walk(Shelf(connection, objects, domain, trusting=False))
    complete = walk.run(list({row.reference for row in nodes})).completed
    changed = [
        row._replace(complete=row.reference in complete)
        for row in nodes
        if row.complete != (row.reference in complete)
    ]
    put_rows(connection, changed)


def mark(
    connection: sa.Connection, objects: DirectoryObjects, rows: Iterable[Row], state: State
) -> None:
    """Give *rows* a state that is not good, and clear completeness above them."""
    changed = [row._replace(state=state) for row in rows if row.state < state]
    put_rows(connection, changed)
    for domain in sorted({row.domain for row in changed}):
        recheck(connection, objects, domain)


class FrameStore:
    def __init__(self, catalog: Catalog, objects: DirectoryObjects) -> None:
        self._catalog, self._objects = catalog, objects
        self._open: dict[tuple[bytes, PackClass], OpenPack] = {}

    def have(self, domain: bytes, tag: int, generation: int, ids: Sequence[bytes]) -> list[bool]:
        references = [Reference(tag, bytes(id)) for id in ids]
        with self._catalog.begin() as connection:
            found = find_rows(connection, domain, references)

        def known(reference: Reference) -> bool:
            rows = found[reference]
            return any(row.good and row.complete and row.generation == generation for row in rows)

        return [known(reference) for reference in references]

    def store(
        self, session: int, domain: bytes, arrived: Sequence[Arrived], epochs: Epochs
    ) -> list[Outcome]:
        taken = [one for one in arrived if one.acceptable(epochs)]
        references = [one.header.reference for one in taken]
        with self._catalog.begin() as connection:
            found = find_rows(connection, domain, references)
        there = {reference for reference, rows in found.items() if any(r.good for r in rows)}
        fresh: dict[Reference, Arrived] = {}
        outcomes: list[Outcome] = []
        for one in arrived:
            reference = one.header.reference
            if not one.acceptable(epochs):
                outcomes.append(Outcome.REJECTED)
            elif reference in there or reference in fresh:
                outcomes.append(Outcome.EXISTED)
            else:
                fresh[reference] = one
                outcomes.append(Outcome.STORED)
        self._write(session, domain, list(fresh.values()), taken)
        return outcomes

    def _write(
        self, session: int, domain: bytes, fresh: list[Arrived], taken: list[Arrived]
    ) -> None:
        touched: dict[PackClass, OpenPack] = {}
        try:
            rows = [self._append(session, domain, one, touched) for one in fresh]
            for open_pack in touched.values():
                open_pack.sync()
                open_pack.confirm()
            with self._catalog.begin() as connection:
                put_rows(connection, rows)
                self._note_packs(connection, touched.values(), closed=False)
                self._complete(connection, domain, taken)
        except BaseException as error:
            # After a failed fsync nobody knows what the disk holds: these packs take no more.
            self._abandon(touched.values())
            if isinstance(error, OSError):
                raise not_stored(error, "a pack") from error
            if isinstance(error, sa.exc.SQLAlchemyError):
                raise NotStored("the vault's catalog took no rows") from error
            raise
        for open_pack in touched.values():
            if open_pack.full:
                self._close_pack(open_pack)

    def _append(
        self, session: int, domain: bytes, one: Arrived, touched: dict[PackClass, OpenPack]
    ) -> Row:
        header = one.header
        place = (domain, class_of(header.tag))
        if place not in self._open:
            self._open[place] = OpenPack(self._objects, *place)
        open_pack = touched[place[1]] = self._open[place]
        offset = open_pack.append(header, one.raw)
        return Row(
            domain, header.tag, header.id, open_pack.header.pack_id, offset, len(one.raw),
            State.GOOD, header.kind == Kind.DATA, session, None, header.epoch, header.generation,
        )  # fmt: skip

    def _complete(self, connection: sa.Connection, domain: bytes, taken: list[Arrived]) -> None:
        """Nodes whose children are all complete by now, those of the same call included."""
        nodes = [one for one in taken if one.header.kind != Kind.DATA]
        children = {child for one in nodes for child in one.references}
        standings = Shelf(connection, self._objects, domain).standings(list(children))
        complete = {child for child, it in standings.items() if it == Standing.COMPLETE}
        newly: set[Reference] = set()
        for one in nodes:
            if complete.issuperset(one.references):
                complete.add(one.header.reference)
                newly.add(one.header.reference)
        set_complete(connection, domain, newly)

    def _note_packs(
        self, connection: sa.Connection, open_packs: Iterable[OpenPack], closed: bool
    ) -> None:
        for open_pack in open_packs:
            note_pack(connection, open_pack.header, open_pack.length, closed)

    def _abandon(self, open_packs: Iterable[OpenPack]) -> None:
        for open_pack in open_packs:
            try:
                self._close_pack(open_pack)
            except (OSError, sa.exc.SQLAlchemyError):
                continue  # still without a trailer: the next opening cuts and closes it

    def _close_pack(self, open_pack: OpenPack) -> None:
        header = open_pack.header
        del self._open[header.domain, header.pack_class]
        try:
            length = open_pack.close()
        except OSError:
            return
        with self._catalog.begin() as connection:
            note_pack(connection, header, length, closed=True)

    def fetch(self, domain: bytes, references: Sequence[Reference]) -> list[bytes | None]:
        damaged: list[Row] = []
        with self._catalog.begin() as connection:
            found = find_rows(connection, domain, references)
            raws = [self._best(found[reference], damaged) for reference in references]
            mark(connection, self._objects, damaged, State.DAMAGED)
        return raws

    def _best(self, rows: list[Row], damaged: list[Row]) -> bytes | None:
        for row in rows:
            raw = read_row(self._objects, row)
            if raw is not None:
                return raw
            damaged.append(row)
        return None

    def report_damaged(self, domain: bytes, references: Sequence[Reference]) -> None:
        with self._catalog.begin() as connection:
            found = find_rows(connection, domain, references)
            rows = [row for copies in found.values() for row in copies]
            mark(connection, self._objects, rows, State.SUSPECT)

    def close(self) -> None:
        self._abandon(list(self._open.values()))


def note_pack(connection: sa.Connection, header: PackHeader, length: int, closed: bool) -> None:
    row = {
        "pack": header.pack_id, "domain": header.domain, "class": int(header.pack_class),
        "length": length, "closed": closed,
    }  # fmt: skip
    cat.upsert(connection, cat.packs, [row])


def row_of(header: PackHeader, entry: pack.IndexEntry, session: int = 0) -> Row:
    """The row of a frame that was found in a pack, and not in the catalog."""
    return Row(
        header.domain, entry.tag, entry.id, header.pack_id, entry.offset, entry.frame_length,
        State.GOOD, entry.tag < METADATA_FROM, session, None, entry.epoch, entry.generation,
    )  # fmt: skip
