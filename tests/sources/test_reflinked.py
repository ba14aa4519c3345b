"""Files on xfs and btrfs: the laws of change sources, and what may happen to the copies."""

import os
import random

import pytest

from tests.sources.disks import file_system
from tests.suites import sources
from tests.suites.sources import *
from tests.suites.sources import Chain
from transfer.errors import ViewBroken
from transfer.sources.changes import Since
from transfer.sources.reflinked import NEW, PREFIX, ReflinkSource

MIB = 2**20
PUNCH = 3  # FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def mounted(request, tmp_path_factory):
    with file_system(tmp_path_factory.mktemp(request.param) / "disk", request.param) as path:
        yield path


class Bench:
    """A file of 24 MiB, of which a little is a hole."""

    grows, grain, least, disk = True, 65536, 0, "disk"

    def __init__(self, path):
        self.path, self.source = path, ReflinkSource(os.fsencode(path), b"disk")
        path.write_bytes(b"".join(os.urandom(256) * 2048 for _ in range(40)))
        os.truncate(path, 24 * MIB)

    def write(self, chosen):
        size, written = self.path.stat().st_size, []
        with self.path.open("r+b", buffering=0) as file:
            for _ in range(chosen.randrange(1, 12)):
                length = chosen.choice((1, 4096, 70_000, 300_000))
                at = chosen.randrange(size - length)
                if chosen.random() < 0.2:
                    punch(file.fileno(), at, length)
                else:
                    os.pwrite(file.fileno(), os.urandom(16) * (length // 16 + 1), at)
                written.append((at, length))
        return written

    def put(self, at, content):
        with self.path.open("r+b") as file:
            os.pwrite(file.fileno(), content, at)

    def resize(self, size):
        os.truncate(self.path, size)

    def content(self):
        return self.path.read_bytes()

    def objects(self):
        return [
            name for name in os.listdir(self.path.parent)
            if os.fsencode(name).startswith(PREFIX)
        ]  # fmt: skip


def punch(fd, at, length):
    import ctypes

    done = ctypes.CDLL(None, use_errno=True).fallocate(
        fd, PUNCH, ctypes.c_long(at), ctypes.c_long(length)
    )
    assert done == 0


@pytest.fixture
def bench(mounted):
    yield Bench(mounted / "disk")
    for path in mounted.iterdir():
        path.unlink()


@pytest.fixture
async def chain(bench):
    made = Chain(bench)
    await made.run()
    return made


def copy_of(bench):
    (name,) = bench.objects()
    return bench.path.parent / name


def removed(bench):
    copy_of(bench).unlink()


def written(bench):
    with copy_of(bench).open("r+b") as file:
        file.write(b"!")


def replaced(bench):
    """Another file has its name, with the newest content: all its extents would be shared."""
    copy = copy_of(bench)
    os.system(f"cp --reflink=always {bench.path} {copy}.other && mv {copy}.other {copy}")


@pytest.mark.parametrize("harm", [removed, written, replaced])
async def test_a_copy_that_is_gone_or_was_touched_ends_the_chain(bench, chain, harm):
    bench.write(random.Random(1))
    harm(bench)
    assert await chain.run() is None
    assert len(bench.objects()) == 1
    bench.write(random.Random(2))
    assert await chain.run() is not None, chain.why


async def test_another_file_under_its_name_is_compared_like_any_other(bench, chain):
    other = Bench(bench.path.with_name("other"))
    other.write(random.Random(3))
    os.replace(other.path, bench.path)
    assert await chain.run() is not None, chain.why


async def test_a_view_is_one_moment_whoever_writes(bench):
    before = bench.content()
    async with bench.source.open(Since(sources.ONE)) as view:
        bench.write(random.Random(4))
        assert await sources.read(view.disks[0]) == before
        assert await view.check()


async def test_a_view_whose_copy_was_touched_is_broken(bench):
    async with bench.source.open(Since(sources.ONE)) as view:
        written(bench)
        with pytest.raises(ViewBroken):
            await view.check()


async def test_who_goes_on_has_the_view_of_the_run_that_was_interrupted(bench, chain):
    bench.write(random.Random(5))
    now = bench.content()
    async with bench.source.open(Since(sources.ONE, chain.marks)) as view:
        identity = view.disks[0].identity
    bench.write(random.Random(6))
    (bench.path.parent / f"{bench.objects()[0]}x{os.fsdecode(NEW)}").touch()  # a kill in the middle
    async with bench.source.open(Since(sources.ONE, chain.marks, resumes=True)) as view:
        assert view.disks[0].identity == identity
        assert await sources.read(view.disks[0]) == now
    async with bench.source.open(Since(sources.ONE, chain.marks)) as view:
        assert view.disks[0].identity != identity
        assert await sources.read(view.disks[0]) == bench.content()
    assert len(bench.objects()) == 2
