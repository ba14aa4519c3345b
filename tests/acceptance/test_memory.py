"""Memory of a run, all its processes: at most 128 MiB and 64 MiB for each worker; and of the server
that it talks to: at most 256 MiB.

Only over HTTPS. Source, workers and target are the same with a near vault, whose writer holds less
in this process than connections and their TLS do.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from perf.pss import Sampler
from tests.acceptance import trees
from tests.acceptance.needs import space
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MIB = 2**20


def hours(*values):
    return pytest.param(*values, marks=pytest.mark.hours)


@pytest.fixture(scope="module")
def place():
    path = Path(tempfile.mkdtemp(prefix="transfer-memory-"))
    space(path, 16 << 30)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def disk(place):
    return trees.image(place / "disk", 4 << 30)


@pytest.fixture(scope="module")
def tree(place):
    """100,000 files: most of them in little directories, many in one."""
    top = trees.many_files(place / "tree", 70_000)
    (top / "flat").mkdir()
    for number in range(30_000):
        (top / "flat" / f"one of very many files, number {number:06}").touch()
    return top


@pytest.fixture(scope="module")
def huge(place):
    """A disk of 1 TiB with little in it, at both ends and here and there."""
    path = place / "huge"
    with path.open("wb") as file:
        for at in (0, 1 << 30, 300 << 30, 301 << 30, (1 << 40) - 5000):
            file.seek(at)
            file.write(trees.noise(at, 5000))
    return path


class Watched:
    """A machine and a server, whose memory is watched while a command runs."""

    def __init__(self, top, workers, connections):
        self.top = top
        self._limit = 128 + 64 * workers
        self._options = ["--workers", workers, "--connections", connections]
        self._shell, self._server = Shell(top, far=True, forks=False), Server(top / "vault").start()
        self._server.register(self._shell)

    def run(self, *words):
        """Says what it took. Threads (0 workers) are two."""
        process = self._shell.start(*words, *self._options)
        with Sampler(process.pid) as run, Sampler(self._server.process.pid) as server:
            answer = self._shell.finish(process)
        took = f"{run.peak / MIB:.0f} of {self._limit} MiB, server {server.peak / MIB:.0f} of 256"
        print(words[0], *self._options, took)
        assert 0 < run.peak <= self._limit * MIB, took
        assert 0 < server.peak <= 256 * MIB, took
        return answer


@pytest.fixture
def watched(place, workers, connections):
    """Whatever it stored goes with the test: there is room for one at a time."""
    (place / "work").mkdir()
    yield Watched(place / "work", workers, connections)
    shutil.rmtree(place / "work")


@pytest.mark.parametrize(
    ("workers", "connections", "also"),
    [(0, 4, []), hours(1, 64, ["restore"]), (2, 64, ["verify", "restore"])],
)
def test_a_disk_of_4_gib(watched, disk, also):
    assert watched.run("backup", "disk", disk)["bytes_read"] == 4 << 30
    back = watched.top / "back"
    for command in also:
        watched.run(command, "disk", *(["--to", back] if command == "restore" else []))
    if "restore" in also:
        assert os.stat(back).st_size == 4 << 30


@pytest.mark.parametrize(
    ("workers", "connections", "also"),
    [(0, 4, ["restore"]), hours(1, 64, ["verify"]), hours(2, 64, ["backup", "verify", "restore"])],
)
def test_100_000_files(watched, tree, also):
    assert watched.run("backup", "tree", tree)["files"] == 100_000
    words = {"backup": [tree], "verify": [], "restore": ["--to", watched.top / "back"]}
    for command in also:
        watched.run(command, "tree", *words[command])


@pytest.mark.parametrize(("workers", "connections"), [(0, 4), hours(1, 4), (2, 64)])
def test_a_sparse_disk_of_1_tib(watched, huge):
    assert watched.run("backup", "huge", huge)["blocks_new"] == 5
    watched.run("backup", "huge", huge)
    watched.run("verify", "huge")
    back = watched.top / "back"
    watched.run("restore", "huge", "--to", back)
    assert os.stat(back).st_size == 1 << 40
    assert os.stat(back).st_blocks * 512 <= 16 * MIB
