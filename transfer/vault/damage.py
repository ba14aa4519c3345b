"""Bad copies: marking them, and taking completeness back from the nodes above.

Nothing says which nodes name a frame: a table of that would have a row for every place of every
block in every tree, more than all other metadata together. So a frame that lost its last good copy
is noted as *broken*, in the transaction that marks the copy. The nodes above are found by one read
of the domain's child lists (0.03 % of its bytes, some 4,000 nodes for a TiB of image) for all that
is broken by then, and it is made before the next answer that rests on completeness: a restore that
meets a thousand bad frames costs one such read, when the next backup begins. No transaction is held
while it reads, and cutting it short costs nothing.
"""

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from transfer.errors import DamagedData
from transfer.formats import record
from transfer.formats.record import BadCopy, CopyState
from transfer.formats.reference import REFERENCE_SIZE, Kind, Reference, tag_of
from transfer.vault import schema
from transfer.vault.catalog import Catalog, find_frames, page_of_frames, put, put_frames
from transfer.vault.closure import Standing
from transfer.vault.copies import Shelf, child_list
from transfer.vault.objects import DirectoryObjects
from transfer.vault.schema import METADATA_FROM, BrokenRow, FrameRow, State, checked
from transfer.vault.steps import Steps, at_once

_DIRECTORIES_FROM = tag_of(Kind.PAGE)
_LAST = 255
Nodes = list[tuple[Reference, bytes | None]]  # each with its child list


def mark(
    connection: sa.Connection, objects: DirectoryObjects, domain: bytes,
    rows: Iterable[FrameRow], state: State,
) -> None:  # fmt: skip
    """Give these copies a state that is not good; a record says so first."""
    places = {row.place for row in rows}
    # Read again: another process may have changed them since *rows* were read.
    found = find_frames(connection, domain, {reference for reference, _, _ in places})
    changed = [
        copy._replace(state=state)
        for copies in found.values()
        for copy in copies
        if copy.place in places and copy.state < state
    ]
    _put_records(objects, domain, changed)
    put_frames(connection, changed)
    note_broken(connection, domain, {copy.reference for copy in changed})


def note_broken(connection: sa.Connection, domain: bytes, references: Iterable[Reference]) -> None:
    """From the next `trusting` transaction on, no node above *references* is complete."""
    put(connection, schema.broken, [BrokenRow(domain, *one) for one in references])


def disbelieve(connection: sa.Connection, domain: bytes, nodes: Iterable[Reference]) -> None:
    """These nodes were wrongly called complete, and so was what is above them."""
    found = find_frames(connection, domain, nodes)
    rows = [row for copies in found.values() for row in copies]
    put_frames(connection, [row._replace(complete=False) for row in rows])
    note_broken(connection, domain, found)


def _put_records(objects: DirectoryObjects, domain: bytes, rows: list[FrameRow]) -> None:
    """A rebuild reads them: no checksum finds what a client found."""
    for at in range(0, len(rows), record.MAX_COPIES):
        batch = rows[at : at + record.MAX_COPIES]
        copies = [
            BadCopy(row.tag, row.id, row.pack, row.offset, CopyState(row.state)) for row in batch
        ]
        raw = record.encode_damage(record.damage_of(domain, copies))
        objects.put_record(f"damage/{domain.hex()}/{os.urandom(16).hex()}", raw)


