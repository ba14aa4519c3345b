"""Image target: one run of bytes into a file or a block device."""

import errno
import fcntl
import os
import stat as modes
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from transfer.errors import NotFound, TargetRefused, TargetUnusable
from transfer.files.metadata import anchored
from transfer.formats.reference import Buffer
from transfer.targets import target_errors
from transfer.targets.names import (
    UNFINISHED,
    is_abandoned,
    key_of,
    publish,
    temporary_name,
    unowned,
)
from transfer.targets.zeros import make_hole, write_all, write_zeros

_BLKZEROOUT = 0x127F
_SECTOR = 512
_UNUSABLE = (errno.EBUSY, errno.ETXTBSY, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ENXIO)
_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW


class ImageTarget:
    """An image that is being written through *fd*; a new file has a *temporary* name until then.

    *has_content*: some of it may be right already.
    """

    def __init__(
        self, path: bytes, fd: int, temporary: bytes | None = None, has_content: bool = False
    ) -> None:
        self.path, self.fd, self.temporary, self.has_content = path, fd, temporary, has_content

    def finish(self) -> None:
        """Return when all that was written is durable, under its name."""
        with target_errors(self.path, *_UNUSABLE):
            os.fsync(self.fd)
            if self.temporary is None:
                return
            above, name = os.path.split(self.path)
            directory = os.open(above or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                key = key_of(self.temporary)
                publish(directory, self.fd, self.temporary, name, replace=False)
                self.temporary = None
                for left in map(os.fsencode, os.listdir(directory)):
                    if key and key_of(left) == key and is_abandoned(left):
                        os.unlink(left, dir_fd=directory)
                os.fsync(directory)
            except FileExistsError as error:
                raise _exists(self.path) from error
            finally:
                os.close(directory)

    def leave(self) -> None:
        """Leave a new file unfinished, to whoever goes on with it."""
        if self.temporary is not None:
            above = os.path.dirname(self.path)
            with suppress(OSError):
                os.rename(
                    os.path.join(above, self.temporary),
                    os.path.join(above, unowned(self.temporary)),
                )
            self.temporary = None

    def close(self) -> None:
        """Close it; what is not finished and has no name of its own goes."""
        os.close(self.fd)
        if self.temporary is not None:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(os.path.dirname(self.path), self.temporary))


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
    with target_errors(path, *_UNUSABLE):
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
        return _adopted(path, size, key) or _create(path, size, key)
    if modes.S_ISLNK(mode):
        raise TargetRefused(f"{_shown(path)} is a symlink", "name what it leads to")
    if modes.S_ISREG(mode):
        return ImageTarget(path, _open_file(path, size, replace), has_content=replace)
    if modes.S_ISBLK(mode):
        return ImageTarget(path, _open_device(path, size, replace), has_content=True)
    raise TargetRefused(f"{_shown(path)} is neither a regular file nor a block device")


def write_block(fd: int, offset: int, view: Buffer) -> None:
    with target_errors(_name_of(fd), *_UNUSABLE):
        write_all(fd, offset, memoryview(view))


def zero(fd: int, offset: int, length: int) -> None:
    """The range reads as zeros afterwards: a hole in a file, zeroed by the device in a device."""
    with target_errors(_name_of(fd), *_UNUSABLE):
        if modes.S_ISBLK(os.fstat(fd).st_mode):
            _zero_device(fd, offset, length)
        else:
            make_hole(fd, offset, length)


def _name_of(fd: int) -> bytes:
    """A path of what is open, for messages."""
    return os.readlink(anchored(fd))


def _adopted(path: bytes, size: int, key: bytes) -> ImageTarget | None:
    """What an interrupted restore has left of it, if that is ours alone."""
    above = os.path.dirname(path)
    with suppress(OSError):
        found = [name for name in map(os.fsencode, os.listdir(above or b".")) if is_abandoned(name)]
        for name in (each for each in found if key and key_of(each) == key):
            temporary = temporary_name(key)
            os.rename(os.path.join(above, name), os.path.join(above, temporary))
            fd = os.open(os.path.join(above, temporary), _FLAGS | os.O_NONBLOCK)
            target, stat = ImageTarget(path, fd, temporary, has_content=True), os.fstat(fd)
            sound = (modes.S_IFREG | UNFINISHED, 1, os.geteuid())
            if (stat.st_mode, stat.st_nlink, stat.st_uid) == sound:
                os.ftruncate(fd, size)
                return target
            target.close()
    return None


def _create(path: bytes, size: int, key: bytes) -> ImageTarget:
    temporary = temporary_name(key)
    above = os.path.dirname(path)
    try:
        fd = os.open(os.path.join(above, temporary), _FLAGS | os.O_CREAT | os.O_EXCL, UNFINISHED)
    except FileNotFoundError as error:
        raise NotFound(
            f"{_shown(above)} does not exist", "make it, or name another target with --to"
        ) from error
    target = ImageTarget(path, fd, temporary)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        target.close()
        raise
    return target


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
