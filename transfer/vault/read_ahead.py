"""Reading what a fetch asks for in few trips to the disk.

Frames that lie one behind the other in a pack are read together, as a restore asks for them; around
the page cache, which serves only nodes and small runs better.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from typing import NamedTuple

from transfer.files.direct import SECTOR, opened_to_read
from transfer.formats.pack import PackHeader, class_of
from transfer.vault.objects import DirectoryObjects
from transfer.vault.schema import METADATA_FROM, FrameRow

_LEAST = 2**17  # bytes of a run
_GAP = 2**16  # bytes that are read in vain rather than to go to the disk twice
Place = tuple[bytes, int]
"""A pack, and an offset in it."""


class _Run(NamedTuple):
    rows: list[FrameRow]

    @property
    def start(self) -> int:
        return self.rows[0].offset // SECTOR * SECTOR

    @property
    def end(self) -> int:
        return self.rows[-1].offset + self.rows[-1].length

    @property
    def is_large(self) -> bool:
        """Whether the page cache costs more than it serves."""
        return self.rows[0].tag < METADATA_FROM and self.end - self.start >= _LEAST


def read_ahead(
    objects: DirectoryObjects, rows: Iterable[FrameRow], room: memoryview
) -> dict[Place, bytes]:
    """What stands at the places of *rows*; nothing of it is checked.

    *room* is aligned memory, whatever it holds. What cannot be read is left out.
    """
    found: dict[Place, bytes] = {}
    in_order = sorted(rows, key=lambda row: (row.pack, row.offset))
    for pack, in_pack in groupby(in_order, key=lambda row: row.pack):
        runs = list(_runs(in_pack, len(room)))
        first = runs[0].rows[0]
        path = objects.pack_path(PackHeader(first.domain, class_of(first.tag), pack))
        for is_large in (True, False):
            if some := [run for run in runs if run.is_large is is_large]:
                with suppress(OSError), opened_to_read(path, is_large) as descriptor:
                    for run in some:
                        found.update(_read(descriptor, run, room))
    return found


def _runs(rows: Iterable[FrameRow], most: int) -> Iterator[_Run]:
    """Of ascending *rows*: what lies close together, at most *most* bytes of it."""
    run = _Run([])
    for row in rows:
        fits = run.rows and row.offset + row.length <= run.start + most
        if not (fits and row.offset <= run.end + _GAP):
            if run.rows:
                yield run
            run = _Run([])
        run.rows.append(row)
    if run.rows:
        yield run


def _read(descriptor: int, run: _Run, room: memoryview) -> Iterator[tuple[Place, bytes]]:
    wanted = min(-(-(run.end - run.start) // SECTOR) * SECTOR, len(room))
    got = os.preadv(descriptor, [room[:wanted]], run.start)
    for row in run.rows:
        at = row.offset - run.start
        if at + row.length <= got:
            yield (row.pack, row.offset), bytes(room[at : at + row.length])
