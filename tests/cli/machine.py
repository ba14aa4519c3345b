"""Parts of the machine that a test needs in a certain state: small disks, missing rights."""

import ctypes
import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import NoReturn

import pytest

from transfer.files.system import punch_hole

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


class FailingDisk:
    """A file system at *top* that takes all writes, and loses those into one MiB of its device."""

    def __init__(self, top, device, filler):
        self.top, self._device, self._filler = top, device, filler

    def repair(self):
        self._filler.unlink()

    def mount(self):
        subprocess.run(["mount", self._device, self.top], check=True)

    def unmount(self):
        subprocess.run(["umount", self.top], check=True)


@contextmanager
def failing_disk(path, size=24 * 2**20):
    """The device is a file that has a hole, on a disk that is full; the hole is in the middle."""
    make = shutil.which("mkfs.ext4", path=PATH)
    if make is None:
        lacking("mkfs.ext4 is missing (Debian: apt install e2fsprogs)")
    top = path.with_name(f"{path.name}-mounted")
    top.mkdir()
    with small_disk(path, size=f"{size // 2**20 + 1}m") as below:
        image = below / "image"
        image.write_bytes(bytes(size))
        options = ["-q", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=0"]
        subprocess.run([make, *options, image], check=True)
        with image.open("r+b") as file:
            punch_hole(file.fileno(), size // 2, 2**20)
        fill(below)
        with loop_device(image) as device:
            disk = FailingDisk(top, device, below / "filler")
            disk.mount()
            try:
                yield disk
            finally:
                disk.unmount()


@contextmanager
def loop_device(path, size=None, sector=512):
    """A block device over a file at *path*: a new one of that *size*, or the one that is there.

    It has logical sectors of *sector* bytes, and as many of them as are whole.
    """
    if size is not None:
        with open(path, "wb") as file:
            file.truncate(size)
    try:
        made = subprocess.run(
            ["losetup", "--find", "--show", "--sector-size", str(sector), path],
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
