"""`transfer try`: all comes back, nothing stays, and what differs is told from what changed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.acceptance.forked import forked
from tests.cli.conftest import contents
from tests.cli.machine import powerless, small_disk
from transfer.jobs.memory import with_children

MIB = 2**20


class Trying:
    """`transfer try` with a TMPDIR of its own and a home that is empty."""

    def __init__(self, top):
        self.tmp, self.home = top / "tmp", top / "home"
        self.tmp.mkdir()
        self.home.mkdir()

    def start(self, *words, before=None):
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.tmp)}
        return subprocess.Popen(
            [sys.executable, "-m", "transfer", "try", *map(str, words)], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before,
        )  # fmt: skip

    def finish(self, process):
        """(exit code, stdout, stderr), and nothing is left."""
        out, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        assert list(self.tmp.iterdir()) == []
        assert list(self.home.iterdir()) == []
        return process.returncode, out, errors

    def __call__(self, *words, before=None):
        """(exit code, the JSON object)."""
        code, out, errors = self.finish(self.start(*words, "--json", before=before))
        answer = json.loads(out)
        assert answer["exit"] == code, errors
        return code, answer

    def vault(self):
        """The vault's directory, as soon as there is one."""
        return wait_for(lambda: next(self.tmp.glob("*/vault/address.json"), None)).parent


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def server_of(process):
    """The process ID of the embedded vault's server."""

    def found():
        for pid in with_children(process.pid)[1:]:
            if b"serve\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    return wait_for(found)


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def trying(tmp_path):
    return Trying(tmp_path)


def stats(top):
    """All that a stat tells of files: a look at them changes none of it."""
    return {path: path.lstat() for path in top.rglob("*") if path.is_file()}


def test_a_tree_comes_back_the_same_and_nothing_is_changed_or_left(trying, tree):
    for path in stats(tree):
        os.utime(path, ns=(1, 10**18 + 1), follow_symlinks=False)
    before = contents(tree), {path: stat.st_atime_ns for path, stat in stats(tree).items()}
    code, answer = trying(tree)
    assert (code, answer["same"], answer["whole"], answer["warnings"]) == (0, True, True, [])
    assert (answer["files"], answer["damaged"], answer["differences_total"]) == (6, [], 0)
    assert 6 * MIB < answer["bytes_stored"] <= answer["bytes_sent"] <= answer["bytes_read"]
    assert answer["ratio"] == round(answer["bytes_source"] / answer["bytes_stored"], 2)
    for step in ("backup", "restore"):
        speed = answer["bytes_source"] / answer[f"{step}_seconds"]
        assert answer[f"{step}_speed"] == pytest.approx(speed, rel=0.01)
    assert all(20 * MIB < answer[f"memory_{who}"] < 500 * MIB for who in ("client", "server"))
    atimes = {path: stat.st_atime_ns for path, stat in stats(tree).items() if not path.is_symlink()}
    assert (contents(tree), before[1] | atimes) == before


def test_an_image_comes_back_and_what_to_type_next_is_said(trying, tmp_path):
    image = tmp_path / "a disk"
    image.write_bytes(os.urandom(2 * MIB + 7))
    os.truncate(image, 64 * MIB)
    code, out, errors = trying.finish(trying.start(image, "--workers", 0))
    assert (code, errors) == (0, "")
    for line in ("1 file, 64.0 MiB", "memory", "the same:", "transfer register credential.json",
                 f"transfer backup a-disk '{image}'"):  # fmt: skip
        assert line in out


def test_what_cannot_be_read_is_named_and_is_no_difference(trying, tree):
    (tree / "small").chmod(0)
    (tree / "deep" / "deeper").chmod(0)
    code, answer = trying(tree, "--workers", 0, before=powerless)
    (tree / "deep" / "deeper").chmod(0o755)
    assert (code, answer["same"], answer["differences"]) == (3, True, [])
    named = {each["path"] for each in answer["warnings"] if each["code"] == "unreadable"}
    assert named == {str(tree / name) for name in ("small", "hard", "deep/deeper")}


