"""Compare a tree or an image with what a restore made of it: names, content and attributes.

    what          compared
    missing       a name of the source that did not come back
    extra         a name that the source has not
    type          directory, file, symlink, fifo, device; a device's numbers
    content       size and bytes, where a symlink leads
    mode, owner, times (mtime in ns), xattr, acl
    link          two names are one inode there, and two here, or the other way round

Sockets, and what is excluded, are not looked at, and no symlink is followed. What the source's
ctime shows to have changed since the start is told apart: no restore can give that back.
"""

import heapq
import os
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from transfer.files.directories import OpenDirectories, Place
from transfer.files.metadata import (
    ACLS,
    Stat,
    anchored,
    open_anchor,
    read_xattrs,
    stat_at,
    to_stat,
)
from transfer.files.system import is_pseudo
from transfer.formats.entry import FileType, Xattrs
from transfer.jobs.first_files import names_in
from transfer.policy.globs import Globs
from transfer.sources.reading import SourceChanged, SourceFile, data_extents, open_file, read_into

_PIECE = 2**20  # bytes that are compared at a time
_TICK = 20_000_000  # ns; the clock of a file system's times may be that much behind
_SYSTEMS_OWN = (b"security.", b"system.")  # attributes that a new inode may get by itself


class Difference(NamedTuple):
    """*path* is relative to the root, *changed* that the source changed since the start."""

    path: bytes
    what: str
    changed: bool


class _Pair(NamedTuple):
    left: Place
    right: Place
    path: bytes
    names: Iterator[tuple[bytes, bool, bool]]
    stat: Stat
    """Of the source's directory."""


class Comparison:
    """A walk over both sides, one name at a `step`.

    *since* (ns) is when the backup began; *excused* (path, what) is known not to have come back.
    *read* hears of the bytes that were compared.
    """

    def __init__(
        self, exclude: Globs, since: int, excused: Callable[[bytes, str], bool],
        read: Callable[[int], object],
    ) -> None:  # fmt: skip
        self.differences: list[Difference] = []
        self._exclude, self._since = exclude, since - _TICK
        self._excused, self._read = excused, read
        self._left, self._right = OpenDirectories(), OpenDirectories()
        self._stack: list[_Pair] = []
        self._twins: dict[tuple[int, int], tuple[int, int]] = {}
        """Inodes of several names in the source, and what they became."""
        self._claimed: dict[tuple[int, int], tuple[int, int]] = {}
        """The other way round, of those with several names in the restored tree."""

    def close(self) -> None:
        self._left.close()
        self._right.close()

    def begin(self, left: Place, right: Place) -> None:
        """Compare the directories *left* and *right*, which may have different names."""
        try:
            paths = self._left.fd(left), self._right.fd(right)
        except FileNotFoundError:
            self.differences.append(Difference(b"", "missing", not os.path.lexists(left.path)))
            return
        here, there = (to_stat(os.fstat(fd)) for fd in paths)
        self._attributes(b"", here, there, (read_xattrs(paths[0]), read_xattrs(paths[1])))
        self._enter(left, right, b"", here)

    def image(self, file: SourceFile, size: int, right: Place, name: bytes, busy: bool) -> None:
        """Compare the *size* bytes of a file or device that were backed up, and nothing else.

        *busy*: somebody may be writing, which a device's times do not tell.
        """
        try:
            there = stat_at(self._right.fd(right), name)
        except FileNotFoundError:
            self.differences.append(Difference(b"", "missing", False))
            return
        same = False
        try:
            if there.size == size:
                same = self._same_content(file, SourceFile(right, name, there), size)
            now = stat_at(self._left.fd(file.place), file.name).ctime
        except (SourceChanged, OSError):
            now = self._since
        if not same:
            self.differences.append(Difference(b"", "content", busy or now >= self._since))

    def step(self) -> bool:
        """Compare what stands under the next name; False when there is none."""
        if not self._stack:
            return False
        pair = self._stack[-1]
        name, here, there = next(pair.names, (b"", False, False))
        if not name:
            self._stack.pop()
            return True
        path = pair.path + b"/" + name if pair.path else name
        try:
            self._name(pair, name, path, here, there)
        except (SourceChanged, OSError):  # it is being changed, and its directory as well
            self._differs(path, "content", self._now(pair, name), pair)
        return True

    def _enter(self, left: Place, right: Place, path: bytes, stat: Stat) -> None:
        names = _both(_names(self._left, left), _names(self._right, right))
        self._stack.append(_Pair(left, right, path, names, stat))

    def _name(self, pair: _Pair, name: bytes, path: bytes, here: bool, there: bool) -> None:
        left = stat_at(self._left.fd(pair.left), name) if here else None
        if left is not None and (self._left_out(path, left) or self._made_up(pair, name, left)):
            if not there:
                return
            left = None
        right = stat_at(self._right.fd(pair.right), name) if there else None
        if left is None or right is None:
            self._differs(path, "missing" if right is None else "extra", left or pair.stat, pair)
        elif (left.type, left.rdev) != (right.type, right.rdev):
            self._differs(path, "type", left)
        else:
            self._entry(pair, name, path, left, right)

    def _left_out(self, path: bytes, stat: Stat) -> bool:
        return stat.type is None or self._exclude.excludes(path, stat.type is FileType.DIRECTORY)

    def _made_up(self, pair: _Pair, name: bytes, stat: Stat) -> bool:
        """A file of a pseudo file system, mounted over the name."""
        if stat.type is not FileType.FILE or stat.dev == pair.stat.dev:
            return False
        anchor = open_anchor(self._left.fd(pair.left), name)
        try:
            return is_pseudo(anchor)
        finally:
            os.close(anchor)

    def _entry(self, pair: _Pair, name: bytes, path: bytes, left: Stat, right: Stat) -> None:
        fds = self._left.fd(pair.left), self._right.fd(pair.right)
        self._attributes(path, left, right, (_xattrs(fds[0], name), _xattrs(fds[1], name)))
        if left.type is FileType.DIRECTORY:
            self._enter(pair.left.child(name), pair.right.child(name), path, left)
            return
        self._links(path, left, right)
        if left.type is FileType.SYMLINK:
            if os.readlink(name, dir_fd=fds[0]) != os.readlink(name, dir_fd=fds[1]):
                self._differs(path, "content", left)
        elif left.type is FileType.FILE:
            files = SourceFile(pair.left, name, left), SourceFile(pair.right, name, right)
            same = left.size == right.size and self._same_content(*files, left.size)
            if not same:  # since its stat was taken it may have changed
                self._differs(path, "content", self._now(pair, name))

    def _attributes(
        self, path: bytes, left: Stat, right: Stat, xattrs: tuple[Xattrs, Xattrs]
    ) -> None:
        checks = {
            "mode": left.mode == right.mode or left.type is FileType.SYMLINK,
            "owner": (left.uid, left.gid) == (right.uid, right.gid),
            "times": left.mtime == right.mtime,
            "acl": _acls(xattrs[0]) == _acls(xattrs[1]),
            "xattr": _same_xattrs(*xattrs),
        }
        for what, same in checks.items():
            if not same:
                self._differs(path, what, left)

    def _links(self, path: bytes, left: Stat, right: Stat) -> None:
        here, there = left.identity, right.identity
        same = left.nlink == 1 or self._twins.setdefault(here, there) == there
        same &= right.nlink == 1 or self._claimed.setdefault(there, here) == here
        if not same:
            self._differs(path, "link", left)

    def _same_content(self, file: SourceFile, other: SourceFile, size: int) -> bool:
        with (
            open_file(self._left, file, strict=False) as here,
            open_file(self._right, other, strict=False) as there,
        ):
            return _same_bytes(here, there, size, self._read)

    def _now(self, pair: _Pair, name: bytes) -> Stat:
        try:
            return stat_at(self._left.fd(pair.left), name)
        except OSError:
            return pair.stat

    def _differs(self, path: bytes, what: str, stat: Stat, pair: _Pair | None = None) -> None:
        moments = [stat.ctime]
        if pair is not None:  # a name came or went
            moments.append(self._now(pair, b".").ctime)
        if not self._excused(path, what):
            self.differences.append(Difference(path, what, max(moments) >= self._since))


