"""Read the content of files that a scan found, and only of those."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from transfer.files.metadata import to_stat
from transfer.sources.base import OpenDirectories, Place, Stat

_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
)  # fmt: skip
_NOATIME = getattr(os, "O_NOATIME", 0)
# A symlink, a directory, a socket, or nothing.
_REPLACED = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENOENT}


class SourceFile(NamedTuple):
    """A file in *place*, and how the scan saw it."""

    place: Place
    name: bytes
    stat: Stat


class SourceChanged(Exception):
    """It is not what was scanned: scan it again. *code* is "replaced" or "changed"."""

    def __init__(self, code: str, name: bytes) -> None:
        super().__init__(code, name)
        self.code, self.name = code, name

    def __str__(self) -> str:
        return f"{self.name.decode(errors='backslashreplace')} was {self.code} since the scan"


@contextmanager
def open_file(directories: OpenDirectories, file: SourceFile, strict: bool = True) -> Iterator[int]:
    """A descriptor to read the very file that was scanned, or SourceChanged, or OSError.

    With *strict* off it may have been written since. A fifo, a symlink or a device that took the
    file's name is neither waited for nor read.
    """
    fd = _open(directories, file)
    try:
        now = to_stat(os.fstat(fd))
        same_file = now.type == file.stat.type and now.identity == file.stat.identity
        if not same_file or (strict and not now.same_content(file.stat)):
            raise SourceChanged("changed" if same_file else "replaced", file.name)
        yield fd
    finally:
        os.close(fd)


def _open(directories: OpenDirectories, file: SourceFile) -> int:
    try:
        dir_fd = directories.fd(file.place)
        if os.geteuid() in (0, file.stat.uid):
            try:
                return os.open(file.name, _FLAGS | _NOATIME, dir_fd=dir_fd)
            except PermissionError:
                pass  # its owner has changed, or root is not the root of this file system
        return os.open(file.name, _FLAGS, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in _REPLACED:
            raise SourceChanged("replaced", file.name) from error
        raise


def unchanged(fd: int, stat: Stat) -> bool:
    """True if nothing shows that the file was written since *stat*."""
    return to_stat(os.fstat(fd)).same_content(stat)


def read_into(fd: int, offset: int, view: memoryview) -> int:
    """Fill *view* from *offset*; fewer bytes than it holds only at the end of the file."""
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if got == 0:
            break
        done += got
    return done


def data_extents(fd: int, offset: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what between *offset* and *end* may hold other bytes than zeros.

    They ascend and are disjoint. Where holes are unknown, the whole range is one extent.
    """
    while offset < end:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            stop = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: a hole up to the end of the file
                yield offset, end - offset
            return
        if start >= end:
            return
        yield start, stop - start
        offset = stop
