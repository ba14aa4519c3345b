"""A restore over a disk that is tracked: the next point is the disk, whatever its history says."""

import os
import random

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.filesystems import must
from tests.acceptance.needs import tool
from tests.sources.benches import bench_of
from transfer.errors import UsageError
from transfer.jobs.disks import Audits

pytestmark = pytest.mark.usefixtures("quick_keyrings")
MIB = 2**20


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def bench(request, tmp_path):
    with bench_of(request.param, tmp_path) as bench:
        yield bench


async def backup(machine, path):
    return await machine.backup(path, block_size=65536, audits=Audits(share=0.0))


async def restored(machine, name="item"):
    into = machine.top / "back"
    result = await machine.restore(into, item=name)
    assert (result.damaged, result.warnings) == ([], [])
    content = into.read_bytes()
    into.unlink()
    return content


async def two_points(machine, bench):
    """Of two contents: the first point's name, and its content."""
    first, then = await backup(machine, bench.name), bench.content()
    bench.write(random.Random(1))
    bench.put(3 * MIB, os.urandom(2 * MIB))
    await backup(machine, bench.name)
    bench.write(random.Random(2))  # what no point has
    return f"item@{first.point}", then


@pytest.mark.parametrize("bench", ["reflink"], indirect=True)
@pytest.mark.parametrize(
    ("overwrite", "resize"), [("changed", 0), ("always", -5 * MIB), ("changed", 3 * MIB + 77)]
)
async def test_a_file_that_was_rolled_back_in_place(machine, bench, overwrite, resize):
    point, then = await two_points(machine, bench)
    if resize:
        bench.resize(len(then) + resize)
    await machine.restore(bench.path, item=point, overwrite=overwrite)
    assert bench.content() == then
    made = await backup(machine, bench.name)
    assert made.disks[0].why == ""
    assert await restored(machine) == then
    bench.write(random.Random(3))
    assert (await backup(machine, bench.name)).disks[0].why == ""
    assert await restored(machine) == bench.content()
    assert len(bench.objects()) == 1


@pytest.mark.parametrize("bench", ["qcow2"], indirect=True)
async def test_a_disk_that_was_rolled_back_by_qemu(machine, bench, tmp_path):
    """Into the file that is there: its bitmap sees that like any other write."""
    point, then = await two_points(machine, bench)
    await machine.restore(tmp_path / "raw", item=point)
    words = ("convert", "-n", "-f", "raw", "-O", "qcow2", tmp_path / "raw", bench.path)
    must(tool("qemu-img", "qemu-utils"), *words)
    assert bench.content() == then
    assert (await backup(machine, bench.name)).disks[0].why == ""
    assert await restored(machine) == then


@pytest.mark.parametrize("bench", ["qcow2"], indirect=True)
async def test_a_disk_whose_file_was_made_anew_of_a_restored_one(machine, bench, tmp_path):
    point, then = await two_points(machine, bench)
    await machine.restore(tmp_path / "raw", item=point)
    words = ("convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", bench.path)
    must(tool("qemu-img", "qemu-utils"), *words)
    made = await backup(machine, bench.name)
    assert "not in the file" in made.disks[0].why
    assert await restored(machine) == then
    bench.write(random.Random(3))
    assert (await backup(machine, bench.name)).disks[0].why == ""
    assert await restored(machine) == bench.content()


@pytest.mark.parametrize("bench", ["qcow2"], indirect=True)
async def test_a_disk_that_was_restored_over_its_own_qcow2_file_is_a_raw_one(machine, bench):
    """As such it is refused by its old name, and known by its new one."""
    point, then = await two_points(machine, bench)
    await machine.restore(bench.path, item=point, overwrite="changed")
    assert bench.path.read_bytes() == then
    with pytest.raises(UsageError, match="qcow2 format"):
        await backup(machine, bench.name)
    made = await backup(machine, str(bench.path))
    assert made.disks[0].why != ""
    assert await restored(machine) == then
