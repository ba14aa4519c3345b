"""A sample of a work's blocks, and the frames that they become."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from perf.works import files
from transfer.formats.entry import INLINE_MAX
from transfer.formats.stream import DEFAULT_BLOCK
from transfer.pipeline.sealing import Sealer, SealKeys, frame_room
from transfer.pipeline.tasks import DATA
from transfer.sources.reading import read_into

KEYS = SealKeys(b"d" * 16, 1, b"epoch-01", {1: b"i" * 32}, {b"epoch-01": b"s" * 32})


class Extent(NamedTuple):
    """A block of a file."""

    path: Path
    offset: int
    length: int


class Sample(NamedTuple):
    """*blocks* are what is in the *extents*; *frames* are sealed as a backup does by default."""

    extents: list[Extent]
    blocks: list[memoryview]
    ids: list[bytes]
    frames: list[memoryview]

    @property
    def plain(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def sealed(self) -> int:
        return sum(map(len, self.frames))


def sample(source: Path, size: int) -> Sample:
    """About *size* bytes, from all over *source*: no zeros, nothing that would stand inline."""
    every = list(_extents(source))
    total = sum(extent.length for extent in every)
    step, taken, behind = max(1.0, total / size), list[Extent](), 0.0
    for extent in every:  # as many of the large as of the small ones
        behind += extent.length / step
        if behind >= extent.length:
            taken.append(extent)
            behind -= extent.length
    blocks = [(extent, read(extent)) for extent in taken]
    blocks = [(extent, block) for extent, block in blocks if any(block[:64]) or any(block)]
    sealer, ids, frames = Sealer(KEYS), list[bytes](), list[memoryview]()
    for _, block in blocks:
        out = memoryview(bytearray(frame_room(len(block))))
        ids.append(sealer.id_of(DATA, b"", block))
        frames.append(out[: sealer.seal_into(out, DATA, ids[-1], block)])
    return Sample([extent for extent, _ in blocks], [block for _, block in blocks], ids, frames)


def _extents(source: Path) -> Iterator[Extent]:
    for path in files(source):
        size = path.stat().st_size
        if size > INLINE_MAX:
            for at in range(0, size, DEFAULT_BLOCK):
                yield Extent(path, at, min(DEFAULT_BLOCK, size - at))


def read(extent: Extent) -> memoryview:
    """As a worker does: open, read, close."""
    room = memoryview(bytearray(extent.length))
    fd = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        read_into(fd, extent.offset, room)
    finally:
        os.close(fd)
    return room
