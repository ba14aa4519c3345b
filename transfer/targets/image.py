"""Image target: one run of bytes into a file or a block device."""

import errno
import fcntl
import os
import stat as modes
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from transfer.errors import NotFound, TargetRefused, TargetUnusable
from transfer.files.directories import identity
from transfer.files.metadata import anchored
from transfer.files.system import read_from_disk
from transfer.targets import target_errors, unfinished
from transfer.targets.names import key_of, publish
from transfer.targets.zeros import make_hole, write_zeros

_BLKZEROOUT = 0x127F
_SECTOR = 512
UNUSABLE = (errno.EBUSY, errno.ETXTBSY, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ENXIO)
_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW


class ImageTarget:
    """An image that is being written through *fd*.

    A new file has a *temporary* name in the open *directory* until it is whole. *has_content*: some
    of it may be right already.
    """

    def __init__(
        self, path: bytes, fd: int, has_content: bool = False, directory: int = -1,
        temporary: bytes | None = None,
    ) -> None:  # fmt: skip
        self.path, self.fd, self.has_content = path, fd, has_content
        self.directory, self.temporary = directory, temporary

    def finish(self) -> None:
        """Return when all that was written is durable, under its name."""
        with target_errors(self.path, *UNUSABLE):
            os.fsync(self.fd)
            if self.temporary is not None:
                self._name(self.temporary)
            if self.directory >= 0:
                # Also for one that had its name already: whoever gave it may not have come so far.
                os.fsync(self.directory)

    def _name(self, temporary: bytes) -> None:
        key, name = key_of(temporary), os.path.basename(self.path)
        try:
            publish(self.directory, identity(self.fd), temporary, name, replace=False)
        except FileExistsError as error:
            raise _exists(self.path) from error
        self.temporary = None
        for left in _leftovers(self.directory, key):
            unfinished.remove(self.directory, left)

    def leave(self) -> None:
        """Leave a new file unfinished, to whoever goes on with it."""
        if self.temporary is not None:
            unfinished.leave(self.directory, self.temporary)
            self.temporary = None

    def close(self) -> None:
        """Close it; what is not finished and has no name of its own goes."""
        os.close(self.fd)
        if self.temporary is not None:
            unfinished.remove(self.directory, self.temporary)
        if self.directory >= 0:
            os.close(self.directory)


@contextmanager
def image_target(path: bytes, size: int, replace: bool, key: bytes = b"") -> Iterator[ImageTarget]:
    """*path*, to be written, with room for *size* bytes.

    A new file has a temporary name with *key*; if one is left over that bears it, that is gone on
    with.

    A symlink is refused: it may be a trap, and whoever means what it leads to can name that. Those
    in /dev are the system's own names of devices, and are followed.

    A file that is there keeps its bytes, so that equal blocks need not be written: whoever restores
    writes or zeroes all the others. Raises TargetRefused for a non-empty file or a device unless
    *replace* allows them, TargetUnusable for a device that is in use or too small.
    """
    with target_errors(path, *UNUSABLE):
        target = _open(_device_of(path), size, replace, key)
    try:
        yield target
    finally:
        target.close()


def _device_of(path: bytes) -> bytes:
    """What *path* leads to, if it is a name that udev or LVM gave to a device."""
    above, real = os.path.realpath(os.path.dirname(path)), os.path.realpath(path)
    if not os.path.islink(path) or not (above + b"/").startswith(b"/dev/"):
        return path
    is_device = os.path.exists(real) and modes.S_ISBLK(os.stat(real).st_mode)
    return real if is_device else path


def _open(path: bytes, size: int, replace: bool, key: bytes) -> ImageTarget:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return _open_new(path, size, key)
    if modes.S_ISLNK(mode):
        raise TargetRefused(f"{_shown(path)} is a symlink", "name what it leads to")
    if modes.S_ISREG(mode):
        target = ImageTarget(path, _open_file(path, size, replace), replace)
        with suppress(PermissionError):
            target.directory = _directory_of(path)
    elif modes.S_ISBLK(mode):
        target = ImageTarget(path, _open_device(path, size, replace), True)
    else:
        raise TargetRefused(f"{_shown(path)} is neither a regular file nor a block device")
    read_from_disk(target.fd)
    return target


def zero(fd: int, offset: int, length: int) -> None:
    """The range reads as zeros afterwards: a hole in a file, zeroed by the device in a device."""
    with target_errors(name_of(fd), *UNUSABLE):
        if modes.S_ISBLK(os.fstat(fd).st_mode):
            _zero_device(fd, offset, length)
        else:
            make_hole(fd, offset, length)


def name_of(fd: int) -> bytes:
    """A path of what is open, for messages."""
    return os.readlink(anchored(fd))


def _open_new(path: bytes, size: int, key: bytes) -> ImageTarget:
    """A new file, or what an interrupted restore has left of it."""
    try:
        directory = _directory_of(path)
    except FileNotFoundError as error:
        raise NotFound(
            f"{_shown(os.path.dirname(path))} does not exist",
            "make it, or name another target with --to",
        ) from error
    try:
        adopted = (unfinished.adopt(directory, each, size) for each in _leftovers(directory, key))
        found = next(filter(None, adopted), None)
        temporary, fd = found or unfinished.create_sized(directory, size, key)
    except BaseException:
        os.close(directory)
        raise
    return ImageTarget(path, fd, found is not None, directory, temporary)


def _directory_of(path: bytes) -> int:
    above = os.path.dirname(path) or b"."
    return os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _leftovers(directory: int, key: bytes) -> list[bytes]:
    return [name for name in unfinished.abandoned(directory) if key and key_of(name) == key]


def _open_file(path: bytes, size: int, replace: bool) -> int:
    fd = os.open(path, _FLAGS | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if not modes.S_ISREG(found.st_mode):
            raise TargetRefused(f"{_shown(path)} was replaced")
        if found.st_nlink != 1:
            raise TargetRefused(f"{_shown(path)} has another name too", "it may be somebody else's")
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