def test_what_changes_meanwhile_is_told_from_what_differs(trying, tree):
    (tree / "last").write_bytes(os.urandom(MIB))
    process = trying.start(tree, "--workers", 0, "--up", "6M", "--json")
    trying.vault()
    done = threading.Event()

    def write():
        with (tree / "log").open("a") as log:
            while not done.wait(0.01):
                print("another line", file=log, flush=True)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        code, out, errors = trying.finish(process)
    finally:
        done.set()
        writing.join()
    answer = json.loads(out)
    assert (code, answer["same"], answer["differences"]) == (3, True, []), errors
    assert str(tree / "log") in {each["path"] for each in answer["warnings"]}


@pytest.mark.parametrize("kind", ["tree", pytest.param("image", marks=pytest.mark.slow)])
def test_what_comes_back_otherwise_is_named_and_ends_with_65(tree, tmp_path, kind, monkeypatch):
    from transfer.pipeline import write_tasks
    from transfer.targets import tree as targets

    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(targets, "set_metadata", lambda *_: [])
    monkeypatch.setattr(write_tasks, "write_image", lambda lane, held, frames, holes: [])
    path = tree if kind == "tree" else tree / "deep" / "large"
    code, out, errors = forked(["try", str(path), "--workers", "0", "--json"])
    answer = json.loads(out)
    assert (code, answer["exit"], answer["same"]) == (65, 65, False), errors
    found = {(each["path"], each["what"]) for each in answer["differences"]}
    if kind == "tree":
        assert {(str(tree / "deep"), "times"), (str(tree / "small"), "mode")} <= found
    else:
        assert found == {(str(path), "content")}
    assert list((tmp_path / "tmp").iterdir()) == []


def test_of_what_does_not_fit_the_first_files_are_tried(trying, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"{number:02}").write_bytes(os.urandom(MIB // 2))
    (source / "00 large").write_bytes(os.urandom(8 * MIB))
    with small_disk(trying.tmp, "18m"):
        code, answer = trying(source, "--workers", 0)
        assert (code, answer["same"], answer["whole"]) == (0, True, False)
        assert 5 <= answer["files"] <= 12
        code, out, _ = trying.finish(trying.start(source / "00 large", "--json"))
        error = json.loads(out)["error"]
    assert (code, error["code"]) == (75, "no-space")
    assert "TMPDIR" in error["hint"]


def test_its_own_files_are_no_part_of_what_is_tried(trying, tmp_path):
    (tmp_path / "file").write_text("of ours")
    code, answer = trying(tmp_path, "--workers", 0)
    assert (code, answer["same"], answer["files"]) == (0, True, 1)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_a_signal_ends_it_and_nothing_is_left(trying, tree, number):
    process = trying.start(tree, "--workers", 0, "--up", "100K", "--json")
    trying.vault()
    server = server_of(process)
    process.send_signal(number)
    code, out, _ = trying.finish(process)
    assert (code, json.loads(out)["error"]["code"]) == (130, "interrupted")
    assert has_ended(server)


def test_a_server_that_is_lost_ends_it_and_nothing_is_left(trying, tree):
    process = trying.start(tree, "--workers", 0, "--up", "100K", "--json")
    trying.vault()
    began = time.monotonic()
    os.kill(server_of(process), signal.SIGKILL)
    code, out, _ = trying.finish(process)
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (75, "vault-unavailable")
    assert "embedded vault's server ended with status -9" in error["message"]
    assert time.monotonic() - began < 20


def test_a_server_without_its_parent_ends_by_itself(trying, tree):
    process = trying.start(tree, "--workers", 0, "--up", "100K")
    trying.vault()
    server = server_of(process)
    process.kill()
    process.communicate()
    wait_for(lambda: has_ended(server), 10)


@pytest.mark.parametrize("path", ["missing", "fifo"])
def test_a_path_that_cannot_be_tried_is_64(trying, tmp_path, path):
    os.mkfifo(tmp_path / "fifo")
    code, out, errors = trying.finish(trying.start(tmp_path / path, "--json"))
    assert (code, json.loads(out)["exit"]) == (64, 64)
    assert path in errors
