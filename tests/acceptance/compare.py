"""Compare two trees by everything that a backup promises to bring back.

Shares no code with the package that it judges. Both trees are walked by directory descriptors, so
that no path is too long; nothing is followed. Sockets of the left tree may be missing in the right
one: they are no content. Access times, change times and inode numbers are not compared.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PIECE = 2**20
# An ext4 file takes blocks for its map of extents, too.
SLACK = 64 * 1024


class Difference(NamedTuple):
    """*what* is one of: missing, extra, type, mode, owner, mtime, size, content, target, device,
    xattrs, sparse, links.
    """

    path: bytes
    what: str
    left: object = None
    right: object = None


class _Side:
    """One tree's root or directory, open; and the name looked at in it."""

    def __init__(self, fd: int, name: bytes = b".") -> None:
        self.fd, self.name = fd, name
        self.stat = os.stat(name, dir_fd=fd, follow_symlinks=False)

    @property
    def place(self) -> bytes:
        return b"/proc/self/fd/%d/%s" % (self.fd, self.name)

    def xattrs(self) -> dict[str, bytes]:
        names = os.listxattr(self.place, follow_symlinks=False)
        return {name: os.getxattr(self.place, name, follow_symlinks=False) for name in names}

    def open(self) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(self.name, flags, dir_fd=self.fd)

    @property
    def allocated(self) -> int:
        return self.stat.st_blocks * 512


def differences(left: Path, right: Path, ignore: frozenset[str] = frozenset()) -> list[Difference]:
    """Everything in which *right* is not what *left* is, except what is in *ignore*."""
    return [found for found in _Comparison().run(left, right) if found.what not in ignore]


class _Comparison:
    def __init__(self) -> None:
        self._inodes: dict[tuple[int, int], tuple[int, int]] = {}
        self._back: dict[tuple[int, int], tuple[int, int]] = {}

    def run(self, left: Path, right: Path) -> Iterator[Difference]:
        tops = [os.open(side, os.O_RDONLY | os.O_DIRECTORY) for side in (left, right)]
        try:
            yield from self._entry(b".", _Side(tops[0]), _Side(tops[1]))
            # Descriptors of the directories that are left: a path of any length is one walk down.
            todo: list[tuple[bytes, ...]] = [()]
            while todo:
                yield from self._directory(tops, todo.pop(), todo)
        finally:
            for fd in tops:
                os.close(fd)

    def _directory(
        self, tops: list[int], parts: tuple[bytes, ...], todo: list[tuple[bytes, ...]]
    ) -> Iterator[Difference]:
        one, two = (_descend(top, parts) for top in tops)
        try:
            here, there = (set(map(os.fsencode, os.listdir(fd))) for fd in (one, two))
            for name in sorted(here | there):
                path = b"/".join((*parts, name))
                if name not in here:
                    yield Difference(path, "extra")
                    continue
                left = _Side(one, name)
                if stat.S_ISSOCK(left.stat.st_mode):
                    continue
                if name not in there:
                    yield Difference(path, "missing")
                    continue
                right = _Side(two, name)
                yield from self._entry(path, left, right)
                if stat.S_ISDIR(left.stat.st_mode) and stat.S_ISDIR(right.stat.st_mode):
                    todo.append((*parts, name))
        finally:
            os.close(one)
            os.close(two)

    def _entry(self, path: bytes, left: _Side, right: _Side) -> Iterator[Difference]:
        a, b = left.stat, right.stat
        if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
            yield Difference(path, "type", oct(a.st_mode), oct(b.st_mode))
            return
        facts: list[tuple[str, object, object]] = [
            ("mode", oct(a.st_mode), oct(b.st_mode)),
            ("owner", (a.st_uid, a.st_gid), (b.st_uid, b.st_gid)),
            ("mtime", a.st_mtime_ns, b.st_mtime_ns),
            ("xattrs", left.xattrs(), right.xattrs()),
        ]
        if stat.S_ISLNK(a.st_mode):
            here, there = (os.readlink(side.name, dir_fd=side.fd) for side in (left, right))
            facts.append(("target", here, there))
        if stat.S_ISCHR(a.st_mode) or stat.S_ISBLK(a.st_mode):
            facts.append(("device", a.st_rdev, b.st_rdev))
        yield from (Difference(path, *fact) for fact in facts if fact[1] != fact[2])
        if stat.S_ISREG(a.st_mode):
            yield from _file(path, left, right)
        if not stat.S_ISDIR(a.st_mode):
            yield from self._links(path, (a.st_dev, a.st_ino), (b.st_dev, b.st_ino))

    def _links(
        self, path: bytes, one: tuple[int, int], two: tuple[int, int]
    ) -> Iterator[Difference]:
        """Two names are one file on the left if and only if they are one file on the right."""
        if self._inodes.setdefault(one, two) != two or self._back.setdefault(two, one) != one:
            yield Difference(path, "links")


def _descend(top: int, parts: tuple[bytes, ...]) -> int:
    fd = os.dup(top)
    for part in parts:
        below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def _file(path: bytes, left: _Side, right: _Side) -> Iterator[Difference]:
    if left.stat.st_size != right.stat.st_size:
        yield Difference(path, "size", left.stat.st_size, right.stat.st_size)
        return
    if not _sparse_alike(left, right):
        yield Difference(path, "sparse", left.allocated, right.allocated)
    one, two = left.open(), right.open()
    try:
        at = _first_difference(one, two, left.stat.st_size)
    finally:
        os.close(one)
        os.close(two)
    if at is not None:
        yield Difference(path, "content", at, at)


def _sparse_alike(left: _Side, right: _Side) -> bool:
    """A sparse file takes about as much space, or less; a full one is full again."""
    size = left.stat.st_size
    if left.allocated < size:
        return right.allocated <= left.allocated + SLACK
    return right.allocated >= size


def _first_difference(one: int, two: int, size: int) -> int | None:
    """The offset of the first piece that differs; what is a hole on both sides is not read."""
    at = 0
    while at < size:
        data = min(_next_data(one, at, size), _next_data(two, at, size))
        at = data - data % PIECE if data < size else size
        if at < size and os.pread(one, PIECE, at) != os.pread(two, PIECE, at):
            return at
        at += PIECE
    return None


def _next_data(fd: int, at: int, size: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError:  # a hole up to the end
        return size
