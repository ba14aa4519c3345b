"""Descriptors of directories, opened step by step, so that no path is too long and none is swapped.

A path given to the kernel ends at 4096 bytes and follows every symlink on its way. A walk by
descriptors has no such limit, and a directory replaced by a symlink is an error.
"""

import errno
import os
from collections import OrderedDict
from typing import NamedTuple

_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NOATIME = getattr(os, "O_NOATIME", 0)


class Place(NamedTuple):
    """A directory: *parts* below *root*, which is the absolute path of a directory.

    A pinned one is only the very directory (device, inode) that had this path once.
    """

    root: bytes
    parts: tuple[bytes, ...] = ()
    pin: tuple[int, int] | None = None

    def child(self, name: bytes) -> "Place":
        return Place(self.root, (*self.parts, name))

    @property
    def path(self) -> bytes:
        """For messages; it may be longer than the kernel takes."""
        return b"/".join((self.root.rstrip(b"/"), *self.parts)) or b"/"


def identity(fd: int) -> tuple[int, int]:
    """(device, inode) of what is open."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _opened(path: bytes, flags: int, dir_fd: int | None = None) -> int:
    """Listing it leaves no trace in its atime, where it is ours."""
    try:
        return os.open(path, flags | _NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(path, flags, dir_fd=dir_fd)


class OpenDirectories:
    """At most *limit* open directories, the least recently used closed first.

    Not for use by several threads. A root may be a symlink; below it none is followed.
    """

    def __init__(self, limit: int = 256) -> None:
        if limit < 4:
            raise ValueError("a walk needs at least 4 descriptors")
        self._limit = limit
        self._open: OrderedDict[Place, int] = OrderedDict()
        self._known: dict[int, tuple[int, int]] = {}  # identities of what is open, once asked for

    def __len__(self) -> int:
        return len(self._open)

    def fd(self, place: Place) -> int:
        """The descriptor of *place*, good until *limit* / 2 other places were asked for.

        Raises OSError (ESTALE) if another directory has the path of a pinned place.
        """
        fd = self._open_unpinned(place._replace(pin=None))
        if place.pin is not None and self._identity(fd) != place.pin:
            raise OSError(errno.ESTALE, "another directory has its name now", place.path)
        return fd

    def _identity(self, fd: int) -> tuple[int, int]:
        """A descriptor stays with its inode."""
        if fd not in self._known:
            self._known[fd] = identity(fd)
        return self._known[fd]

    def _open_unpinned(self, place: Place) -> int:
        depth = self._deepest_open(place)
        if depth < 0:
            fd = self._keep(Place(place.root), _opened(place.root, _FLAGS))
            depth = 0
        else:
            fd = self._touch(Place(place.root, place.parts[:depth]))
        return self._walk(place, depth, fd)

    def forget(self, place: Place) -> None:
        """Close *place* and what is below it, because other directories have their names now."""
        depth = len(place.parts)
        for known in [p for p in self._open if p.root == place.root]:
            if known.parts[:depth] == place.parts:
                self._close(self._open.pop(known))

    def close(self) -> None:
        while self._open:
            self._close(self._open.popitem()[1])

    def _close(self, fd: int) -> None:
        self._known.pop(fd, None)
        os.close(fd)

    def _deepest_open(self, place: Place) -> int:
        for depth in range(len(place.parts), -1, -1):
            if Place(place.root, place.parts[:depth]) in self._open:
                return depth
        return -1

    def _walk(self, place: Place, depth: int, fd: int) -> int:
        # Of a very long walk only the end is kept: it must not push out everything else.
        first_kept = max(depth + 1, len(place.parts) - self._limit // 4)
        passing = -1
        try:
            for at in range(depth + 1, len(place.parts) + 1):
                below = _opened(place.parts[at - 1], _FLAGS | _NOFOLLOW, fd)
                if passing >= 0:
                    os.close(passing)
                    passing = -1
                fd = below
                if at < first_kept:
                    passing = below
                else:
                    self._keep(Place(place.root, place.parts[:at]), below)
        finally:
            if passing >= 0:
                os.close(passing)
        return fd

    def _touch(self, place: Place) -> int:
        self._open.move_to_end(place)
        return self._open[place]

    def _keep(self, place: Place, fd: int) -> int:
        self._open[place] = fd
        while len(self._open) > self._limit:
            self._close(self._open.popitem(last=False)[1])
        return fd
