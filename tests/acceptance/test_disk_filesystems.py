"""What is restored of a tracked disk, as other programs see it: QEMU, and a file system's check."""

import asyncio
import filecmp
import os
from contextlib import contextmanager

import pytest

from tests.acceptance import trees
from tests.acceptance.agent import Machine
from tests.acceptance.filesystems import (
    Workload,
    check_files,
    must,
    needs_recovery,
    recover,
    run,
)
from tests.acceptance.needs import needs_root, tool
from tests.cli.machine import mounted
from tests.sources.disks import file_system
from tests.sources.test_qcow2 import Bench
from transfer.jobs.disks import Audits

pytestmark = pytest.mark.usefixtures("quick_keyrings")
MIB = 2**20


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


async def incremental(machine, path):
    """Only what changed is read."""
    made = await machine.backup(path, block_size=65536, audits=Audits(share=0.0))
    assert [disk.why for disk in made.disks] == [""]
    return made


def is_same(raw, qcow2):
    """As QEMU sees them."""
    words = ("compare", "-q", "-f", "raw", "-F", "qcow2", raw, qcow2)
    return run(tool("qemu-img", "qemu-utils"), *words)[0] == 0


@pytest.mark.parametrize("is_backed", [False, True])
async def test_a_qcow2_disk_that_came_back_is_the_same_to_qemu(machine, tmp_path, is_backed):
    make = ()
    if is_backed:
        base = Bench(tmp_path / "base.qcow2")
        make = ("-F", "qcow2", "-b", str(base.path))
    disk = Bench(tmp_path / "disk.qcow2", *make)
    disk.io("write -q -z 3M 1M", "write -q -P 3 23M 1M")
    await machine.backup(f"qcow2:{disk.path}", block_size=65536)
    disk.io("write -q -P 9 5M 100k", "discard -q 8M 2M", "write -q -z 12M 64k")
    made = await incremental(machine, f"qcow2:{disk.path}")
    assert made.bytes_read < 4 * MIB
    await machine.restore(tmp_path / "back")
    assert is_same(tmp_path / "back", disk.path)
    disk.io("write -q -P 8 5M 512")
    assert not is_same(tmp_path / "back", disk.path)


async def test_a_qcow2_file_on_xfs_is_known_by_its_blocks_as_well(machine, tmp_path):
    """Named as a plain file, it comes back as one, bit by bit."""
    with file_system(tmp_path / "xfs", "xfs") as top:
        disk = Bench(top / "disk.qcow2")
        await machine.backup(str(disk.path), block_size=65536)
        disk.io("write -q -P 9 5M 100k")
        made = await incremental(machine, str(disk.path))
        assert (made.disks[0].source, made.bytes_read < 2 * MIB) == ("reflink", True)
        await machine.restore(tmp_path / "back")
        assert filecmp.cmp(tmp_path / "back", disk.path, shallow=False)


def debugfs(image, command):
    must(tool("debugfs", "e2fsprogs"), "-w", "-R", command, image)


async def test_a_file_system_on_a_qcow2_disk_comes_back_without_a_fault(machine, tmp_path):
    (tmp_path / "content").mkdir()
    for number in range(30):
        (tmp_path / "content" / f"file-{number}").write_bytes(trees.noise(number, 40_000))
    raw, disk = tmp_path / "raw", tmp_path / "disk.qcow2"
    trees.ext4_image(raw, 32 * MIB, tmp_path / "content")
    qemu_img = tool("qemu-img", "qemu-utils")
    must(qemu_img, "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    await machine.backup(f"qcow2:{disk}", block_size=65536)
    (tmp_path / "new").write_bytes(trees.noise("new", 70_000))
    debugfs(raw, f"write {tmp_path / 'new'} new")
    debugfs(raw, "rm file-7")
    must(qemu_img, "convert", "-n", "-f", "raw", "-O", "qcow2", raw, disk)
    await incremental(machine, f"qcow2:{disk}")
    back = tmp_path / "back"
    await machine.restore(back)
    assert run(tool("e2fsck", "e2fsprogs"), "-fn", back)[0] == 0
    debugfs(back, f"dump new {tmp_path / 'new-again'}")
    assert (tmp_path / "new-again").read_bytes() == (tmp_path / "new").read_bytes()
    assert "file-7 " not in run(tool("debugfs", "e2fsprogs"), "-R", "ls -l", back)[1]


@contextmanager
def mounted_image(image, mount):
    """A file system on a disk that a machine would run from."""
    with image.open("wb") as file:
        file.truncate(96 * MIB)
    must(tool("mkfs.ext4", "e2fsprogs"), "-q", "-F", image)
    mount.mkdir()
    with mounted("-o", "loop", image, mount):
        yield mount


@needs_root
@pytest.mark.parametrize("kind", ["xfs", pytest.param("btrfs", marks=pytest.mark.slow)])
async def test_each_point_of_an_image_that_is_written_all_the_time_recovers(
    machine, tmp_path, kind
):
    """It is written through a loop device, below a file system that a guest would have."""
    with file_system(tmp_path / "below", kind) as below:
        image = below / "image"
        with mounted_image(image, tmp_path / "mount") as mount, Workload(mount) as work:
            await asyncio.to_thread(os.sync)
            await machine.backup(str(image), block_size=65536)
            for number in range(4):
                rounds = work.rounds
                while work.rounds < rounds + 60:
                    await asyncio.sleep(0.05)
                made = await incremental(machine, str(image))
                assert (made.consistency, made.warnings) == ("crash", [])
                assert 0 < made.bytes_read < 96 * MIB
                back = tmp_path / f"back-{number}"
                await machine.restore(back)
                assert needs_recovery(back)
                recover(back)
                check_files(back, tmp_path / f"looked at {number}")
