"""Frames of a stored vault: durable first, then in the catalog, then answered.

Synchronous; the vault's one writer thread runs it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import NamedTuple

import sqlalchemy as sa

from transfer.errors import TransientError
from transfer.files.direct import aligned_room
from transfer.formats.pack import PackClass, PackHeader, class_of
from transfer.formats.reference import Kind, Reference
from transfer.vault import schema
from transfer.vault.base import Outcome
from transfer.vault.catalog import Catalog, find_frames, put, put_frames
from transfer.vault.checks import Arrived, Epochs
from transfer.vault.closure import Standing
from transfer.vault.copies import Shelf, read_copy, row_of, set_complete
from transfer.vault.damage import mark, may_be_trusted, note_broken, settled, trusting
from transfer.vault.durable import not_stored
from transfer.vault.objects import DirectoryObjects
from transfer.vault.open_pack import OpenPack
from transfer.vault.read_ahead import Place, read_ahead
from transfer.vault.schema import METADATA_FROM, FrameRow, PackRow, State
from transfer.vault.steps import Steps

_Place = tuple[Reference, bytes, int]
_ROOM = 4 * 2**20
_MAX_PASSED = 20_000  # some 6 MiB; forgetting them costs a client another try


class Request(NamedTuple):
    """Frames that one session brings."""

    session: int
    arrived: Sequence[Arrived]


class FrameStore:
    def __init__(self, catalog: Catalog, objects: DirectoryObjects) -> None:
        self._catalog, self._objects = catalog, objects
        self._open: dict[tuple[bytes, PackClass], OpenPack] = {}
        # Of one pack at a time: each is synced, or read, before the next.
        self._room = aligned_room(_ROOM)
        self._doubting: set[int] = set()  # sessions that met damage
        self._passed: dict[int, dict[_Place, int]] = {}  # copies that a session could not open
        self._order = count(1)

    def have(
        self, domain: bytes, tag: int, generation: int, ids: Sequence[bytes]
    ) -> Steps[list[bool]]:
        references = [Reference(tag, bytes(id)) for id in ids]
        nodes = tag >= METADATA_FROM
        if nodes:
            yield from settled(self._catalog, self._objects, domain)
        begun = trusting(self._catalog, self._objects, domain) if nodes else self._catalog.begin()
        with begun as connection:
            found = find_frames(connection, domain, references)

        def known(reference: Reference) -> bool:
            rows = found[reference]
            return any(row.good and row.complete and row.generation == generation for row in rows)

        return [known(reference) for reference in references]

    def store(
        self, domain: bytes, requests: Sequence[Request], epochs: Epochs
    ) -> list[list[Outcome]]:
        """Store what several requests bring: durable together, or none of it."""
        fresh: dict[Reference, tuple[int, Arrived]] = {}
        there = self._there(domain, requests, epochs)

        def outcome(session: int, one: Arrived) -> Outcome:
            reference = one.header.reference
            if not one.acceptable(epochs):
                return Outcome.REJECTED
            if reference in there or reference in fresh:
                return Outcome.EXISTED
            fresh[reference] = session, one
            return Outcome.STORED

        outcomes = [[outcome(session, one) for one in arrived] for session, arrived in requests]
        taken = [one for _, arrived in requests for one in arrived if one.acceptable(epochs)]
        self._write(domain, list(fresh.values()), taken)
        return outcomes

    def _there(self, domain: bytes, requests: Sequence[Request], epochs: Epochs) -> set[Reference]:
        """Those that need not be written; looked at where a session met damage."""
        asked, doubted = set[Reference](), set[Reference]()
        for session, arrived in requests:
            references = {one.header.reference for one in arrived if one.acceptable(epochs)}
            asked |= references
            if session in self._doubting:
                doubted |= references
        with self._catalog.begin() as connection:
            found = find_frames(connection, domain, asked)
        there = {reference for reference, rows in found.items() if any(r.good for r in rows)}
        doubted &= there
        return (there - doubted) | self._intact(domain, {one: found[one] for one in doubted})

    def _write(self, domain: bytes, fresh: list[tuple[int, Arrived]], taken: list[Arrived]) -> None:
        touched: dict[PackClass, OpenPack] = {}
        try:
            rows = [self._append(session, domain, one, touched) for session, one in fresh]
            for open_pack in touched.values():
                open_pack.sync()
                open_pack.confirm()
            with self._catalog.begin() as connection:
                put_frames(connection, rows)
                for open_pack in touched.values():
                    note_pack(connection, open_pack.header, open_pack.length, closed=False)
                # Else it is left to the commit: to find out takes long, and others wait.
                if may_be_trusted(connection, domain):
                    self._complete(connection, domain, taken)
        except BaseException as error:
            # After a failed fsync nobody knows what the disk holds: these packs take no more.
            self._finish(touched.values(), enter=False)
            if isinstance(error, OSError):
                raise not_stored(error, "a pack") from error
            raise
        self._finish(open_pack for open_pack in touched.values() if open_pack.full)

    def _append(
        self, session: int, domain: bytes, one: Arrived, touched: dict[PackClass, OpenPack]
    ) -> FrameRow:
        place = (domain, class_of(one.header.tag))
        if place not in self._open:
            self._open[place] = OpenPack(self._objects, *place, self._room)
        open_pack = touched[place[1]] = self._open[place]
        return row_of(open_pack.header, open_pack.append(one.header, one.raw), session)

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

    def _finish(self, open_packs: Iterable[OpenPack], enter: bool = True) -> None:
        """Close packs. What fails costs nothing: the next opening looks at what is not closed.

        So it shall, when frames may lack their rows; then no row says that the pack is closed.
        """
        for open_pack in list(open_packs):
            header = open_pack.header
            del self._open[header.domain, header.pack_class]
            with suppress(OSError, TransientError):
                if open_pack.empty:
                    open_pack.discard()
                    continue
                length = open_pack.close()
                if enter:
                    with self._catalog.begin() as connection:
                        note_pack(connection, header, length, closed=True)

    def _intact(self, domain: bytes, found: dict[Reference, list[FrameRow]]) -> set[Reference]:
        """Those of which a copy can be read.

        Damage seldom comes alone. A run that met some sends much again, and heals what else is bad.
        """
        damaged: list[FrameRow] = []
        raws = {one: self._best(rows, damaged, {}) for one, rows in found.items()}
        self._mark(domain, damaged, State.DAMAGED)
        return {one for one, raw in raws.items() if raw is not None}

    def doubt(self, session: int) -> None:
        """From now on this session's frames are called existing only after a look at the copy."""
        self._doubting.add(session)

    def fetch(
        self, session: int, domain: bytes, references: Sequence[Reference],
        limit: int | None = None,
    ) -> list[bytes | None]:  # fmt: skip
        """Whole frames, or None; with *limit*, the first: so many bytes, and at least one."""
        damaged: list[FrameRow] = []
        with self._catalog.begin() as connection:
            found = find_frames(connection, domain, references)
        if limit is not None:
            references = list(_fitting(references, found, limit))
        ranked = [self._ranked(session, found[reference]) for reference in references]
        ahead = read_ahead(self._objects, (rows[0] for rows in ranked if rows), self._room)
        raws = [self._best(rows, damaged, ahead) for rows in ranked]
        # Who asks for a frame was led to it by a node, and that is complete no longer.
        missing = {one for one, raw in zip(references, raws, strict=True) if raw is None}
        if damaged or missing:
            self.doubt(session)
            # On a full disk a mark cannot be made, and the frames can still be read.
            with suppress(TransientError):
                self._mark(domain, damaged, State.DAMAGED, missing)
        return raws

    def _mark(
        self, domain: bytes, rows: list[FrameRow], state: State,
        missing: Iterable[Reference] = (),
    ) -> None:  # fmt: skip
        with self._catalog.begin() as connection:
            mark(connection, self._objects, domain, rows, state)
            note_broken(connection, domain, missing)

    def _best(
        self, rows: list[FrameRow], damaged: list[FrameRow], ahead: dict[Place, bytes]
    ) -> bytes | None:
        for row in rows:
            raw = read_copy(self._objects, row, ahead.get((row.pack, row.offset)))
            if raw is not None:
                return raw
            damaged.append(row)
        return None

    def _ranked(self, session: int, rows: list[FrameRow]) -> list[FrameRow]:
        """Copies of a frame, best first; those that the session could not open come last."""
        passed = self._passed.get(session, {})
        return sorted(rows, key=lambda row: passed.get(row.place, 0))

    def pass_over(
        self, session: int, domain: bytes, references: Sequence[Reference]
    ) -> list[FrameRow]:
        """The copies that the session was given; after this it is given others, if there are."""
        with self._catalog.begin() as connection:
            found = find_frames(connection, domain, references)
        ranked = (self._ranked(session, rows) for rows in found.values())
        given = [row for rows in ranked if rows for row in self._alike(rows)]
        if sum(map(len, self._passed.values())) + len(given) > _MAX_PASSED:
            self._passed.clear()
        latest = next(self._order)
        self._passed.setdefault(session, {}).update((row.place, latest) for row in given)
        return given

    def _alike(self, rows: list[FrameRow]) -> list[FrameRow]:
        """The first copy, and those that are the same: they open no better."""
        first, *others = rows
        if not others:
            return rows
        raw = read_copy(self._objects, first)
        return [first] + [row for row in others if raw == read_copy(self._objects, row)]

    def report_damaged(self, session: int, domain: bytes, references: Sequence[Reference]) -> None:
        self.doubt(session)
        self._mark(domain, self.pass_over(session, domain, references), State.SUSPECT)

    def close(self) -> None:
        self._finish(self._open.values())


def _fitting(
    references: Sequence[Reference], found: dict[Reference, list[FrameRow]], limit: int
) -> Iterator[Reference]:
    size = 0
    for number, reference in enumerate(references):
        size += max((row.length for row in found[reference]), default=0)
        if number and size > limit:
            return
        yield reference


def note_pack(connection: sa.Connection, header: PackHeader, length: int, closed: bool) -> None:
    row = PackRow(header.pack_id, header.domain, header.pack_class, length, closed)
    put(connection, schema.packs, [row])
