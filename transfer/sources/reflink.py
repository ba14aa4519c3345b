"""Reflink copies of one file, on xfs and btrfs: its content of one moment, and what changed since.

A reflink copy shares the file's extents. It is made at once, and as of one moment whoever writes
meanwhile; a later write goes elsewhere on the disk (nodatacow files of btrfs are no exception while
they share). So the maps of two copies tell where the file was written between them, for as long as
nobody writes to the copies themselves: extent_maps.py has the reasoning.

Other file systems have reflinks too. Here they are refused, because a map proves something only
where its addresses are real: cifs gives each extent its own offset as its address, for example.
"""

import errno
import fcntl
import os
import stat as modes
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import xxhash

from transfer.errors import NoReflinks, NoSpace, TargetRefused, TransferError, ViewBroken
from transfer.files.system import filesystem_type
from transfer.sources.extent_maps import Mapped, answered, ask, buffer_for, changed, merged

_FIEMAP = 0xC020660B
_FICLONE, _FICLONERANGE = 0x40049409, 0x4020940D
_RANGE = struct.Struct("=qQQQ")  # source, offset, length or 0 for all that follows, offset
_LONG = struct.calcsize("l")
_GETFLAGS, _SETFLAGS = 0x80006601 | _LONG << 16, 0x40006602 | _LONG << 16
_FLAGS = struct.Struct("=I4x")  # an int, whatever the call's number says
_NOCOW = 0x800000
_ROOM = 17  # extents for which `fcntl.ioctl` lets other threads run: a buffer of 1024 bytes at most
_PROVEN = {"xfs", "btrfs"}
_NOTE = struct.Struct("=QQQI")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EOPNOTSUPP: "its file system has no reflinks",
    errno.EXDEV: "it is on another file system than the directory for its copies",
    errno.ETXTBSY: "it is in use as swap space",
    errno.EINVAL: "its file system cannot share its content",
    errno.EROFS: "the directory for its copies is read-only",
    errno.EACCES: "nothing may be made in the directory for its copies",
    errno.EPERM: "nothing may be made in the directory for its copies",
}


def why_no_reflinks(source_fd: int, directory_fd: int) -> str | None:
    """Why no reflink copy of the file can be made in the directory, for people; None if one can be.

    It leaves no trace of the question. What it says may be otherwise a moment later.
    """
    try:
        if reason := _no_candidate(source_fd, directory_fd):
            return reason
        _try(source_fd, directory_fd)
    except OSError as error:
        return _reason(error)
    return None


