"""Where the work is done: content is hashed, compressed and encrypted by workers alone."""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance import trees
from tests.acceptance.agent import Machine
from tests.acceptance.served import shell_at
from transfer.crypto import keys
from transfer.jobs import backup as backup_job
from transfer.jobs import restore as restore_job
from transfer.jobs.progress import Progress
from transfer.pipeline import sealing, tasks

LOG = "TRANSFER_TEST_LOG"


def log(what):
    with open(os.environ[LOG], "a") as file:
        file.write(f"{os.getpid()} {what}\n")


def logged():
    """[(process ID, what)] of all processes."""
    lines = Path(os.environ[LOG]).read_text().splitlines()
    return [(int(pid), what) for pid, what in map(str.split, lines)]


class Witness:
    """Passes every call on, and writes down which process made it."""

    def __init__(self, witnessed):
        self._witnessed = witnessed

    def __getattr__(self, name):
        found = getattr(self._witnessed, name)

        def call(*args, **kwargs):
            log(name)
            return found(*args, **kwargs)

        return call


class WitnessedTools(tasks.Tools):
    def __init__(self, *args):
        super().__init__(*args)
        self.sealer = Witness(self.sealer)


def witness_primitives(patch):
    """Every hash, cipher and compression of this process is written down; workers start anew."""
    for module, name in (
        (keys, "frame_id"), (sealing.Sealer, "seal_into"), (sealing.Sealer, "seal"),
        (sealing.Sealer, "id_of"), (sealing.Opener, "open"), (sealing, "AESGCM"),
    ):  # fmt: skip
        patch.setattr(module, name, telling(getattr(module, name), name))
    for name in ("ZstdCompressor", "ZstdDecompressor"):
        patch.setattr(sealing.zstandard, name, watched(getattr(sealing.zstandard, name), name))


def telling(function, name):
    def call(*args, **kwargs):
        log(name)
        return function(*args, **kwargs)

    return call


def watched(made, name):
    """Making one is harmless; using it is written down."""
    return lambda *args, **kwargs: Witness(made(*args, **kwargs))


@pytest.fixture
def source(tmp_path):
    top = tmp_path / "source"
    trees.many_files(top / "many", 300)
    trees.image(top / "large", 12 << 20)
    return top


@pytest.fixture(params=["near", pytest.param("far", marks=pytest.mark.slow)])
def agent(tmp_path, request):
    shell_at(tmp_path, request.param)
    return Machine(tmp_path, far=request.param == "far").open


@pytest.fixture
def witnessed(tmp_path, monkeypatch):
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    (tmp_path / "log").touch()
    monkeypatch.setattr(tasks, "Tools", WitnessedTools)
    return monkeypatch


def options(source, workers):
    return backup_job.BackupOptions("item", [source], workers=workers)


async def test_the_main_process_of_a_backup_neither_hashes_nor_compresses_nor_encrypts(
    agent, source, witnessed
):
    async with agent() as opened:
        witness_primitives(witnessed)
        made = await backup_job.backup(opened, options(source, 2), Progress())
    by = Counter(logged())
    mine = {what: count for (pid, what), count in by.items() if pid == os.getpid()}
    assert mine == {}
    workers = {pid for pid, _ in by}
    assert len(workers) == 2
    sealed = sum(count for (_, what), count in by.items() if what == "seal_into")
    assert sealed >= made.blocks_new + made.nodes_new > 10


async def test_the_main_process_of_a_restore_opens_the_point_and_nothing_else(
    agent, source, witnessed, tmp_path
):
    async with agent() as opened:
        await backup_job.backup(opened, options(source, 2), Progress())
        os.truncate(os.environ[LOG], 0)
        witness_primitives(witnessed)
        wanted = restore_job.RestoreOptions("item", tmp_path / "back", workers=2)
        restored = await restore_job.restore(opened, wanted, Progress())
    assert restored.files == 301
    mine = Counter(what for pid, what in logged() if pid == os.getpid())
    assert mine["open"] <= 1  # of the one point that is listed
    assert mine["seal_into"] == mine["compress"] == 0


async def test_in_threads_the_same_is_seen_in_this_process(agent, source, witnessed):
    """The witness is no bystander: it does see the work where it is done."""
    async with agent() as opened:
        witness_primitives(witnessed)
        await backup_job.backup(opened, options(source, 0), Progress())
    mine = Counter(what for pid, what in logged() if pid == os.getpid())
    for what in ("frame_id", "seal_into", "open", "AESGCM", "compress", "decompress"):
        assert mine[what] > 10, what
