"""A target's disk that loses what it was given: the next run believes the disk, not its cache."""

import filecmp
import os

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.compare import differences
from tests.cli.machine import failing_disk
from transfer.errors import TransferError

pytestmark = pytest.mark.usefixtures("quick_keyrings")

MIB = 2**20
SIZE = 15 * MIB


@pytest.fixture
def disk(tmp_path):
    with failing_disk(tmp_path / "disk") as disk:
        yield disk


def made(kind, top):
    """An image, or a tree of large files or of small ones."""
    if "image" in kind:
        top.write_bytes(os.urandom(SIZE))
        return top
    top.mkdir()
    many = 3 if kind == "large" else 150
    for number in range(many):
        (top / f"{number}").write_bytes(os.urandom(SIZE // many))
    return top


@pytest.mark.parametrize("kind", ["new image", "image in place", "large", "small"])
async def test_what_the_disk_lost_is_fetched_again(tmp_path, disk, kind):
    machine, source = Machine(tmp_path), made(kind, tmp_path / "source")
    await machine.backup(source)
    if kind == "image in place":
        (disk.top / "source").touch()
    with pytest.raises((TransferError, OSError)):
        await machine.restore(disk.top)
    disk.repair()
    result = await machine.restore(disk.top)
    assert result.warnings == []
    if "image" in kind:  # whose disk says at once what it does not take
        assert result.bytes_kept and result.bytes_kept + result.bytes_written == SIZE
    else:
        assert 0 < result.bytes_received < SIZE / 2
    disk.unmount()
    disk.mount()
    back = disk.top / "source"
    if "image" in kind:
        assert filecmp.cmp(source, back, shallow=False)
    else:
        assert differences(source, back) == []
