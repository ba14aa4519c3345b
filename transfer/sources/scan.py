"""Scan: the entries of a directory, each taken from one descriptor, so that no two files mix.

    code               what happened
    vanished           the name is gone since the directory was listed; not in the result
    unreadable         it could not be looked at; not in the result
    unsupported        a type that no entry can say; not in the result
    xattr-unreadable   in the result, without its extended attributes

The codes are stable.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from transfer.files.metadata import anchored, open_anchor, read_xattrs, to_stat
from transfer.files.system import filesystem_type, is_pseudo, sync_filesystem
from transfer.formats.entry import Entry, FileType, Xattrs
from transfer.sources.base import OpenDirectories, Place, Scanned, SkippedEntry, Stat
from transfer.sources.handles import file_handle, inode_handle

__all__ = ["filesystem_type", "is_pseudo", "list_names", "scan", "sync_filesystem"]

_SOCKET = 0o140000
_STAT_BLOCK = 512
_NAME_MEMORY = 41  # bytes of a list's place and of an object's head


class _Skip(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


def list_names(
    directories: OpenDirectories, place: Place, after: bytes = b"", room: int = sys.maxsize
) -> tuple[list[bytes], bool]:
    """The first names in *place* that follow *after*, sorted as entries are; and if there are more.

    They take about *room* bytes of memory, and twice that on the way, however large the directory
    is: it is read anew for each part. Raises OSError if it cannot be listed.
    """
    names: list[bytes] = []
    size, last = 0, b""  # the highest name of interest, once some had to be left for later
    with os.scandir(directories.fd(place)) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if name <= after or (last and name > last):
                continue
            names.append(name)
            size += len(name) + _NAME_MEMORY
            if size > 2 * room:
                kept, size = _first(names, room)
                last = kept[-1] if len(kept) < len(names) else last
                names = kept
    kept, _ = _first(names, room)
    return kept, bool(last) or len(kept) < len(names)


def _first(names: list[bytes], room: int) -> tuple[list[bytes], int]:
    """The lowest *names*, sorted: as many as take *room*, but one at least; and what they take."""
    names.sort()
    size = 0
    for count, name in enumerate(names):
        if size + len(name) + _NAME_MEMORY > room and count:
            return names[:count], size
        size += len(name) + _NAME_MEMORY
    return names, size


def scan(
    directories: OpenDirectories,
    place: Place,
    names: Sequence[bytes],
    cut_level: Callable[[bytes], int],
) -> tuple[list[Scanned], list[SkippedEntry], int]:
    """What stands under *names* in *place*, what could not be had, and how many sockets there are.

    The order of *names* is kept. Nothing that can be wrong with a name is an exception. A file of a
    pseudo file system that is mounted over a name is no content, as a socket is none.
    """
    scanned: list[Scanned] = []
    skipped: list[SkippedEntry] = []
    sockets = 0
    try:
        fd = directories.fd(place)
        device = os.fstat(fd).st_dev
    except OSError as error:
        return [], [SkippedEntry(name, *_reason(error)) for name in names], 0
    for name in names:
        try:
            with _anchor(fd, name) as (anchor, stat):
                if stat is None:
                    sockets += 1
                    continue
                elsewhere = stat.dev != device
                if elsewhere and stat.type is FileType.FILE and is_pseudo(anchor):
                    continue
                entry, warning = _entry(anchor, name, stat)
                mounted = elsewhere and _is_mounted(anchor, fd)
        except (_Skip, OSError) as error:
            skipped.append(SkippedEntry(name, *_reason(error)))
            continue
        scanned.append(Scanned(entry, stat, cut_level(name), mounted))
        skipped += warning
    return scanned, skipped, sockets


@contextmanager
def _anchor(fd: int, name: bytes) -> Iterator[tuple[int, Stat | None]]:
    """*name* held by a descriptor, and its stat; None for a socket."""
    anchor = open_anchor(fd, name)
    try:
        found = os.fstat(anchor)
        stat = to_stat(found)
        if stat.type is not None:
            yield anchor, stat
        elif found.st_mode & 0o170000 == _SOCKET:
            yield anchor, None
        else:
            raise _Skip("unsupported", "a type of file that cannot be backed up")
    finally:
        os.close(anchor)


def _is_mounted(anchor: int, fd: int) -> bool:
    """A device of its own is not enough: a file of an overlay has that of its layer."""
    return os.fstatvfs(anchor).f_fsid != os.fstatvfs(fd).f_fsid


def _entry(anchor: int, name: bytes, stat: Stat) -> tuple[Entry, list[SkippedEntry]]:
    assert stat.type is not None
    warnings: list[SkippedEntry] = []
    xattrs: Xattrs = ()
    try:
        xattrs = read_xattrs(anchored(anchor))
    except OSError as error:
        warnings.append(SkippedEntry(name, "xattr-unreadable", _reason(error)[1]))
    is_device = stat.type in (FileType.CHARACTER, FileType.BLOCK)
    entry = Entry(
        name, stat.type, stat.mode, stat.uid, stat.gid, stat.mtime, stat.ctime,
        target=os.readlink(b"", dir_fd=anchor) if stat.type is FileType.SYMLINK else b"",
        xattrs=xattrs,
        device=(os.major(stat.rdev), os.minor(stat.rdev)) if is_device else (0, 0),
        sparse=stat.type is FileType.FILE and stat.blocks * _STAT_BLOCK < stat.size,
        user=_user(stat.uid), group=_group(stat.gid),
        handle=file_handle(anchor, b"") or inode_handle(stat.ino),
    )  # fmt: skip
    return entry, warnings


def _reason(error: _Skip | OSError) -> tuple[str, str]:
    if isinstance(error, _Skip):
        return error.code, error.message
    code = "vanished" if isinstance(error, FileNotFoundError) else "unreadable"
    return code, error.strerror or str(error)


@lru_cache(4096)
def _user(uid: int) -> bytes:
    import pwd

    try:
        return os.fsencode(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return b""


@lru_cache(4096)
def _group(gid: int) -> bytes:
    import grp

    try:
        return os.fsencode(grp.getgrgid(gid).gr_name)
    except KeyError:
        return b""
