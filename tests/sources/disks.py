"""File systems of a kind that a test needs, each on a disk of its own. Only root makes them."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.needs import tool
from tests.cli.machine import PATH, lacking, mounted
from transfer.sources.reflink import clone

_PACKAGES = {"xfs": "xfsprogs", "btrfs": "btrfs-progs", "ext4": "e2fsprogs"}
_SIZE = 400 * 2**20  # mkfs.xfs makes none below 300 MiB; what is not written takes no space


@contextmanager
def file_system(path, kind, *make, options="noatime"):
    """An empty *kind* at *path*, which is made, of `mkfs` with the options *make*."""
    image = make_image(path.with_name(f"{path.name}.image"), kind, *make)
    path.mkdir()
    with mounted("-t", kind, "-o", f"loop,{options}", image, path):
        yield path
    image.unlink()


def make_image(path, kind, *make):
    """A file that holds an empty *kind*, to be mounted with `-o loop`."""
    _kernel_has(kind)
    with open(path, "wb") as file:
        file.truncate(_SIZE)
    words = [tool(f"mkfs.{kind}", _PACKAGES[kind]), "-q", *make, path]
    subprocess.run(words, check=True, capture_output=True)
    return path


def _kernel_has(kind):
    if os.geteuid() != 0:
        lacking("only root mounts images of file systems")
    if not Path("/dev/loop-control").exists():
        pytest.skip("this kernel gives no loop devices")
    if kind not in Path("/proc/filesystems").read_text().split():
        # The module's own tool may be missing as well: what counts is what the kernel has then.
        os.system(f"PATH={PATH} modprobe {kind} 2> /dev/null")
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {kind}")


class Files:
    """Those in the directory *top* that a test opens; it closes all of them."""

    def __init__(self, top):
        self.top, self._open = top, []
        self.fd = self.keep(os.open(top, os.O_RDONLY | os.O_DIRECTORY))

    def open(self, name, content=None):
        """A descriptor to read and write it, with *content* if it is to be made."""
        if content is not None:
            (self.top / name).write_bytes(content)
        return self.keep(os.open(self.top / name, os.O_RDWR))

    def clone(self, source, name):
        return self.keep(clone(source, self.fd, os.fsencode(name)))

    def close(self):
        while self._open:
            os.close(self._open.pop())

    def keep(self, fd):
        self._open.append(fd)
        return fd


@contextmanager
def opened(top):
    files = Files(top)
    try:
        yield files
    finally:
        files.close()


def content(fd):
    return os.pread(fd, os.fstat(fd).st_size, 0)
