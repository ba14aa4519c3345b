"""Scratch directories: gone at the end; what a killed process left goes when the next begins."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from transfer.errors import TargetUnusable
from transfer.files.scratch import scratch

PROGRAM = """
import os, signal, sys
from transfer.files.scratch import scratch
with scratch("transfer-test-") as top:
    (top / "deep").mkdir()
    (top / "deep" / "file").write_text("x")
    os.chmod(top / "deep", 0)
    print(top, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def living(place):
    """A process with a scratch directory: a line to its stdin kills it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    with process:
        process.top = Path(process.stdout.readline().strip())
        yield process
        process.kill()


def test_it_is_gone_at_the_end_whatever_was_made_in_it(place):
    with scratch("transfer-test-") as top:
        assert top.parent == place
        assert top.stat().st_mode & 0o777 == 0o700
        (top / "a" / "b").mkdir(parents=True)
        (top / "a" / "b").chmod(0)
        (top / "link").symlink_to(place)
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(living):
    with scratch("transfer-test-") as top:
        assert living.top.exists()
    living.stdin.write("\n")
    living.stdin.flush()
    assert living.wait() == -signal.SIGKILL
    assert living.top.exists()
    with scratch("transfer-other-"):
        assert living.top.exists()
    with scratch("transfer-test-") as other:
        assert sorted(other.parent.iterdir()) == [other]
    assert top != other


def test_what_bears_the_name_and_is_no_directory_of_ours_stays(place):
    (place / "transfer-test-file").touch()
    (place / "elsewhere").mkdir()
    (place / "transfer-test-link").symlink_to(place / "elsewhere")
    if os.geteuid() == 0:
        (place / "transfer-test-others").mkdir()
        os.chown(place / "transfer-test-others", 12345, -1)
    before = sorted(place.iterdir())
    with scratch("transfer-test-"):
        pass
    assert sorted(place.iterdir()) == before


def test_one_that_was_swept_before_it_was_locked_is_made_again(place, monkeypatch):
    import fcntl

    real, swept = fcntl.flock, []

    def flock(fd, how):
        if not swept:
            swept.append(os.readlink(f"/proc/self/fd/{fd}"))
            os.rmdir(swept[0])
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with scratch("transfer-test-") as top:
        assert top.exists()
        assert str(top) != swept[0]


def test_a_place_that_is_not_there_is_an_error_that_says_what_to_do(place, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(place / "missing"))
    with pytest.raises(TargetUnusable) as refused, scratch("transfer-test-"):
        pass
    assert "TMPDIR" in refused.value.hint


def test_a_place_without_locks_is_an_error_and_keeps_nothing(place, monkeypatch):
    def flock(fd, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(TargetUnusable, match="No locks"), scratch("transfer-test-"):
        pass
    assert list(place.iterdir()) == []