def _names(directories: OpenDirectories, place: Place) -> Iterator[bytes]:
    """None for what cannot be listed, and for what a kernel makes up."""
    try:
        if not is_pseudo(directories.fd(place)):
            yield from names_in(directories, place)
    except OSError:
        return


def _both(left: Iterator[bytes], right: Iterator[bytes]) -> Iterator[tuple[bytes, bool, bool]]:
    """Each name, and on which sides it is."""
    merged = heapq.merge(((name, 0) for name in left), ((name, 1) for name in right))
    for name, found in groupby(merged, key=itemgetter(0)):
        sides = {side for _, side in found}
        yield name, 0 in sides, 1 in sides


def _xattrs(fd: int, name: bytes) -> Xattrs:
    anchor = open_anchor(fd, name)
    try:
        return read_xattrs(anchored(anchor))
    except PermissionError:
        return ()
    finally:
        os.close(anchor)


def _acls(xattrs: Xattrs) -> Xattrs:
    return tuple(pair for pair in xattrs if pair[0] in ACLS)


def _same_xattrs(left: Xattrs, right: Xattrs) -> bool:
    """All are there that the source has, and no others but what the system gives by itself."""
    wanted, found = dict(left), dict(right)
    return all(
        wanted.get(name) == found.get(name)
        for name in wanted.keys() | found.keys()
        if name not in ACLS and (name in wanted or not name.startswith(_SYSTEMS_OWN))
    )


def _same_bytes(left: int, right: int, size: int, read: Callable[[int], object]) -> bool:
    """What is a hole on both sides is not read."""
    here, there = bytearray(_PIECE), bytearray(_PIECE)
    at = 0
    for offset, length in heapq.merge(data_extents(left, 0, size), data_extents(right, 0, size)):
        at, end = max(at, offset), offset + length
        while at < end:
            count = min(_PIECE, end - at)
            views = memoryview(here)[:count], memoryview(there)[:count]
            got = read_into(left, at, views[0])
            if got != read_into(right, at, views[1]) or views[0][:got] != views[1][:got]:
                return False
            read(count)
            at += count
    return True
