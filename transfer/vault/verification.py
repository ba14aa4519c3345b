"""Verifying a stored vault: frames and nodes against their packs and the catalog, both ways.

Works beside a running vault: what is younger than the list that this began with is left to the
next time. What is found damaged is marked, and so the next backup sends it again.
"""

from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa

from transfer.errors import NewerFormat
from transfer.formats.pack import PackHeader
from transfer.formats.reference import Reference
from transfer.vault import schema
from transfer.vault.catalog import Catalog, find_frames, frame_domains, put_frames
from transfer.vault.closure import Standing
from transfer.vault.copies import Shelf, children_of
from transfer.vault.damage import clear_above, disbelieve, mark, node_pages, trusting
from transfer.vault.findings import Findings, VerifyReport, is_young
from transfer.vault.objects import DirectoryObjects, PackPlace
from transfer.vault.pack_file import Contents, examine
from transfer.vault.record_verification import verify_records
from transfer.vault.recovery import enter_frames, lose, pack_ranges, pack_rows, rows_in
from transfer.vault.schema import FrameRow, PackRow, State
from transfer.vault.scrub import Budget, Round

_SWAPPED, _DAMAGED = "not the pack that its name says", "the frame is not intact"
_BATCH = 50  # nodes whose children are looked up in one transaction


class _Scope(NamedTuple):
    catalog: Catalog
    objects: DirectoryObjects
    findings: Findings
    round: Round


def verify(catalog: Catalog, objects: DirectoryObjects, budget: Budget) -> VerifyReport:
    """Read everything, or what the *budget* is enough for: the next run goes on from there.

    Memory: the entries of one pack, and some 150 bytes for each pack. Nodes and records are looked
    at when a round ends, and when something was found.
    """
    round = Round(objects.root, budget)
    scope = _Scope(catalog, objects, Findings(), round)
    whole = _packs(scope)
    if whole:
        for path in objects.strays():
            scope.findings.note(str(path.relative_to(objects.root)), "no pack can have this name")
    if whole or scope.findings.total:
        for domain in frame_domains(catalog):
            _nodes(scope, domain)
        verify_records(catalog, objects, scope.findings)
    if whole:
        round.end()
    else:
        round.stop()
    return scope.findings.report(1.0 if whole else round.part)


def _packs(scope: _Scope) -> bool:
    """Whether all were seen that this round had left."""
    round, column = scope.round, schema.frames.c.pack
    with scope.catalog.begin() as connection:
        # One that has no row was never seen, wherever the round is.
        unknown = column.not_in(sa.select(schema.packs.c.pack))
        ahead = (column > round.after) | unknown
        tally = sa.select(column, sa.func.count()).where(ahead).group_by(column)
        counts = {row[0]: row[1] for row in connection.execute(tally)}
    for prefixes in pack_ranges(scope.catalog):
        with scope.catalog.begin() as connection:
            known = pack_rows(connection, prefixes)
        for row in sorted(known, key=lambda row: row.pack):
            if round.is_seen(row.pack):
                continue
            if round.has_seen_some and round.budget.is_used_up:
                return False
            _pack(scope, row, counts.pop(row.pack, 0))
            round.saw(row.pack)
        for place in _unknown(scope, prefixes, {row.header for row in known}):
            counts.pop(place.header.pack_id, None)
    for pack_id in counts:
        scope.findings.note(pack_id.hex(), "the pack is missing, and the catalog has frames in it")
    lose(scope.catalog, scope.objects, dict.fromkeys(counts, 0))
    return True


def _unknown(scope: _Scope, prefixes: range, known: set[PackHeader]) -> Iterator[PackPlace]:
    """Packs that have no row, and whose frames may have some."""
    for place in scope.objects.packs(prefixes):
        if place.header in known:
            continue
        name, young = place.header.pack_id.hex(), is_young(place.path)
        if not young and examine(place.path, place.header, end=0) is None:
            scope.findings.note(name, _SWAPPED)
            continue
        yield place
        if not young:
            reason = "the catalog does not know this pack; the next opening enters it"
            scope.findings.note(name, reason)