@contextmanager
def trusting(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> Iterator[sa.Connection]:
    """A transaction in which the `complete` of the domain's nodes can be believed."""
    while True:
        with catalog.begin() as connection:
            if may_be_trusted(connection, domain):
                yield connection
                return
        clear_above(catalog, objects, domain)


def settled(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> Steps[None]:
    """What `trusting` would have to do first, in steps; it may have to again, right after."""
    while True:
        with catalog.begin() as connection:
            if may_be_trusted(connection, domain):
                return
        yield from _clearing(catalog, objects, domain)


def may_be_trusted(connection: sa.Connection, domain: bytes) -> bool:
    return not _broken(connection, domain, limit=1)


def _broken(connection: sa.Connection, domain: bytes, limit: int | None = None) -> list[BrokenRow]:
    query = sa.select(schema.broken).where(schema.broken.c.domain == domain).limit(limit)
    raw = connection.execute(query).all()
    rows = list(checked(BrokenRow, raw))
    if len(rows) < len(raw):
        raise DamagedData("the catalog's list of broken frames is damaged", "rebuild the catalog")
    return rows


def clear_above(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> None:
    """Clear `complete` on every node that reaches a broken frame."""
    at_once(_clearing(catalog, objects, domain))


def _clearing(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> Steps[None]:
    """Cut short it begins anew: the broken rows go last, and until then no node is completed."""
    with catalog.begin() as connection:
        rows = _broken(connection, domain)
        found = Shelf(connection, objects, domain).standings([Reference(r.tag, r.id) for r in rows])
        # There is another copy, or a new one: what is above was complete, and is.
        lost = [one for one, standing in found.items() if standing != Standing.COMPLETE]
    if lost:
        hit = yield from _above(_complete_nodes(catalog, objects, domain), lost)
        yield from _clear(catalog, domain, hit)
    with catalog.begin() as connection:
        column = schema.broken.c
        for row in rows:
            this = (column.domain == domain, column.tag == row.tag, column.id == row.id)
            connection.execute(sa.delete(schema.broken).where(*this))


def _complete_nodes(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> Iterator[Nodes]:
    """In order of tags: streams from the leaves up, then directories."""
    for page in node_pages(catalog, domain):
        yield [(row.reference, child_list(objects, row)) for row in page if row.complete]


def node_pages(catalog: Catalog, domain: bytes) -> Iterator[list[FrameRow]]:
    """All nodes' rows in order of tags, each page read in a transaction of its own."""
    after: FrameRow | None = None
    while True:
        with catalog.begin() as connection:
            page = page_of_frames(connection, domain, after, METADATA_FROM, _LAST)
        if not page:
            return
        yield page
        after = page[-1]


def _above(pages: Iterable[Nodes], lost: Iterable[Reference]) -> Steps[set[bytes]]:
    """The last 8 bytes of the ID of each node that reaches one of *lost*, or cannot be read.

    Should two IDs end alike, a node too many is cleared, and completed by the next walk. A stream
    node's children have lower tags, so they come before it; what directories name is remembered,
    some 60 bytes for each page.
    """
    hit = {reference.id[-8:] for reference in lost}
    links: list[bytes] = []  # 8 bytes of a child, 8 of the page or index that names it
    for nodes in pages:
        for reference, children in nodes:
            own = reference.id[-8:]
            ends = range(REFERENCE_SIZE, len(children or b"") + 1, REFERENCE_SIZE)
            if children is None or not hit.isdisjoint(children[at - 8 : at] for at in ends):
                hit.add(own)
            elif reference.tag >= _DIRECTORIES_FROM:
                links.extend(
                    children[at - 8 : at] + own
                    for at in ends
                    if children[at - REFERENCE_SIZE] >= _DIRECTORIES_FROM
                )
        yield
    _follow(hit, sorted(links))
    return hit


def _follow(hit: set[bytes], links: list[bytes]) -> None:
    """Add to *hit* all that it reaches over *links*, which are sorted."""
    ahead = list(hit)
    while ahead:
        child = ahead.pop()
        at = bisect_left(links, child)
        while at < len(links) and links[at][:8] == child:
            parent = links[at][8:]
            if parent not in hit:
                hit.add(parent)
                ahead.append(parent)
            at += 1


def _clear(catalog: Catalog, domain: bytes, hit: set[bytes]) -> Steps[None]:
    after: FrameRow | None = None
    while True:
        with catalog.begin() as connection:
            page = page_of_frames(connection, domain, after, METADATA_FROM, _LAST)
            changed = [row for row in page if row.complete and row.id[-8:] in hit]
            put_frames(connection, [row._replace(complete=False) for row in changed])
        if not page:
            return
        after = page[-1]
        yield
