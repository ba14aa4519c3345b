"""A machine with a file system that is written all the time: what is restored is one again."""

import asyncio
import os
import struct
import subprocess
import threading

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.needs import lacking, needs_root, tool
from tests.sources.guest_agent import ScriptedAgent
from tests.sources.live import Daemon

MIB = 1 << 20
FILES, PAGES = 40, 5


def run(*words):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def must(*words):
    code, said = run(*words)
    assert code == 0, said


class Workload:
    """Files that come, are renamed over others and go, below *top*; some are synced. All of a file
    says in which round it was made."""

    def __init__(self, top):
        self.top, self.rounds, self._ends = top, 0, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ends.set()
        self._thread.join()

    def _work(self):
        while not self._ends.is_set():
            number = self.rounds % FILES
            path = self.top / f"new-{number}"
            with path.open("ab") as file:
                file.write(struct.pack("<Q", self.rounds) * 512 * PAGES)
                if number % 3 == 0:
                    os.fsync(file.fileno())
            path.rename(self.top / f"file-{number}")
            if number % 7 == 0:
                (self.top / f"file-{(number + 20) % FILES}").unlink(missing_ok=True)
            self.rounds += 1


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


def recover(image):
    """The journal is replayed, as mounting would, and then there is nothing to mend."""
    check = tool("e2fsck", "e2fsprogs")
    assert run(check, "-p", "-E", "journal_only", image)[0] == 0
    code, said = run(check, "-fn", image)
    assert code == 0, said


def check_files(image, mount):
    """What was never written before a file had it is in no file: data goes before its names."""
    mount.mkdir()
    must("mount", "-o", "loop,ro", image, mount)
    try:
        files = list(mount.glob("file-*"))
        assert len(files) > FILES // 2
        for path in files:
            said = {found for (found,) in struct.iter_unpack("<Q", path.read_bytes())}
            assert len(said) <= 1, path.name
            assert {found % FILES for found in said} <= {int(path.name.removeprefix("file-"))}
    finally:
        must("umount", mount)


def needs_recovery(image):
    return "needs_recovery" in run(tool("dumpe2fs", "e2fsprogs"), "-h", image)[1]


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
