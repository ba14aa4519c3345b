"""Making a stored vault's catalog again from packs and records. It reads all of them, once."""

from typing import NamedTuple

import sqlalchemy as sa

from transfer.errors import FormatError
from transfer.formats.record import CopyState, Damage
from transfer.formats.reference import Reference
from transfer.vault import records, schema
from transfer.vault.adoption import adopt_records
from transfer.vault.catalog import Catalog, find_frames, frame_domains, put_frames, raise_counter
from transfer.vault.copies import resolve
from transfer.vault.damage import node_pages
from transfer.vault.objects import DirectoryObjects
from transfer.vault.recovery import settle_pack
from transfer.vault.schema import Counter, FrameRow, State

_BATCH = 50  # nodes in one walk: their 12,800 blocks are looked up in one transaction


class RebuildReport(NamedTuple):
    frames: int  # good ones
    packs: int
    unreadable: list[str]  # files below packs/ that are no packs
    points: int
    points_left: list[str]  # not adopted, each with the reason
    incarnation: int


def fill(catalog: Catalog, objects: DirectoryObjects, incarnation: int) -> RebuildReport:
    """Fill an empty catalog."""
    with catalog.begin() as connection:
        # Above any number that the lost catalog gave: an old session must not pass for a new one.
        raise_counter(connection, Counter.SESSIONS, incarnation << 32)
    packs, unreadable = 0, [str(path) for path in objects.strays()]
    for place in objects.packs():
        if settle_pack(catalog, objects, place):
            packs += 1
        else:
            unreadable.append(str(place.path))
    for domain in records.domains(objects, "damage"):
        _apply_damage(catalog, objects, domain)
    for domain in frame_domains(catalog):
        _complete_all(catalog, objects, domain)
    left = adopt_records(catalog, objects)
    frames, points = _count(catalog)
    return RebuildReport(frames, packs, unreadable, points, left, incarnation)


def _apply_damage(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> None:
    for name in objects.records(f"damage/{domain.hex()}"):
        try:
            damage = records.load_damage(objects, name, domain)
        except FormatError:
            continue  # `verify_vault` names it
        _apply(catalog, damage)


def _apply(catalog: Catalog, damage: Damage) -> None:
    """A copy that is whole now is as good as its reading, unless a client could not open it.

    One that is not there at all gets a row: its frame was in the vault once.
    """
    with catalog.begin() as connection:
        found = find_frames(connection, damage.domain, {one.reference for one in damage.copies})
        copies = {row.place: row for rows in found.values() for row in rows}
        for one in damage.copies:
            row = copies.get((one.reference, one.pack, one.offset))
            if row is None:
                gone = FrameRow(
                    damage.domain, one.tag, one.id, one.pack, one.offset, 0, State.DAMAGED, False,
                    0, None, bytes(8), 0,
                )  # fmt: skip
                put_frames(connection, [gone])
            elif one.state == CopyState.SUSPECT and row.state == State.GOOD:
                put_frames(connection, [row._replace(state=State.SUSPECT)])


def _complete_all(catalog: Catalog, objects: DirectoryObjects, domain: bytes) -> None:
    """Decide completeness of all nodes, from the leaves up."""
    for page in node_pages(catalog, domain):
        nodes = [Reference(row.tag, row.id) for row in page if row.good]
        for at in range(0, len(nodes), _BATCH):
            with catalog.begin() as connection:
                resolve(connection, objects, domain, nodes[at : at + _BATCH])


def _count(catalog: Catalog) -> tuple[int, int]:
    good = schema.frames.c.state == int(State.GOOD)
    with catalog.begin() as connection:
        frames = connection.scalar(
            sa.select(sa.func.count()).select_from(schema.frames).where(good)
        )
        points = connection.scalar(sa.select(sa.func.count()).select_from(schema.points))
    return frames or 0, points or 0
