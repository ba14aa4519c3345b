"""Writing so that it stays: bytes, names and directories are on the disk when a call returns.

Directories are 0700, files 0600.
"""

import errno
import os
from pathlib import Path

from transfer.errors import NoSpace, NotStored
from transfer.files.direct import write_all

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def not_stored(error: OSError, what: str) -> NotStored | NoSpace:
    if error.errno in _FULL:
        return NoSpace(f"the vault's disk is full: {what}", "make room, then run again")
    return NotStored(f"{what} could not be written: {error.strerror}", "look at the vault's disk")


def make_directory(path: Path) -> None:
    """Make *path* and its parents, each durable in its own parent."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create(path: Path) -> int:
    """A descriptor of a new file; FileExistsError for anything of that name."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def write_durably(path: Path, raw: bytes) -> None:
    """Put *raw* under *path*: entirely or not at all, and durable on return."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = create(temporary)
    try:
        try:
            write_all(descriptor, raw, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
