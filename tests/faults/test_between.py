"""What happens between an interrupted backup and the next is in the point, and nothing is mixed."""

import asyncio
import mmap
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

import pytest

from tests.cli.machine import loop_device
from tests.faults.faulty import Fault
from tests.faults.test_every_call import FaultyMachine
from transfer.errors import TransferError
from transfer.vault.open import rebuild_catalog, verify_vault

pytestmark = pytest.mark.usefixtures("quick_keyrings")

MIB = 2**20
SIZE = 24 * MIB
SETTLE = 2.1  # seconds, until a ctime proves something


@pytest.fixture
def machine(tmp_path):
    return FaultyMachine(tmp_path)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """One for each test of a `settled`: made at once, they settle together."""
    paths = [tmp_path_factory.mktemp("image") / "disk" for _ in range(5)]
    for path in paths:
        path.write_bytes(os.urandom(SIZE))
    return paths


@pytest.fixture
def settled(images):
    return images.pop()


async def interrupted(machine, path):
    """A backup that came so far that something of it is known, and no further."""
    await asyncio.sleep(max(0, path.stat().st_ctime + SETTLE - time.time()))
    machine.fault = Fault(3, "fail", "store")
    with pytest.raises(TransferError):
        await machine.backup(path)
    assert machine.met.fired


async def is_what_it_was(machine, path, content):
    into = machine.top / "back"
    await machine.restore(into)
    assert into.read_bytes() == content
    assert (await verify_vault(machine.vault)).damaged == []


async def test_what_did_not_change_is_not_read_again(machine, settled):
    """Else the others would prove nothing."""
    await interrupted(machine, settled)
    made = await machine.backup(settled)
    assert made.bytes_resumed > 0
    await is_what_it_was(machine, settled, settled.read_bytes())


def write_start(path):
    with path.open("r+b") as file:
        file.write(b"changed" * 1000)


def written(path, mapped):
    before = path.stat()
    write_start(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def mapped_and_written(path, mapped):
    """Through pages that were dirty before the first run as well, and nothing is synced."""
    mapped[:7] = b"CHANGED"


def replaced(path, mapped):
    path.with_name("other").write_bytes(os.urandom(SIZE))
    path.with_name("other").rename(path)


@pytest.mark.parametrize("change", [written, mapped_and_written, replaced])
async def test_an_image_that_was_changed_below_what_was_read(machine, image, change):
    with image.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        mapped[:7] = b"dirtied"
        await interrupted(machine, image)
        change(image, mapped)
        made = await machine.backup(image)
        assert made.bytes_resumed == 0
        await is_what_it_was(machine, image, image.read_bytes())


async def test_where_a_mapped_write_leaves_no_trace_nothing_is_proven(machine):
    """tmpfs: neither a note of an interrupted run nor the mark of a point counts."""
    top = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        (top / "tree").mkdir()
        image, file = top / "disk", top / "tree" / "file"
        for path in (image, file):
            path.write_bytes(os.urandom(SIZE))
        with image.open("r+b") as open_image, mmap.mmap(open_image.fileno(), SIZE) as mapped:
            mapped[:7] = b"dirtied"
            await interrupted(machine, image)
            before = image.stat().st_ctime_ns
            mapped[:7] = b"CHANGED"
            assert image.stat().st_ctime_ns == before
            assert (await machine.backup(image)).bytes_resumed == 0
            await is_what_it_was(machine, image, image.read_bytes())
        await machine.backup(top / "tree", item="tree")
        assert (await machine.backup(top / "tree", item="tree")).bytes_read == SIZE
    finally:
        shutil.rmtree(top)


async def test_a_device_proves_nothing(machine, tmp_path):
    with loop_device(tmp_path / "loop", SIZE) as name:
        device = Path(name)
        device.write_bytes(os.urandom(SIZE))
        await asyncio.sleep(SETTLE)  # whatever a node's ctime says
        await interrupted(machine, device)
        before, other = device.stat(), tmp_path / "node"
        # As whoever has it mounted: not by this name.
        os.mknod(other, 0o600 | stat.S_IFBLK, before.st_rdev)
        write_start(other)
        assert device.stat().st_ctime_ns == before.st_ctime_ns
        made = await machine.backup(device)
        assert made.bytes_resumed == 0
        await is_what_it_was(machine, device, device.read_bytes())


@pytest.mark.parametrize("how", ["older copy", "rebuilt", "empty"])
async def test_a_vault_that_is_another_one_by_now(machine, settled, how):
    (machine.top / "small").write_bytes(b"small")
    await machine.backup(machine.top / "small", item="other")
    shutil.copytree(machine.vault, machine.top / "older")
    await interrupted(machine, settled)
    if how == "rebuilt":
        await rebuild_catalog(machine.vault)
    else:
        shutil.rmtree(machine.vault)
        shutil.move(machine.top / "older", machine.vault)
        if how == "empty":
            shutil.rmtree(machine.vault)
            shutil.rmtree(machine.state)
    await machine.backup(settled)
    await is_what_it_was(machine, settled, settled.read_bytes())


async def test_a_state_that_was_put_back_asks_and_reads(machine, settled):
    """Its open journal is of a run before two points that it does not know."""
    await interrupted(machine, settled)
    old = shutil.copytree(machine.state, machine.top / "old")
    await machine.backup(settled)
    settled.write_bytes(os.urandom(SIZE))
    await asyncio.sleep(SETTLE)
    await machine.backup(settled)
    shutil.rmtree(machine.state)
    shutil.move(old, machine.state)
    made = await machine.backup(settled)
    points = await machine.points()
    assert [each.number for each in points] == [1, 2, 3]
    assert made.parent == points[1].point_id.hex()
    await is_what_it_was(machine, settled, settled.read_bytes())


async def restored_in_part(machine, tree, into):
    """An interrupted restore that brought some files, all under their names."""
    # There are six lanes: by then some of them have written.
    machine.fault = Fault(14, "fail", "fetch")
    with pytest.raises(TransferError):
        await machine.restore(into)
    there = [path for path in (into / "tree").glob("*") if not path.name.startswith(".")]
    assert 0 < len(there) < len(list(tree.iterdir()))
    return there


@pytest.mark.parametrize("crashed", [False, True])
async def test_what_a_crash_took_from_a_file_that_was_restored_comes_back(
    machine, tmp_path, monkeypatch, crashed
):
    """It had its name and its times, and its content was not on the disk yet."""
    tree, into = tmp_path / "tree", tmp_path / "back"
    tree.mkdir()
    for number in range(64):
        (tree / f"{number:02}").write_bytes(os.urandom(MIB))
    await machine.backup(tree)
    lost, *_ = await restored_in_part(machine, tree, into)
    before = lost.stat()
    lost.write_bytes(bytes(before.st_size))
    os.utime(lost, ns=(before.st_atime_ns, before.st_mtime_ns))
    if crashed:
        monkeypatch.setattr("transfer.jobs.restore.boot_id", lambda: "another boot")
    result = await machine.restore(into)
    whole = [path.read_bytes() == (tree / path.name).read_bytes() for path in into.glob("tree/*")]
    assert len(whole) == 64
    if crashed:
        assert result.warnings == []
        assert all(whole)
    else:  # nothing but somebody else can have written that
        assert [(each.path, each.code) for each in result.warnings] == [
            (f"tree/{lost.name}", "exists")
        ]
        assert whole.count(False) == 1
