"""What grows: files of a tree, the size of a disk, points of an item."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import transfer
from perf.tools import Transfer

KIB, MIB, GIB = 2**10, 2**20, 2**30
SMALL = 200  # bytes of most files: they stand in their directory's page
LARGE, EVERY = 4000, 10  # one file in ten is of so many bytes, and has a frame
REAL = 64 * MIB  # of an image's bytes
CHANGED = 4 * KIB  # of a point's item


class Series(ABC):
    """*unit* is of its sizes; *steps* are measured at each of them, on a store of their own."""

    name: str
    unit: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    steps: tuple[str, ...] = ("backup", "unchanged", "restore")

    def __init__(self, top: Path) -> None:
        self.top = top
        self.source = top / "source"

    @abstractmethod
    def grow(self, size: int) -> Path:
        """The source of this size, which is above those before it; not measured."""

    def prepare(self, tool: Transfer, size: int) -> None:  # noqa: B027 - only points have others
        """Whatever else stands in the store before the first step; not measured."""

    def commands(self, tool: Transfer, target: Path) -> Iterator[tuple[str, list[str]]]:
        """Each is run before the next one is made."""
        yield "backup", tool.backup(self.source)
        yield "unchanged", tool.backup(self.source)
        yield "restore", tool.restore(self.source, target)


class Files(Series):
    """A hundred files to a directory, a hundred of these to one above it."""

    name, unit = "files", "files"
    sizes = (10**3, 10**4, 10**5, 10**6)
    quick = (20, 200)

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self._made = 0

    def grow(self, size: int) -> Path:
        chosen = random.Random(self._made)
        for number in range(self._made, size):
            place = self.source / f"{number // 10_000:03}" / f"{number // 100 % 100:02}"
            if number % 100 == 0 or number == self._made:
                place.mkdir(parents=True, exist_ok=True)
            length = SMALL if number % EVERY else LARGE
            (place / f"file-{number:07}").write_bytes(chosen.randbytes(length))
        self._made = size
        return self.source


class Images(Series):
    """A sparse image whose real bytes are as many, whatever its size, and all over it."""

    name, unit = "images", "GiB"
    sizes = (1, 4, 16, 64, 256, 1024)
    quick = (1, 2)

    def grow(self, size: int) -> Path:
        self.source.unlink(missing_ok=True)
        chosen, step = random.Random(size), size * GIB // (REAL // MIB)
        with self.source.open("wb") as file:
            file.truncate(size * GIB)
            for at in range(0, size * GIB, step):
                file.seek(at)
                file.write(chosen.randbytes(MIB))
        return self.source


class Points(Series):
    """An item of a few small files, of which one changes from each point to the next."""

    name, unit = "points", "points"
    sizes = (1, 10, 100, 1000)
    quick = (1, 4)
    steps = ("one more", "points", "restore")

    def grow(self, size: int) -> Path:
        self.source.mkdir(exist_ok=True)
        self.change(0)
        return self.source

    def change(self, number: int) -> None:
        raw = random.Random(number).randbytes(CHANGED)
        (self.source / f"file-{number % 10}").write_bytes(raw)

    def prepare(self, tool: Transfer, size: int) -> None:
        asyncio.run(self._fill(tool, size))

    async def _fill(self, tool: Transfer, size: int) -> None:
        async with transfer.connect(
            vault=tool.store, state=tool.top / "state", passphrase_file=tool.secret, create=True
        ) as client:
            for number in range(size):
                self.change(number)
                async with client.backup("item", [self.source], workers=0) as run:
                    await run.result()

    def commands(self, tool: Transfer, target: Path) -> Iterator[tuple[str, list[str]]]:
        self.change(-1)
        yield "one more", tool.backup(self.source)
        yield "points", tool.points()
        yield "restore", tool.restore(self.source, target)


SERIES: dict[str, type[Series]] = {each.name: each for each in (Files, Images, Points)}
