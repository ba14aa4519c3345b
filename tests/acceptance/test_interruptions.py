"""Killed or stopped at any moment: the next run works at once, and nothing is left behind."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.acceptance import trees
from tests.acceptance.compare import differences
from tests.acceptance.shell import Shell, alive, children, kill
from transfer.targets.names import key_of

PATIENCE = 1.0  # seconds that a worker has after its parent's death
SEEDS = [
    *range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5)),
    *(pytest.param(seed, marks=pytest.mark.hours) for seed in range(5, 12)),
]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    top = tmp_path_factory.mktemp("interruptions") / "source"
    trees.many_files(top / "many", 1500)
    trees.image(top / "large", 48 << 20)
    return top


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """A shell whose vault has the source, and how long that took."""
    shell = Shell(tmp_path_factory.mktemp("finished"), forks=False)  # as what is killed is started
    started = time.monotonic()
    shell("backup", "item", source)
    return shell, time.monotonic() - started


def shared_memory():
    return set(os.listdir("/dev/shm"))


def wait_until_gone(pids, patience):
    end = time.monotonic() + patience
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.005)
    return not any(map(alive, pids))


def after(process, seconds):
    """The processes below *process* when so much time has passed; it may have ended."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    return children(process.pid)


def left_overs(top):
    """Temporary files: hidden by a dot, all of ours."""
    return [path for path in top.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.timeout(300)
def test_after_kill_9_the_next_backup_works_at_once_and_restores(source, finished, tmp_path, seed):
    shell, before = Shell(tmp_path), shared_memory()
    moments = random.Random(f"kill -9 {seed}")
    for _ in range(moments.randrange(1, 4)):
        process = shell.start("backup", "item", source)
        workers = after(process, moments.uniform(0, finished[1]))
        kill(process.pid)
        shell.finish(process, None)
        assert wait_until_gone(workers, PATIENCE)
    again = shell("backup", "item", source)
    assert again["warnings"] == []
    assert shell("vault", "verify", tmp_path / "vault", plain=True)["damaged"] == []
    shell("restore", "item", "--to", tmp_path / "back")
    assert differences(source, tmp_path / "back" / "source") == []
    assert shared_memory() <= before


@pytest.mark.parametrize("command", ["backup", "restore", "verify"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_workers_cost_a_retry_and_not_the_run(source, finished, tmp_path, command, seed):
    words = {
        "backup": ("item", source, "--full"),
        "restore": ("item", "--to", tmp_path / "back"),
        "verify": ("item",),
    }[command]
    shell = Shell(tmp_path) if command == "backup" else finished[0]
    # Two: where a worker takes long to start, a third may meet a call that was lost with both.
    moments, killed = random.Random(f"workers {command} {seed}"), 0
    process = shell.start(command, *words)
    while process.poll() is None:
        if not children(process.pid):
            time.sleep(0.005)  # a run that is short must not end before its first kill
            continue
        workers = after(process, moments.uniform(0.1, 0.4) if killed else moments.uniform(0, 0.1))
        killed += bool(workers) and killed < 2 and kill(moments.choice(workers))
    result = shell.finish(process)
    assert killed
    assert result["warnings"] == []
    shell("restore", "item", "--to", tmp_path / "back", "--overwrite", "changed")
    assert differences(source, tmp_path / "back" / "source") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_signal_ends_a_run_with_130_and_leaves_only_what_it_goes_on_with(
    source, finished, tmp_path, command, number
):
    words = ("item", source) if command == "backup" else ("item", "--to", tmp_path / "back")
    shell = Shell(tmp_path) if command == "backup" else finished[0]
    process = shell.start(command, *words)
    while process.poll() is None and not under_way(tmp_path):
        time.sleep(0.005)
    workers = children(process.pid)
    process.send_signal(number)
    answer = shell.finish(process, 130)
    assert answer["exit"] == 130
    assert workers
    assert wait_until_gone(workers, PATIENCE)
    if command == "backup":
        assert left_overs(tmp_path) == []
        assert shell("backup", "item", source)["files"] > 1500
    else:
        assert all(key_of(os.fsencode(path.name)) for path in left_overs(tmp_path))
        shell("restore", *words)
        assert left_overs(tmp_path) == []
        assert differences(source, tmp_path / "back" / "source") == []


def under_way(top):
    """Some content has arrived where the command puts it."""
    places = [top / "vault" / "packs", top / "back"]
    found = (path.stat() for place in places for path in place.rglob("*") if not path.is_dir())
    try:
        return sum(stat.st_size for stat in found) > 10 << 20
    except FileNotFoundError:  # it just got its own name
        return False


def test_a_restore_that_was_killed_is_done_again(source, finished, tmp_path):
    shell = finished[0]
    process = shell.start("restore", "item", "--to", tmp_path / "back")
    while process.poll() is None and not under_way(tmp_path):
        time.sleep(0.005)
    workers = children(process.pid)
    kill(process.pid)
    shell.finish(process, None)
    assert workers
    assert wait_until_gone(workers, PATIENCE)
    shell("restore", "item", "--to", tmp_path / "back", "--overwrite", "changed")
    found = differences(source, tmp_path / "back" / "source")
    assert [each for each in found if each.what != "extra"] == []
    assert found == []


def test_the_second_of_two_runs_ends_at_once_and_names_the_first(source, tmp_path):
    shell = Shell(tmp_path)
    first = shell.start("backup", "item", source)
    while first.poll() is None and not under_way(tmp_path):
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)  # it must not end before the second has begun
    started = time.monotonic()
    answer = shell("backup", "item", source, expect=75)
    assert time.monotonic() - started < 5
    assert f"process {first.pid} " in answer["error"]["message"]
    first.send_signal(signal.SIGCONT)
    shell.finish(first)
    assert len(shell("points", "item")["points"]) == 1


def test_nothing_temporary_is_left_by_runs_that_end(finished):
    assert left_overs(finished[0].top) == []
    assert Path("/dev/shm").is_dir()
