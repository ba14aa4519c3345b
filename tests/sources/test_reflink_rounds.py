"""Ten rounds of everything that changes a file: an old copy and what changed make the new one."""

import mmap
import os
import random
import subprocess
from typing import NamedTuple

import pytest

from tests.acceptance.needs import tool
from tests.sources.disks import content, file_system, opened
from transfer.sources.extent_maps import ENCODED
from transfer.sources.reflink import changes, extent_map

MIB = 2**20
BLOCK = 4096
# A store through a mapping makes all of a folio dirty, and a folio of xfs has up to 2 MiB; so did a
# write before Linux 6.6.
FOLIO = 2 * MIB
WRITES_BLOCKS = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 6)


class Kind(NamedTuple):
    file_system: str
    options: str = "noatime"
    repeats: bool = False  # its content can be compressed

    @property
    def is_xfs(self):
        return self.file_system == "xfs"


KINDS = {
    "xfs": Kind("xfs"),
    "btrfs": Kind("btrfs"),
    "btrfs without copy-on-write": Kind("btrfs", "nodatacow"),
    "btrfs compressed": Kind("btrfs", "compress-force=zstd", repeats=True),
}


class Disk:
    """A file that changes; *touched* are the ranges that a comparison may name."""

    def __init__(self, files, kind):
        self.random, self.kind, self.touched = random.Random(5), kind, []
        self.path = files.top / "disk"
        self.fd = files.open("disk", self.bytes(4 * MIB))
        self.resize(6 * MIB)

    def bytes(self, count):
        if self.kind.repeats:
            return (self.random.randbytes(64) * (count // 64 + 1))[:count]
        return self.random.randbytes(count)

    @property
    def size(self):
        return os.fstat(self.fd).st_size

    def change(self, number):
        self.touched = []
        for _ in range(self.random.randrange(1, 40)):
            self.write()
        for how in ("--punch-hole", "--zero-range", "--keep-size"):
            start = self.random.randrange(self.size) // BLOCK * BLOCK
            self.allocate(how, start, self.random.choice([BLOCK, MIB]))
        self.store()
        if number == 4 and self.kind.is_xfs:
            self.touch(MIB, self.size)
            self.allocate("--collapse-range", MIB, MIB)
        if number in (5, 6):
            self.resize(self.size + {5: -2_000_001, 6: 1_123_457}[number])

    def write(self):
        length = self.random.choice([1, 512, 4096, 65536])
        start = self.random.randrange(self.size - length)
        os.pwrite(self.fd, self.bytes(length), start)
        self.touch(
            start, start + length, FOLIO if self.kind.is_xfs and not WRITES_BLOCKS else BLOCK
        )

    def store(self):
        """Through a mapping, and nothing is synced."""
        start = self.random.randrange(self.size - 3)
        with mmap.mmap(self.fd, 0) as mapped:
            mapped[start : start + 3] = b"abc"
        self.touch(start, start + 3, FOLIO if self.kind.is_xfs else BLOCK)

    def allocate(self, how, start, length):
        words = [tool("fallocate", "util-linux"), how, "-o", str(start), "-l", str(length)]
        subprocess.run([*words, self.path], check=True)
        self.touch(start, start + length)

    def resize(self, size):
        self.touch(*sorted([self.size, size]))
        os.ftruncate(self.fd, size)

    def touch(self, start, end, grain=BLOCK):
        self.touched.append((start // grain * grain, -(-end // grain) * grain))


def blocks(ranges):
    return {at for start, end in ranges for at in range(start // BLOCK, -(-end // BLOCK))}


def compressed(*copies):
    """What has no address of its own, and always counts as changed."""
    extents = (extent for fd in copies for extent in extent_map(fd, 0, 2**40))
    return [(extent.offset, extent.end) for extent in extents if extent.flags & ENCODED]


def patched(old, new, ranges):
    """The content of *old*, with that of *new* in the *ranges*."""
    made = bytearray(content(old)[: len(new)].ljust(len(new), b"\0"))
    for start, end in ranges:
        made[start:end] = new[start:end]
    return made


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_old_copy_and_what_changed_make_the_new_one(kind, tmp_path):
    with file_system(tmp_path / "top", kind.file_system, options=kind.options) as top, \
            opened(top) as files:  # fmt: skip
        disk, doubt = Disk(files, kind), 0
        old = files.clone(disk.fd, "0")
        for number in range(1, 11):
            disk.change(number)
            new = files.clone(disk.fd, str(number))
            found = [(at, at + length) for at, length in changes(old, new, twice=True)]
            now = content(new)
            assert now == content(disk.fd)
            assert patched(old, now, found) == now
            doubtful = compressed(old, new)
            assert blocks(found) <= blocks(disk.touched) | blocks(doubtful)
            old, doubt = new, doubt + len(doubtful)
        assert bool(doubt) == kind.repeats
