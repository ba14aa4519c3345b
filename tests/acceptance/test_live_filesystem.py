"""A machine with a file system that is written all the time: what is restored is one again."""

import asyncio
import os

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.filesystems import (
    Workload,
    check_files,
    must,
    needs_recovery,
    recover,
    run,
)
from tests.acceptance.needs import lacking, needs_root, tool
from tests.sources.guest_agent import ScriptedAgent
from tests.sources.live import Daemon

MIB = 1 << 20


@pytest.fixture
def mounted(tmp_path):
    """(daemon, where its disk's file system is mounted)"""
    if not os.path.exists("/dev/fuse"):
        lacking("there is no /dev/fuse")
    top, disk, mount = (tmp_path / name for name in ("machine", "disk", "mount"))
    top.mkdir()
    mount.mkdir()
    disk.touch()
    daemon = Daemon(top, [64 * MIB]).start()
    asyncio.run(daemon.ask("block-export-del", id="live0"))  # it forbids the other to resize
    fuse = {"type": "fuse", "id": "fuse", "node-name": "top0", "mountpoint": str(disk)}
    asyncio.run(daemon.ask("block-export-add", writable=True, **fuse))
    must(tool("mkfs.ext4", "e2fsprogs"), "-q", "-F", disk)
    code, said = run("mount", "-o", "loop", disk, mount)
    if code:
        daemon.kill()
        lacking(f"nothing can be mounted: {said}")
    yield daemon, mount
    must("umount", mount)
    asyncio.run(daemon.stop())


async def restored(daemon, tmp_path, options, rounds=3):
    machine = Machine(tmp_path)
    path = f"qmp:{daemon.qmp}?nbd={daemon.nbd}&fleece={daemon.top}{options}"
    for _ in range(rounds):
        await asyncio.sleep(0.3)
        made = await machine.backup(path)
    await machine.restore(tmp_path / "restored")
    return made, tmp_path / "restored"


@needs_root
@pytest.mark.slow
async def test_a_file_system_under_load_recovers_its_journal(mounted, tmp_path):
    daemon, mount = mounted
    with Workload(mount) as work:
        made, image = await restored(daemon, tmp_path, "")
        assert work.rounds > 50
    assert (made.consistency, made.disks[0].why) == ("crash", "")
    assert needs_recovery(image)
    recover(image)
    check_files(image, tmp_path / "looked at")


@needs_root
@pytest.mark.slow
async def test_a_frozen_file_system_needs_no_recovery(mounted, tmp_path):
    daemon, mount = mounted
    freeze = tool("fsfreeze", "util-linux")
    agent = ScriptedAgent(
        tmp_path / "agent", lambda is_frozen: must(freeze, "-f" if is_frozen else "-u", mount)
    )
    with Workload(mount) as work:
        made, image = await restored(daemon, tmp_path, f"&agent={agent.path}")
        assert work.rounds > 50
    agent.close()
    assert (made.consistency, made.warnings) == ("file-system", [])
    assert not needs_recovery(image)
    assert run(tool("e2fsck", "e2fsprogs"), "-fn", image)[0] == 0
    check_files(image, tmp_path / "looked at")
