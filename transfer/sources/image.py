"""Images: a regular file or a block device, read as one run of bytes."""

import os
import stat as modes
from typing import NamedTuple

from transfer.errors import NotFound, UsageError
from transfer.files.metadata import Stat, to_stat
from transfer.files.system import stamps_mapped_writes
from transfer.sources.handles import file_handle


def open_image(path: bytes) -> int:
    """A descriptor to read the image. Raises NotFound, and UsageError for what is no image."""
    shown = os.fsdecode(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"{shown}: no such file or device") from error
    except OSError as error:
        raise UsageError(f"{shown}: {error.strerror}") from error
    mode = os.fstat(fd).st_mode
    if modes.S_ISREG(mode) or modes.S_ISBLK(mode):
        return fd
    os.close(fd)
    raise UsageError(f"{shown} is neither a regular file nor a block device")


class Settled(NamedTuple):
    """An image once all that was written to it is on its disk.

    *is_stamped*: its ctime tells whether it was written since.
    """

    status: os.stat_result
    size: int
    handle: bytes
    is_stamped: bool


def settled_image(path: bytes) -> Settled:
    fd = open_image(path)
    try:
        os.fsync(fd)
        status = os.fstat(fd)
        # What a device's inode says is not about its content.
        stamped = modes.S_ISREG(status.st_mode) and stamps_mapped_writes(fd)
        return Settled(status, os.lseek(fd, 0, os.SEEK_END), file_handle(fd, b""), stamped)
    finally:
        os.close(fd)


def describe_image(path: bytes | int) -> Stat:
    """How the image, by path or descriptor, is now; *size* is a device's size, too.

    Another value later means that it changed; of a device the same value proves nothing.
    """
    fd = open_image(path) if isinstance(path, bytes) else path
    try:
        return to_stat(os.fstat(fd))._replace(size=os.lseek(fd, 0, os.SEEK_END))
    finally:
        if isinstance(path, bytes):
            os.close(fd)
