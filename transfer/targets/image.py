"""Image target: one run of bytes into a file or a block device."""

import errno
import fcntl
import os
import stat as modes
import struct

from transfer.errors import TargetRefused, TargetUnusable
from transfer.formats.reference import Buffer
from transfer.targets import target_errors
from transfer.targets.zeros import make_hole, write_all, write_zeros

_BLKZEROOUT = 0x127F
_SECTOR = 512
_UNUSABLE = (errno.EBUSY, errno.ETXTBSY, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ENXIO)
_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC


def open_image_target(path: bytes, size: int, replace: bool) -> int:
    """A descriptor of *path*, which has room for *size* bytes.

    A file that is there keeps its bytes, so that equal blocks need not be written: whoever
    restores writes or zeroes all the others. Raises TargetRefused for a non-empty file or a device
    unless *replace* allows them, TargetUnusable for a device that is in use or too small.
    """
    with target_errors(path, *_UNUSABLE):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            return _create(path, size)
        if modes.S_ISREG(mode):
            return _open_file(path, size, replace)
        if modes.S_ISBLK(mode):
            return _open_device(path, size, replace)
        raise TargetRefused(f"{_shown(path)} is neither a regular file nor a block device")


def write_block(fd: int, offset: int, view: Buffer) -> None:
    with target_errors(b"image", *_UNUSABLE):
        write_all(fd, offset, memoryview(view))


def zero(fd: int, offset: int, length: int) -> None:
    """The range reads as zeros afterwards: a hole in a file, zeroed by the device in a device."""
    with target_errors(b"image", *_UNUSABLE):
        if modes.S_ISBLK(os.fstat(fd).st_mode):
            _zero_device(fd, offset, length)
        else:
            make_hole(fd, offset, length)


def finish(fd: int) -> None:
    """Return when all that was written is durable."""
    with target_errors(b"image", *_UNUSABLE):
        os.fsync(fd)


def _create(path: bytes, size: int) -> int:
    fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.ftruncate(fd, size)
        _sync_directory(os.path.dirname(path) or b".")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sync_directory(path: bytes) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_file(path: bytes, size: int, replace: bool) -> int:
    fd = os.open(path, _FLAGS | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if not modes.S_ISREG(found.st_mode):
            raise TargetRefused(f"{_shown(path)} was replaced")
        if found.st_size and not replace:
            raise _exists(path)
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_device(path: bytes, size: int, replace: bool) -> int:
    if not replace:
        raise _exists(path)
    fd = os.open(path, _FLAGS | os.O_EXCL)  # EBUSY while it is mounted or part of something
    try:
        room = os.lseek(fd, 0, os.SEEK_END)
        if not modes.S_ISBLK(os.fstat(fd).st_mode) or room < size:
            raise TargetUnusable(f"{_shown(path)} has {room} bytes, {size} are needed")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _zero_device(fd: int, offset: int, length: int) -> None:
    """All whole sectors at once; what is left at the ends is written."""
    first, last = -(-offset // _SECTOR) * _SECTOR, (offset + length) // _SECTOR * _SECTOR
    if first >= last:
        return write_zeros(fd, offset, length)
    # The device must not write cached blocks over its zeros later.
    os.fdatasync(fd)
    try:
        fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("=QQ", first, last - first))
    except OSError as error:
        if error.errno == errno.EIO:
            raise
        write_zeros(fd, first, last - first)
    write_zeros(fd, offset, first - offset)
    write_zeros(fd, last, offset + length - last)


def _exists(path: bytes) -> TargetRefused:
    return TargetRefused(
        f"{_shown(path)} is there and not empty", "`--overwrite changed` or `always` allows it"
    )


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
