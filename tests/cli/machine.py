"""Parts of the machine that a test needs in a certain state: small disks, missing rights."""

import ctypes
import os
import subprocess
from contextlib import contextmanager
from typing import NoReturn

import pytest

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_PR_CAPBSET_DROP = 24
_RIGHTS_OVER_FILES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def lacking(reason: str) -> NoReturn:
    """Skip, except where everything is said to be there."""
    if os.environ.get("TRANSFER_TESTS_ALL") and os.geteuid() == 0:
        pytest.fail(f"{reason}, and TRANSFER_TESTS_ALL is set")
    pytest.skip(reason)


def powerless() -> None:
    """In a new process, before its program starts: root may no longer do what modes forbid."""
    if os.geteuid() == 0:
        for right in _RIGHTS_OVER_FILES:
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, right, 0, 0, 0)


@contextmanager
def small_disk(path, size="1m", options=""):
    """A file system of *size* in memory at *path*, which is made."""
    path.mkdir(exist_ok=True)
    settings = f"size={size},mode=755{options}"
    with mounted("-t", "tmpfs", "-o", settings, "tmpfs", path):
        yield path


@contextmanager
def mounted(*words):
    """What `mount` makes of *words*, of which the last is where."""
    try:
        subprocess.run(["mount", *words], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lacking(f"nothing can be mounted here: {getattr(error, 'stderr', error)}")
    try:
        yield words[-1]
    finally:
        subprocess.run(["umount", "-l", words[-1]], check=True)


def make_read_only(path):
    """From now on nothing can be written to what is mounted at *path*."""
    subprocess.run(["mount", "-o", "remount,ro", path], check=True)


def fill(path, leave=0):
    """Write a file that takes all space of the disk at *path* but *leave* bytes."""
    free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize - leave
    with open(path / "filler", "wb", buffering=0) as file:
        while free > 0:
            try:
                free -= file.write(bytes(min(free, 2**16)))
            except OSError:
                return


@contextmanager
def loop_device(path, size):
    """A block device over a new file at *path*."""
    with open(path, "wb") as file:
        file.truncate(size)
    try:
        made = subprocess.run(
            ["losetup", "--find", "--show", path],
            check=True, capture_output=True, text=True, env={**os.environ, "PATH": PATH},
        )  # fmt: skip
    except OSError:
        lacking("losetup is missing (Debian: apt install mount)")
    except subprocess.CalledProcessError as error:
        # A kernel without the loop driver has none, whoever asks and whatever is installed.
        pytest.skip(f"this kernel gives no loop devices: {error.stderr.strip()}")
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(
            ["losetup", "--detach", device], check=True, env={**os.environ, "PATH": PATH}
        )
