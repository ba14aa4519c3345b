"""Backups of a machine that runs, from its disks to a restored directory."""

import asyncio
import signal

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.served import shell_at
from tests.sources.guest_agent import ScriptedAgent
from tests.sources.live import WRITE, Daemon, Guest, Wire
from transfer.errors import ViewBroken
from transfer.jobs import backup as backup_job
from transfer.jobs.progress import Progress

pytestmark = pytest.mark.usefixtures("quick_keyrings")

MIB = 1 << 20


def made_in(tmp_path, *sizes):
    top = tmp_path / "machine"
    top.mkdir()
    return Daemon(top, sizes).start()


@pytest.fixture
def daemon(tmp_path):
    return made_in(tmp_path, 16 * MIB, 8 * MIB)


def path_of(daemon, **options):
    said = {"nbd": daemon.nbd, "fleece": daemon.top} | options
    return f"qmp:{daemon.qmp}?" + "&".join(f"{key}={value}" for key, value in said.items())


async def restored(machine, number=0):
    to = machine.top / f"restored-{number}"
    await machine.restore(to)
    return [(to / name).read_bytes() for name in ("d0", "d1")]


BLOCK_SIZES = [
    1 << 16,
    *(pytest.param(size, marks=pytest.mark.slow) for size in (1 << 20, 4 << 20)),
]


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
async def test_each_point_has_the_disks_of_one_moment(daemon, tmp_path, block_size):
    machine = Machine(tmp_path)
    with Guest(daemon, seed=block_size) as guest:
        for number in range(3):
            guest.settle()
            before = guest.copies()
            made = await machine.backup(path_of(daemon), block_size=block_size)
            seen = await restored(machine, number)
            assert guest.moment(before, seen, len(guest.log)) is not None
            assert (made.consistency, made.warnings) == ("crash", [])
        assert guest.error is None
    assert [(disk.path, disk.source, disk.why) for disk in made.disks] == [
        ("d0", "qmp", ""), ("d1", "qmp", ""),
    ]  # fmt: skip
    assert (await daemon.state())[0] == []


async def test_an_incremental_reads_what_changed(daemon, tmp_path):
    machine = Machine(tmp_path)
    await machine.backup(path_of(daemon))
    with Wire(daemon.nbd, "live0") as wire:
        wire(WRITE, 5 * MIB, 4096, bytes([9]) * 4096)
    made = await machine.backup(path_of(daemon))
    assert (made.bytes_read, made.blocks_new) == (3 * MIB, 1)  # both ends are read each time
    assert 0 < made.bytes_fleece < 32 * MIB


async def test_a_frozen_guest_makes_a_point_of_consistent_file_systems(daemon, tmp_path):
    agent = ScriptedAgent(tmp_path / "agent")
    made = await Machine(tmp_path).backup(path_of(daemon, agent=agent.path))
    agent.close()
    assert (made.consistency, made.warnings) == ("file-system", [])
    assert agent.commands == ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]


async def test_a_guest_that_cannot_be_frozen_is_backed_up_with_a_warning(daemon, tmp_path):
    made = await Machine(tmp_path).backup(path_of(daemon, agent=tmp_path / "nobody"))
    (warning,) = made.warnings
    assert (made.consistency, warning.code) == ("crash", "not-frozen")


async def test_a_point_of_a_tree_and_a_frozen_guest_is_as_consistent_as_the_tree(daemon, tmp_path):
    agent = ScriptedAgent(tmp_path / "agent")
    tree = tmp_path / "tree"
    tree.mkdir()
    made = await Machine(tmp_path).backup(path_of(daemon, agent=agent.path), tree)
    agent.close()
    assert made.consistency == "crash"


class SlowProgress(Progress):
    """As if the upload took until the guest has written much more."""

    def __init__(self, guest):
        super().__init__()
        self._guest = guest

    def read(self, size):
        self._guest.settle(400)
        super().read(size)


async def test_a_slow_upload_fills_the_fleece_and_ends_the_backup_alone(tmp_path):
    daemon = made_in(tmp_path, 48 * MIB)
    machine = Machine(tmp_path)
    with Guest(daemon, seed=4, hot=48 * MIB) as guest:
        async with machine.open() as agent:
            path = path_of(daemon, **{"fleece-size": "16M"})
            options = backup_job.BackupOptions("item", [path], workers=0)
            with pytest.raises(ViewBroken, match="the fleece of 16 MiB is full"):
                await backup_job.backup(agent, options, SlowProgress(guest))
        guest.settle()
        assert guest.error is None
    assert (await daemon.state())[0] == []
    assert await machine.points() == []
    assert (await machine.backup(path_of(daemon))).point


async def test_a_backup_that_is_killed_costs_no_change_and_harms_no_guest(daemon, tmp_path):
    shell, machine = shell_at(tmp_path, "near"), Machine(tmp_path)
    with Guest(daemon, seed=8, pause=0.001) as guest:
        await asyncio.to_thread(shell, "backup", "item", path_of(daemon))
        guest.settle()
        process = shell.start("backup", "item", path_of(daemon))
        while not any(name.endswith("-c") for name in (await daemon.state())[0]):
            await asyncio.sleep(0.002)
        process.kill()
        shell.finish(process, -signal.SIGKILL)
        guest.settle()
        before = guest.copies()
        made = await machine.backup(path_of(daemon))
        seen = await restored(machine)
        assert guest.moment(before, seen, len(guest.log)) is not None
        assert guest.error is None
    assert [disk.why for disk in made.disks] == ["", ""]
    assert (await daemon.state())[0] == []
