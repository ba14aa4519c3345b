"""kill -9 of a backup of a disk whose changes are known: it costs no change, and nothing is left.

The places are those of a tracked source: its new object, the view, what is sent, the commit, and
the end of the old object.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.shell import PASSPHRASE, ROOT, alive
from tests.faults.test_failpoints import run
from tests.sources.benches import bench_of
from transfer.jobs.disks import Audits

pytestmark = pytest.mark.usefixtures("quick_keyrings")

VAULT = [
    ("after-StoredVault.store-vault", 1), ("before-StoredVault.store-vault", 2),
    ("before-RunJournal.post-client", 1), ("after-RunJournal.post-client", 1),
    ("before-StoredVault.commit-vault", 1), ("after-StoredVault.commit-vault", 1),
    ("before-RunJournal.end-client", 1), ("after-RunJournal.end-client", 1),
]  # fmt: skip
PLACES = {
    "qcow2": [
        ("before-_File.remove-client", 1), ("before-_File.add-client", 1),
        ("before-mark_end-client", 1), ("after-_File.add-client", 1),
        ("before-_connected-client", 1), ("after-_connected-client", 1), *VAULT,
        ("before-_File.remove-client", 2), ("after-_File.remove-client", 2),
    ],
    "reflink": [
        ("before-Copies._made-client", 1), ("after-clone-client", 1),
        ("after-Copies._made-client", 1), *VAULT,
        ("before-Copies.commit-client", 1), ("after-Copies.commit-client", 1),
    ],
}  # fmt: skip
BY_DEFAULT = {
    ("qcow2", "before-_connected-client", 1), ("qcow2", "before-_File.remove-client", 2),
    ("reflink", "after-clone-client", 1), ("reflink", "after-StoredVault.commit-vault", 1),
}  # fmt: skip


def cases():
    for kind, places in PLACES.items():
        for name, number in places:
            marks = () if (kind, name, number) in BY_DEFAULT else (pytest.mark.slow,)
            yield pytest.param(kind, name, number, marks=marks, id=f"{kind}-{name}-{number}")


@pytest.fixture
def bench(kind, tmp_path):
    with bench_of(kind, tmp_path) as bench:
        yield bench


@pytest.fixture
def machine(tmp_path, monkeypatch):
    for name in ("machine", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return Machine(tmp_path / "machine")


async def backup(machine, bench):
    return await machine.backup(bench.name, block_size=65536, audits=Audits(share=0.0))


async def restored(machine):
    into = machine.top / "back"
    result = await machine.restore(into)
    assert (result.damaged, result.warnings) == ([], [])
    content = into.read_bytes()
    into.unlink()
    return content


def servers(bench):
    """Processes that serve the disk."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(bench.path) in words and b"qemu-nbd" in os.path.basename(words[0]):
            found.append(int(path.parent.name))
    return [pid for pid in found if alive(pid)]


def wait_for_the_end_of_servers(bench):
    until = time.monotonic() + 5
    while servers(bench):
        assert time.monotonic() < until, "a server outlived the run that started it"
        time.sleep(0.01)


async def nothing_is_lost(machine, bench, chosen, history=True):
    """In the next point, nor in the one after it; and one object of the chain is left."""
    then = bench.content()
    bench.write(chosen)
    for contents in ([then, bench.content()], [bench.content()]):
        made = await backup(machine, bench)
        assert made.warnings == []
        assert not history or made.disks[0].why == ""
        # A run that goes on may have the view of the one that was killed.
        assert await restored(machine) in contents
        assert len(bench.objects()) == 1
    assert servers(bench) == []


@pytest.mark.parametrize(("kind", "name", "number"), list(cases()))
async def test_a_backup_that_is_killed_there_costs_no_change(machine, bench, name, number):
    chosen = random.Random(f"{name} {number}")
    await backup(machine, bench)
    bench.write(chosen)
    bench.put(9 * 2**20, os.urandom(2**20))
    words = ("backup", "item", bench.name, "--block-size", "64K")
    code, errors = run(machine, (name, "kill", number), *words)
    assert code == -signal.SIGKILL, errors
    wait_for_the_end_of_servers(bench)
    await nothing_is_lost(machine, bench, chosen)


def started(machine, bench):
    """A backup in a session of its own."""
    (machine.top / "passphrase").write_text(PASSPHRASE + "\n")
    command = [
        sys.executable, "-m", "transfer", "backup", "item", bench.name, "--block-size", "64K",
        "--vault", machine.vault, "--state", machine.state,
        "--passphrase-file", machine.top / "passphrase", "--workers", "1", "--quiet",
    ]  # fmt: skip
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, start_new_session=True)


def all_killed(machine, bench, seconds):
    """A backup, and all that it started, after so many *seconds*. False if it had ended."""
    with started(machine, bench) as process:
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLACES)
async def test_all_of_a_backups_processes_may_be_killed_at_any_moment(machine, bench):
    """Also in the middle of what they do to the disk: at worst its history is lost."""
    chosen, killed = random.Random(17), 0
    await backup(machine, bench)
    bench.write(chosen)
    began = time.monotonic()
    assert started(machine, bench).wait() == 0
    took = time.monotonic() - began
    for _ in range(8):
        bench.write(chosen)
        killed += all_killed(machine, bench, chosen.uniform(0.2, 0.9) * took)
        wait_for_the_end_of_servers(bench)
        await nothing_is_lost(machine, bench, chosen, history=False)
    assert killed > 2
