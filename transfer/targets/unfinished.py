"""Files that are not finished, in an open directory *fd*: made, left, and gone on with.

What stands in one that is gone on with is whatever it is: whoever goes on compares that.
"""

import os
from contextlib import suppress

from transfer.files.metadata import stat_at, to_stat
from transfer.files.system import read_from_disk
from transfer.formats.entry import FileType
from transfer.targets.names import UNFINISHED, is_abandoned, key_of, temporary_name, unowned

FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def create(fd: int, key: bytes = b"") -> tuple[bytes, int]:
    """The temporary name and a descriptor of a new file, empty and for the caller alone.

    With a *key* another process may go on with it, if this one dies.
    """
    temporary = temporary_name(key)
    return temporary, os.open(temporary, FLAGS | os.O_CREAT | os.O_EXCL, UNFINISHED, dir_fd=fd)


def create_sized(fd: int, length: int, key: bytes) -> tuple[bytes, int]:
    """As `create`, of *length* bytes."""
    temporary, file = create(fd, key)
    try:
        os.ftruncate(file, length)
    except BaseException:
        os.close(file)
        remove(fd, temporary)
        raise
    return temporary, file


def adopt(fd: int, leftover: bytes, length: int) -> tuple[bytes, int] | None:
    """Go on with *leftover*: its new temporary name and a descriptor.

    None for one that may be somebody else's too, which goes.
    """
    temporary, file = temporary_name(key_of(leftover)), -1
    with suppress(OSError):
        os.rename(leftover, temporary, src_dir_fd=fd, dst_dir_fd=fd)
        file = os.open(temporary, FLAGS, dir_fd=fd)
        if is_own(file) and to_stat(os.fstat(file)).mode == UNFINISHED:
            os.ftruncate(file, length)
            read_from_disk(file)
            return temporary, file
    if file >= 0:
        os.close(file)
    remove(fd, temporary)
    return None


def is_own(file: int) -> bool:
    """Whether it is a file of the caller, and has no other name."""
    stat = to_stat(os.fstat(file))
    return (stat.type, stat.nlink, stat.uid) == (FileType.FILE, 1, os.geteuid())


def take_back(file: int) -> None:
    """Make it the caller's alone again, as one that is gone on with must be."""
    os.fchown(file, os.geteuid(), os.getegid())
    os.fchmod(file, UNFINISHED)


def leave(fd: int, temporary: bytes) -> None:
    """Leave it, as one of nobody, to whoever goes on with it."""
    # Where that fails, the end of this process says the same.
    with suppress(OSError):
        os.rename(temporary, unowned(temporary), src_dir_fd=fd, dst_dir_fd=fd)


def remove(fd: int, temporary: bytes) -> None:
    """None is fine."""
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=fd)


def abandoned(fd: int) -> list[bytes]:
    """The temporary names that nobody works on any more."""
    names = filter(is_abandoned, map(os.fsencode, os.listdir(fd)))
    return [name for name in names if stat_at(fd, name).type is not FileType.DIRECTORY]
