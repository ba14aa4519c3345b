"""What is backed up: made in a directory, once, and the same at every call on one machine."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from perf import data, own_files

GIB, MIB = 2**30, 2**20


class Work(NamedTuple):
    """Something to back up; *size* is of the full measurement, *quick* of a try."""

    name: str
    make: Callable[[Path, int], Path]
    size: int
    quick: int
    unit: str
    what: str

    def amount(self, quick: bool) -> int:
        return self.quick if quick else self.size


WORKS = (
    Work("image", own_files.image, 4 * GIB, 24 * MIB, "bytes",
         "an ext4 image, nearly three quarters of it the machine's own files, the rest a hole"),
    Work("incompressible", data.incompressible, 2 * GIB, 8 * MIB, "bytes", "noise"),
    Work("tree", own_files.tree, 100_000, 200, "files",
         "the machine's own files of up to 1 MiB, up to 1.5 GB"),
    Work("image-synthetic", data.image, 4 * GIB, 16 * MIB, "bytes", "half noise, half text"),
    Work("tree-synthetic", data.many_files, 100_000, 200, "files", "made files, mostly small"),
)  # fmt: skip
DEFAULT = ("image", "incompressible", "tree")


def chosen(names: list[str] | None) -> list[Work]:
    return [work for work in WORKS if work.name in (names or DEFAULT)]


def made(work: Work, quick: bool, place: Path) -> Path:
    """The data below *place*: found there, or made; a name is there only once all of it is."""
    amount = work.amount(quick)
    path = place / f"{work.name}-{amount}"
    if not path.exists():
        place.mkdir(parents=True, exist_ok=True)
        half = place / f".{path.name}-{os.getpid()}"
        work.make(half, amount).rename(path)
        os.sync()
    return path


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def files(source: Path) -> Iterator[Path]:
    """*source* itself, or the regular files below it, in order."""
    if source.is_file():
        yield source
        return
    for place, directories, names in os.walk(source):
        directories.sort()
        for name in sorted(names):
            yield Path(place) / name


def warm(source: Path, read: bool = True) -> None:
    """Read all of it, so that it is in the page cache; what was written before is synced."""
    if read:
        for path in files(source):
            with path.open("rb", buffering=0) as file:
                while file.read(MIB):
                    pass
    os.sync()