def clone(source_fd: int, directory_fd: int, name: bytes) -> int:
    """A descriptor of a new reflink copy of the file, *name* in the directory: durable, mode 0600.

    If it raises, there is no copy: NoReflinks; TargetRefused if the name is taken; NoSpace;
    ViewBroken.
    """
    with _translated(f"the copy {name.decode(errors='backslashreplace')} cannot be made"):
        if reason := _no_candidate(source_fd, directory_fd):
            raise NoReflinks(f"no copy can be made of the file: {reason}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory_fd)
        try:
            _write_as(source_fd, fd)
            fcntl.ioctl(fd, _FICLONE, source_fd)
            # A power cut must not leave a part of it: its holes would be taken for content.
            os.fsync(fd)
            os.fsync(directory_fd)
        except BaseException:
            os.close(fd)
            with suppress(OSError):
                os.unlink(name, dir_fd=directory_fd)
            raise
    return fd


def extent_map(fd: int, offset: int, end: int) -> Iterator[Mapped]:
    """The extents of the file between *offset* and *end*, ascending, read a few at a time.

    What is only in memory is written first. The map of a file that is written to, or moved on its
    disk, may be of several moments, and FormatError then; else it raises NoReflinks and ViewBroken.
    """
    buffer, sync = buffer_for(_ROOM), True
    while offset < end:
        ask(buffer, offset, end - offset, sync)
        with _translated("the extent map cannot be read"):
            fcntl.ioctl(fd, _FIEMAP, buffer)
        found = answered(buffer)
        if not found:  # the flag of the last extent is not relied on: what follows would be a hole
            return
        for extent in found:
            if part := extent.within(offset, end):
                yield part
        offset, sync = found[-1].end, False


def changes(old_fd: int, new_fd: int, *, twice: bool) -> Iterator[tuple[int, int]]:
    """(offset, length) of what may differ in a reflink copy from an older one of the same file.

    Extents ascend, and neither overlap nor touch. Nobody writes to the copies, but a balance of the
    file system or a defragmentation may move them: between the two readings of an address another
    content can come to stand there. With *twice* both maps are read again at the end, and it raises
    ViewBroken if one has moved; nothing that it gave may be believed then.
    """
    old, new = os.fstat(old_fd), os.fstat(new_fd)
    if old.st_dev != new.st_dev:
        raise NoReflinks("copies on two file systems cannot be compared")
    end = min(old.st_size, new.st_size)
    old_map, new_map = extent_map(old_fd, 0, end), extent_map(new_fd, 0, end)
    seen = [xxhash.xxh3_128(), xxhash.xxh3_128()]
    if twice:
        old_map, new_map = _noted(old_map, seen[0]), _noted(new_map, seen[1])
    yield from changed(old_map, new_map, old.st_size, new.st_size)
    # Only now: when the first readings of both are over, and no second one has begun.
    if twice and [_sum(old_fd, end), _sum(new_fd, end)] != [each.digest() for each in seen]:
        raise ViewBroken("a copy was moved on its disk while it was compared", "run again")


def _sum(fd: int, end: int) -> bytes:
    seen = xxhash.xxh3_128()
    deque(_noted(extent_map(fd, 0, end), seen), maxlen=0)
    return seen.digest()


def _noted(extents: Iterable[Mapped], seen: xxhash.xxh3_128) -> Iterator[Mapped]:
    for extent in merged(extents):
        seen.update(_NOTE.pack(*extent))
        yield extent


def _no_candidate(source_fd: int, directory_fd: int) -> str | None:
    """Why it is not even tried; what the kernel alone can tell is left to it."""
    if not modes.S_ISREG(os.fstat(source_fd).st_mode):
        return "it is not a regular file"
    kind = filesystem_type(source_fd)
    if kind not in _PROVEN:
        return f"it is on {kind if isinstance(kind, str) else hex(kind)}, not on xfs or btrfs"
    return None if filesystem_type(directory_fd) == kind else _REFUSED[errno.EXDEV]


def _try(source_fd: int, directory_fd: int) -> None:
    """Make a copy of nothing, without a name."""
    fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory_fd)
    try:
        _write_as(source_fd, fd)
        # What follows the file's end: no bytes, after all the checks of a whole copy.
        end = os.fstat(source_fd).st_size
        fcntl.ioctl(fd, _FICLONERANGE, _RANGE.pack(source_fd, end, 0, 0))
    finally:
        os.close(fd)


def _write_as(source_fd: int, fd: int) -> None:
    """Let an empty file have checksums if the source has: btrfs shares nothing between the two."""
    wanted, flags = _flags(source_fd) & _NOCOW, _flags(fd)
    if flags & _NOCOW != wanted:
        fcntl.ioctl(fd, _SETFLAGS, _FLAGS.pack(flags & ~_NOCOW | wanted))


def _flags(fd: int) -> int:
    (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, _GETFLAGS, bytes(_FLAGS.size)))
    return int(flags)


def _reason(error: OSError) -> str:
    return _REFUSED.get(error.errno or 0) or error.strerror or str(error)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _ours(error, what) from error


def _ours(error: OSError, what: str) -> TransferError:
    message = f"{what}: {_reason(error)}"
    if error.errno in _FULL:
        return NoSpace(message)
    if error.errno == errno.EEXIST:
        return TargetRefused(message)
    if error.errno in _REFUSED:
        return NoReflinks(message)
    return ViewBroken(message)
