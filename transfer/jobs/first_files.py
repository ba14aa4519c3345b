"""The first files of a tree that fit into so much room, as a backup's excludes.

Walked in the order of names. A file that does not fit is left out; after MISFITS of them, or once
there is no room for an empty file, all that follows is. So the patterns are few, however large the
tree: what follows a name takes one for each of its bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from transfer.files.directories import OpenDirectories, Place
from transfer.files.metadata import stat_at
from transfer.files.system import is_pseudo
from transfer.formats.entry import FileType
from transfer.sources.scan import list_names

MISFITS = 64
ENTRY = 4096  # bytes that a name takes on a disk, beside its content
_LISTED = 2 * 2**20  # bytes of names that are read at a time
_SLASH = ord("/")


class Room(NamedTuple):
    """Bytes and inodes that may be taken."""

    bytes: int
    entries: int


@dataclass
class Selection:
    """*exclude* are GLOBs; *bytes* is the room that is taken, *content* what the files hold.

    *left_out* files did not fit, and *ended* says that others follow.
    """

    exclude: list[bytes] = field(default_factory=list)
    bytes: int = 0
    content: int = 0
    entries: int = 0
    left_out: int = 0
    ended: bool = False

    @property
    def whole(self) -> bool:
        return not (self.left_out or self.ended)


class _Level(NamedTuple):
    place: Place
    path: bytes
    names: Iterator[bytes]


def names_in(directories: OpenDirectories, place: Place) -> Iterator[bytes]:
    """All names in *place*, sorted, and never many of them in memory. Raises OSError."""
    after, more = b"", True
    while more:
        names, more = list_names(directories, place, after, _LISTED)
        yield from names
        after = names[-1] if names else after


class FirstFiles:
    """Finds the selection, one name at a `step`; *own* (device, inode) is never entered.

    What cannot be looked at takes no room: the backup will name it.
    """

    def __init__(self, place: Place, room: Room, own: tuple[int, int]) -> None:
        self.selection = Selection()
        self._room, self._own = room, own
        self._directories = OpenDirectories()
        self._stack: list[_Level] = []
        self._current: list[bytes] = []  # the name at which each level is
        self._enter(place, b"")

    def close(self) -> None:
        self._directories.close()

    def step(self) -> bool:
        """Look at the next name; False when there is none."""
        if not self._stack or self.selection.ended:
            return False
        level = self._stack[-1]
        del self._current[len(self._stack) - 1 :]
        name = _next(level.names)
        if name is None:
            self._stack.pop()
            return True
        self._current.append(name)
        try:
            stat = stat_at(self._directories.fd(level.place), name)
        except OSError:
            return True
        path = level.path + b"/" + escaped(name)
        if stat.identity == self._own:
            self.selection.exclude.append(path)
        elif stat.type is FileType.DIRECTORY and self._take(path, 0):
            self._enter(level.place.child(name), path)
        elif stat.type is FileType.FILE:
            self._take(path, stat.size)
        return True

    def _take(self, path: bytes, size: int) -> bool:
        chosen = self.selection
        if self._fits(ENTRY + size):
            chosen.bytes += ENTRY + size
            chosen.content += size
            chosen.entries += 1
            return True
        chosen.exclude.append(path)
        chosen.left_out += 1
        if chosen.left_out == MISFITS or not self._fits(ENTRY):
            chosen.ended = True
            for level, name in zip(self._stack, self._current, strict=True):
                chosen.exclude += [level.path + b"/" + pattern for pattern in after(name)]
        return False

    def _fits(self, size: int) -> bool:
        chosen, room = self.selection, self._room
        return chosen.bytes + size <= room.bytes and chosen.entries < room.entries

    def _enter(self, place: Place, path: bytes) -> None:
        try:
            empty = is_pseudo(self._directories.fd(place))
        except OSError:
            empty = True
        names = iter(()) if empty else names_in(self._directories, place)
        self._stack.append(_Level(place, path, names))


def _next(names: Iterator[bytes]) -> bytes | None:
    try:
        return next(names, None)
    except OSError:
        return None


def after(name: bytes) -> Iterator[bytes]:
    """Patterns that together match the names which sort after *name*, and no others."""
    for at, byte in enumerate(name):
        least = byte + 1 + (byte + 1 == _SLASH)  # which stands in no name
        if least < 256:
            yield escaped(name[:at]) + b"[\\" + bytes((least,)) + b"-\xff]*"
    yield escaped(name) + b"?*"


def escaped(name: bytes) -> bytes:
    """A pattern that matches this name alone."""
    return b"".join(b"[\\" + bytes((byte,)) + b"]" for byte in name)
