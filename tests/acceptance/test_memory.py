"""Memory of a whole run, all its processes: at most 128 MiB and 64 MiB for each worker."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from perf.pss import Sampler
from tests.acceptance import trees
from tests.acceptance.needs import space
from tests.acceptance.shell import Shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MIB = 2**20


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


def within_budget(top, workers, *words):
    """Run with so many workers; says what it took. Threads (0 workers) are two."""
    shell = Shell(top)
    process = shell.start(*words, "--workers", workers)
    with Sampler(process.pid) as sampler:
        answer = shell.finish(process)
    limit = 128 + 64 * workers
    print(f"{words[0]} with {workers} workers: {sampler.peak / MIB:.0f} of {limit} MiB")
    assert 0 < sampler.peak <= limit * MIB
    return answer


def empty(place, name):
    shutil.rmtree(place / name, ignore_errors=True)
    (place / name).mkdir()
    return place / name


@pytest.mark.parametrize(
    ("workers", "also"), [(0, []), (1, ["restore"]), (2, ["verify", "restore"])]
)
def test_a_disk_of_4_gib(place, disk, workers, also):
    top = empty(place, "work")
    made = within_budget(top, workers, "backup", "disk", disk)
    assert made["bytes_read"] == 4 << 30
    for command in also:
        where = ["--to", top / "back"] if command == "restore" else []
        within_budget(top, workers, command, "disk", *where)
    if "restore" in also:
        assert os.stat(top / "back").st_size == 4 << 30


@pytest.mark.parametrize(
    ("workers", "also"), [(0, []), (1, ["verify"]), (2, ["backup", "verify", "restore"])]
)
def test_100_000_files(place, tree, workers, also):
    top = empty(place, "work")
    made = within_budget(top, workers, "backup", "tree", tree)
    assert made["files"] == 100_000
    where = {"backup": [tree], "verify": [], "restore": ["--to", top / "back"]}
    for command in also:
        within_budget(top, workers, command, "tree", *where[command])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_sparse_disk_of_1_tib(place, huge, workers):
    top = empty(place, "work")
    made = within_budget(top, workers, "backup", "huge", huge)
    assert made["blocks_new"] == 5
    within_budget(top, workers, "backup", "huge", huge)
    within_budget(top, workers, "verify", "huge")
    within_budget(top, workers, "restore", "huge", "--to", top / "back")
    assert os.stat(top / "back").st_size == 1 << 40
    assert os.stat(top / "back").st_blocks * 512 <= 16 * MIB
