"""Disks whose size is no multiple of a block, a page or a sector, and those with large sectors."""

import os
import random
from contextlib import contextmanager

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.needs import needs_root
from tests.cli.machine import loop_device
from tests.sources.benches import KINDS, bench_of
from tests.sources.nbd_servers import nbdkit
from tests.sources.test_reflinked import Bench
from transfer.jobs.disks import Audits

pytestmark = pytest.mark.usefixtures("quick_keyrings")
MIB, BLOCK, SECTOR = 2**20, 65536, 512
# Each is no multiple of the block; of a page, a sector and a byte only where a disk can have that.
SIZES = [5 * MIB + 3 * 4096, 7 * MIB + 1536 + 77, BLOCK + 512 + 1, 6 * MIB - 1]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@contextmanager
def disk_of(kind, top):
    if kind in KINDS:
        with bench_of(kind, top) as bench:
            yield bench
        return
    bench = Bench(top / "disk")
    bench.name = str(bench.path)
    yield bench


async def is_exact(machine, name, content):
    """Whether the next point is the disk, which was *content* when that was made."""
    made = await machine.backup(name, block_size=BLOCK, audits=Audits(share=0.0))
    into = machine.top / "back"
    result = await machine.restore(into)
    assert (result.damaged, result.warnings, made.warnings) == ([], [], [])
    back = into.read_bytes()
    into.unlink()
    return back == content()


@pytest.mark.parametrize("kind", [*KINDS, "plain"])
async def test_a_disk_grows_and_shrinks_from_one_odd_size_to_another(machine, tmp_path, kind):
    chosen = random.Random(kind)
    with disk_of(kind, tmp_path) as bench:
        assert await is_exact(machine, bench.name, bench.content)
        for size in SIZES:
            bench.resize(size)
            assert await is_exact(machine, bench.name, bench.content)
            bench.put((size // SECTOR - 1) * SECTOR, bytes([chosen.randrange(255) | 1]) * SECTOR)
            assert await is_exact(machine, bench.name, bench.content)


@pytest.mark.parametrize("kind", ["reflink", "plain"])
async def test_the_bytes_after_the_last_sector_are_in_the_point(machine, tmp_path, kind):
    with disk_of(kind, tmp_path) as bench:
        for size in (MIB + SECTOR + 7, BLOCK + 1, 1, 0):
            bench.resize(size)
            await is_exact(machine, bench.name, bench.content)
            if size:
                bench.put(size - 1, os.urandom(1))
            assert await is_exact(machine, bench.name, bench.content)


def written(path, at, content):
    with open(path, "r+b", buffering=0) as file:
        file.seek(at)
        file.write(content)
        os.fsync(file.fileno())


@needs_root
@pytest.mark.parametrize("sector", [512, 4096])
async def test_a_device_is_read_to_its_last_sector(machine, tmp_path, sector):
    size = 3 * MIB + sector * 3
    with loop_device(tmp_path / "file", size, sector) as device:
        written(device, 0, os.urandom(size))

        def content():
            with open(device, "rb") as file:
                return file.read()

        assert await is_exact(machine, device, content)
        written(device, size - sector, os.urandom(sector))
        assert await is_exact(machine, device, content)
        assert len(content()) == size


@pytest.mark.parametrize("more", [77, 512])
async def test_an_export_has_any_size(machine, tmp_path, more):
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(MIB + more))
    with nbdkit(tmp_path, "file", disk) as (address, _):
        assert await is_exact(machine, str(address), disk.read_bytes)


@pytest.mark.parametrize("least", [4096, BLOCK])
async def test_an_export_is_read_in_the_blocks_that_it_asks_for(machine, tmp_path, least):
    """What is asked of it otherwise, it refuses."""
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(MIB) + bytes(least) + os.urandom(least * 3))
    words = (
        "--filter=blocksize-policy", "file", disk, f"blocksize-minimum={least}",
        f"blocksize-preferred={max(4096, least)}", "blocksize-error-policy=error",
    )  # fmt: skip
    with nbdkit(tmp_path, *words) as (address, _):
        assert await is_exact(machine, str(address), disk.read_bytes)
