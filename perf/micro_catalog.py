"""The catalog on this disk: rows in, by the size of a transaction, and look-ups."""

import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from perf.micro_loop import Loop
from transfer.formats.reference import Reference
from transfer.pipeline.tasks import DATA
from transfer.vault.catalog import Catalog, find_frames, put_frames
from transfer.vault.schema import FrameRow, State

DOMAIN = b"d" * 16
BATCHES = (1, 16, 64, 512, 4096)
LOOKED_UP = 1000  # in one call


def loops(top: Path, quick: bool) -> Iterator[Loop]:
    table = Table(Catalog(top / "catalog", create=True))
    for batch in BATCHES:
        rows = min(batch * 4, 256) if quick else min(max(batch * 8, 2048), 200 * batch, 16_384)
        yield Loop(f"rows in, {batch} a transaction", "rows", table.inserting(batch, rows))
    if not quick:
        table.fill(200_000)
    calls = 1 if quick else 5
    yield Loop(f"look-ups, {LOOKED_UP} a call, all there", "IDs", table.finding(True, calls))
    yield Loop(f"look-ups, {LOOKED_UP} a call, none there", "IDs", table.finding(False, calls))
    table.catalog.close()


class Table:
    """Rows of random IDs, as a first backup brings them."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._numbers = count()
        self._chosen = random.Random(3)
        self._there: list[bytes] = []

    def inserting(self, batch: int, rows: int) -> Callable[[], int]:
        def work() -> int:
            for _ in range(0, rows, batch):
                self.insert(batch)
            return -(-rows // batch) * batch

        return work

    def insert(self, many: int) -> None:
        rows = [self._row() for _ in range(many)]
        with self.catalog.begin() as connection:
            put_frames(connection, rows)

    def fill(self, rows: int) -> None:
        while len(self._there) < rows:
            self.insert(8192)

    def finding(self, there: bool, calls: int) -> Callable[[], int]:
        def work() -> int:
            return sum(self.look_up(there)[0] for _ in range(calls))

        return work

    def look_up(self, there: bool) -> tuple[int, int]:
        """How many are asked for in one call, and how many of them found: all, or none."""
        ids = self._chosen.sample(self._there, min(LOOKED_UP, len(self._there)))
        if not there:
            ids = [bytes(reversed(each)) for each in ids]
        with self.catalog.begin() as connection:
            found = find_frames(connection, DOMAIN, [Reference(DATA, each) for each in ids])
        return len(ids), sum(map(bool, found.values()))

    def _row(self) -> FrameRow:
        number, id = next(self._numbers), self._chosen.randbytes(32)
        self._there.append(id)
        pack = (number // 64).to_bytes(16, "big")
        return FrameRow(
            DOMAIN, DATA, id, pack, 44 + number % 64 * 2**20, 2**20, State.GOOD, True, 1, None,
            b"epoch-01", 1,
        )  # fmt: skip