def _pack(scope: _Scope, row: PackRow, count: int) -> None:
    """Compare a pack with the *count* rows that the catalog has for it."""
    header, contents = row.header, _read(scope, row)
    whole = set() if contents is None else _enter(scope, header, contents)
    with scope.catalog.begin() as connection:
        found = find_frames(connection, header.domain, {reference for reference, _, _ in whole})
        rows = [copy for copies in found.values() for copy in copies if copy.pack == row.pack]
        if len(rows) < count:  # the pack lacks what some rows promise
            rows = rows_in(connection, header)
        # What a running vault has appended since is not in question.
        rows = [one for one in rows if row.closed or one.end <= row.length]
        _compare(scope, connection, rows, whole)


def _read(scope: _Scope, row: PackRow) -> Contents | None:
    path, name = scope.objects.pack_path(row.header), row.pack.hex()
    try:
        end = None if row.closed else row.length
        contents = examine(path, row.header, end, scope.round.budget.read)
    except NewerFormat as error:
        scope.findings.note(name, error)
        return None
    if contents is None:
        scope.findings.note(name, _SWAPPED if path.exists() else "the pack is missing")
        return None
    for fault in contents.faults:
        scope.findings.note(name, fault)
    scope.findings.frames += len(contents.entries)
    scope.findings.bytes += sum(entry.frame_length for entry in contents.entries)
    return contents


def _enter(
    scope: _Scope, header: PackHeader, contents: Contents
) -> set[tuple[Reference, bytes, int]]:
    """Enter what has no row; the places of the whole frames."""
    new = enter_frames(scope.catalog, header, contents.entries)
    for row in new:
        reason = "the catalog had no row; entered"
        scope.findings.note(row.pack.hex(), reason, row.reference, row.offset)
    for row in enter_frames(scope.catalog, header, contents.lost, State.DAMAGED):
        scope.findings.note(row.pack.hex(), _DAMAGED, row.reference, row.offset)
    return {(entry.reference, header.pack_id, entry.offset) for entry in contents.entries}


def _compare(
    scope: _Scope, connection: sa.Connection, rows: list[FrameRow],
    whole: set[tuple[Reference, bytes, int]],
) -> None:  # fmt: skip
    lost = [row for row in rows if row.place not in whole]
    for row in lost:
        scope.findings.note(row.pack.hex(), _DAMAGED, row.reference, row.offset)
    for domain in {row.domain for row in lost}:
        mark(connection, scope.objects, domain, lost, State.DAMAGED)
    # The pack is back, or the disk read it wrongly once.
    healed = [row for row in rows if row.place in whole and row.state == State.DAMAGED]
    put_frames(connection, [row._replace(state=State.GOOD) for row in healed])


def _nodes(scope: _Scope, domain: bytes) -> None:
    """A complete node's children are good and complete: where this holds of all, closures hold."""
    for page in node_pages(scope.catalog, domain):
        complete = [row for row in page if row.complete]
        for at in range(0, len(complete), _BATCH):
            _audit(scope, domain, complete[at : at + _BATCH])
    clear_above(scope.catalog, scope.objects, domain)


def _audit(scope: _Scope, domain: bytes, rows: list[FrameRow]) -> None:
    children = {row.reference: children_of(scope.objects, row) or () for row in rows}
    with trusting(scope.catalog, scope.objects, domain) as connection:
        shelf = Shelf(connection, scope.objects, domain)
        below = shelf.standings(list({child for them in children.values() for child in them}))
        still = shelf.standings(list(children))
        wrong = [
            node
            for node, them in children.items()
            if still[node] == Standing.COMPLETE
            and any(below[child] != Standing.COMPLETE for child in them)
        ]
        disbelieve(connection, domain, wrong)
    for node in wrong:
        scope.findings.note("catalog", "called complete, and lacks a child; cleared", node)
