"""Tree target: files, directories, links and devices below one directory.

Nothing here follows a symlink below the root or trusts a name twice: a restore by root goes into
directories that somebody else may write. Whatever is made has a temporary name until its content
and metadata are complete; directories get theirs last, by `finish_directory`.
"""

import errno
import os
import stat as modes
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from transfer.errors import TargetRefused
from transfer.files.direct import write_all
from transfer.files.directories import OpenDirectories, Place
from transfer.files.metadata import Stat, anchored, open_anchor, stat_at, to_stat
from transfer.files.system import sync_filesystem
from transfer.formats.entry import Entry, FileType
from transfer.formats.reference import Buffer
from transfer.targets import target_errors, unfinished
from transfer.targets.metadata import may_stay, set_metadata
from transfer.targets.names import key_of, link, publish, temporary_name
from transfer.targets.zeros import make_hole, runs

_OPEN_FILES = 64
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE}
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class TreeTarget:
    """Writes below *root*; *owner* is "number", "name" or "none" (whoever restores).

    What is there already is an error (FileExistsError) unless `replace` is asked for. Not for use
    by several threads; several targets, also in other processes, may write below the same root
    and go on with each other's temporary files.
    """

    def __init__(
        self, root: bytes, owner: str = "number", directories: OpenDirectories | None = None
    ) -> None:
        if owner not in ("number", "name", "none"):
            raise ValueError(f"owner {owner!r}")
        self._root, self._owner = root, owner
        self._directories = directories or OpenDirectories()
        self._files: OrderedDict[tuple[Place, bytes], int] = OrderedDict()

    def place(self, *parts: bytes) -> Place:
        return Place(self._root, parts)

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])
        self._directories.close()

    def sync(self, place: Place) -> None:
        """Return when everything written to the file system of *place* is durable."""
        with target_errors(place.path):
            sync_filesystem(self._directories.fd(place))

    def exists(self, place: Place, name: bytes) -> Stat | None:
        """What stands under *name* now; a symlink is itself. None also without its directory."""
        with _gone_is_fine():
            return stat_at(self._directories.fd(place), name)
        return None

    def leads_to(self, place: Place, name: bytes) -> bytes:
        """Of a symlink; nothing for what is none any more."""
        with suppress(OSError):
            return os.readlink(name, dir_fd=self._directories.fd(place))
        return b""

    def make_directory(self, place: Place, name: bytes) -> bool:
        """Make it for the caller alone; False if a directory is there already."""
        with self._directory(place, name) as fd:
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                if stat_at(fd, name).type is not FileType.DIRECTORY:
                    raise
                return False
            return True

    def enter_directory(self, place: Place, name: bytes) -> Place:
        """The directory *name*, made for the caller alone if it is not there, as a pinned place:
        whoever gives its name to another directory gets nothing from us.
        """
        made = self.make_directory(place, name)
        below = place.child(name)
        with target_errors(below.path):
            fd = self._directories.fd(below)
            found = os.fstat(fd)
            # Between the two calls somebody else's may have taken the new one's place.
            if made and (found.st_uid != os.geteuid() or os.listdir(fd)):
                self._directories.forget(below)
                raise TargetRefused(f"{_text(below.path)} was replaced")
        return below._replace(pin=(found.st_dev, found.st_ino))

    def finish_directory(
        self, place: Place, entry: Entry, pin: tuple[int, int] | None = None
    ) -> list[str]:
        """Set the metadata of the directory *entry*.name in *place*, when all in it is done.

        *pin* is that of the place that was entered.
        """
        below = place.child(entry.name)._replace(pin=pin)
        with target_errors(below.path):
            return set_metadata(self._directories.fd(below), entry, self._owner)

    def create_file(self, place: Place, name: bytes, length: int, key: bytes = b"") -> bytes:
        """Make an empty file of *length* for the caller alone, and return its temporary name.

        With a *key* another process may go on with it, if this one dies.
        """
        with self._directory(place, name) as fd:
            temporary, file = unfinished.create_sized(fd, length, key)
            self._keep(place, temporary, file)
            return temporary

    def write(
        self, place: Place, temporary: bytes, offset: int, view: Buffer, sparse: bool = False
    ) -> None:
        """Write all of *view*; with *sparse*, aligned pages of zeros become holes."""
        with target_errors(_path_of(place, temporary)):
            _write(self.descriptor(place, temporary), offset, view, sparse)

    def clear(self, place: Place, temporary: bytes, offset: int, length: int) -> None:
        """Make *length* zeros of what stands there."""
        with target_errors(_path_of(place, temporary)):
            make_hole(self.descriptor(place, temporary), offset, length)

    def allocate(self, place: Place, temporary: bytes, offset: int, length: int) -> None:
        """Take the space for *length* zeros, in a file that must not have holes."""
        if length:
            with target_errors(_path_of(place, temporary)):
                os.posix_fallocate(self.descriptor(place, temporary), offset, length)

    def leave(self, place: Place, temporary: bytes) -> None:
        """Leave the unfinished file, as one of nobody, to whoever goes on with it."""
        self._forget(place, temporary)
        with suppress(OSError):
            unfinished.leave(self._directories.fd(place), temporary)

    def discard(self, place: Place, temporary: bytes) -> None:
        """Remove a temporary file. One that cannot be removed is one that is left over."""
        self._forget(place, temporary)
        with suppress(OSError):
            unfinished.remove(self._directories.fd(place), temporary)

    def sweep(self, place: Place, keyed: bool = True) -> None:
        """Remove what processes that died have left unfinished in *place*.

        Without *keyed* not that with which another one may go on.
        """
        fd = self._directories.fd(place)
        for name in unfinished.abandoned(fd):
            if keyed or not key_of(name):
                os.unlink(name, dir_fd=fd)

    def leftovers(self, place: Place) -> dict[bytes, bytes]:
        """By their keys, the temporary names of files in *place* that nobody works on any more."""
        names = unfinished.abandoned(self._directories.fd(place))
        return {key: name for name in names if (key := key_of(name))}

    def adopt(self, place: Place, leftover: bytes, length: int) -> bytes | None:
        """Go on with a file that is left over: its new temporary name, or None if it is not to be
        trusted, and removed.
        """
        with self._directory(place, leftover) as fd:
            found = unfinished.adopt(fd, leftover, length)
        if found is None:
            return None
        self._keep(place, *found)
        return found[0]

    def finish_file(
        self, place: Place, temporary: bytes, entry: Entry, replace: bool = False
    ) -> list[str]:
        """Set the metadata and give the file its name; the codes of what was not allowed.

        Where that fails, the file is to be left or discarded.
        """
        with self._directory(place, entry.name) as fd:
            file = self.descriptor(place, temporary)
            try:
                return self._finished(fd, file, temporary, entry, replace)
            except BaseException:
                with suppress(OSError):
                    unfinished.take_back(file)
                raise
            finally:
                self._forget(place, temporary)

    def write_file(
        self, place: Place, entry: Entry, pieces: Sequence[tuple[int, bytes]],
        zeros: Sequence[tuple[int, int]], replace: bool,
    ) -> list[str]:  # fmt: skip
        """Make a file of *pieces*, (offset, content), and *zeros*, (offset, length), which are all
        of it; the codes of what was not allowed. Nothing is left of it where that fails.
        """
        with self._directory(place, entry.name) as fd:
            temporary, file = unfinished.create(fd)
            try:
                with _removed(fd, temporary):
                    _fill(file, entry, pieces, zeros)
                    return self._finished(fd, file, temporary, entry, replace)
            finally:
                os.close(file)

    def _finished(
        self, fd: int, file: int, temporary: bytes, entry: Entry, replace: bool
    ) -> list[str]:
        found = os.fstat(file)
        if found.st_nlink != 1:  # by another name it would be somebody else's too
            raise TargetRefused(f"{_text(temporary)} was linked or removed")
        failed = set_metadata(file, entry, self._owner, found)
        publish(fd, (found.st_dev, found.st_ino), temporary, entry.name, replace)
        return failed

    @contextmanager
    def existing_file(self, place: Place, name: bytes, stat: Stat) -> Iterator[int]:
        """A descriptor to read the file that *stat* is of; TargetRefused if it is not as it was."""
        with self._directory(place, name) as fd:
            file = os.open(name, _READ_FLAGS, dir_fd=fd)
        try:
            if not to_stat(os.fstat(file)).same_content(stat):
                raise TargetRefused(f"{_shown(place, name)} was changed while it was compared")
            yield file
        finally:
            os.close(file)

    def may_keep(self, entry: Entry, stat: Stat) -> bool:
        return may_stay(entry, stat, self._owner)

    def keep(self, place: Place, entry: Entry, stat: Stat) -> list[str]:
        """Give what stands under the entry's name, and has its content, its metadata as well."""
        with self._directory(place, entry.name) as fd, _anchored(fd, entry.name) as (anchor, found):
            if not found.same_content(stat):
                raise TargetRefused(f"{_shown(place, entry.name)} was changed meanwhile")
            return set_metadata(anchored(anchor), entry, self._owner)

    def make_symlink(self, place: Place, entry: Entry, replace: bool = False) -> list[str]:
        with self._directory(place, entry.name) as fd:
            temporary = temporary_name()
            os.symlink(entry.target, temporary, dir_fd=fd)
            return self._finish_made(fd, temporary, entry, replace)

    def make_special(self, place: Place, entry: Entry, replace: bool = False) -> list[str]:
        """Make a fifo or a device; ["device"] if the caller may not, and then nothing is made."""
        format_bits = {
            FileType.FIFO: modes.S_IFIFO,
            FileType.CHARACTER: modes.S_IFCHR,
            FileType.BLOCK: modes.S_IFBLK,
        }[entry.type]
        with self._directory(place, entry.name) as fd:
            temporary = temporary_name()
            try:
                os.mknod(temporary, format_bits | 0o600, os.makedev(*entry.device), dir_fd=fd)
            except PermissionError:
                if entry.type is FileType.FIFO:
                    raise
                return ["device"]
            return self._finish_made(fd, temporary, entry, replace)

    def make_hard_link(
        self,
        place: Place,
        name: bytes,
        first_place: Place,
        first_name: bytes,
        identity: tuple[int, int],
        replace: bool = False,
    ) -> None:
        """Link *name* to the first name's inode; TargetRefused unless that is *identity*."""
        first_fd = self._directories.fd(first_place)
        with self._directory(place, name) as fd, _anchored(first_fd, first_name) as (anchor, stat):
            if stat.identity != identity:
                raise TargetRefused(f"{_shown(first_place, first_name)} was replaced")
            if not replace:
                return link(anchor, fd, name)
            there = self.exists(place, name)
            if there is not None and there.identity == identity:
                return  # renaming one name of a file over another does nothing
            temporary = temporary_name()
            link(anchor, fd, temporary)
            with _removed(fd, temporary):
                publish(fd, identity, temporary, name, replace)

    @contextmanager
    def _directory(self, place: Place, name: bytes) -> Iterator[int]:
        with target_errors(_path_of(place, name)):
            yield self._directories.fd(place)

    def _finish_made(self, fd: int, temporary: bytes, entry: Entry, replace: bool) -> list[str]:
        with _removed(fd, temporary), _anchored(fd, temporary) as (anchor, stat):
            # A second name would be that of somebody's file, linked here to be changed by us.
            if stat.type is not entry.type or stat.nlink != 1:
                raise TargetRefused(f"{_text(temporary)} was replaced")
            failed = set_metadata(anchored(anchor), entry, self._owner)
            publish(fd, stat.identity, temporary, entry.name, replace)
            return failed

    def descriptor(self, place: Place, temporary: bytes) -> int:
        """Of an unfinished file, for as long as some 60 others are not asked for."""
        file = self._files.get((place, temporary))
        if file is None:
            fd = self._directories.fd(place)
            file = self._keep(place, temporary, os.open(temporary, unfinished.FLAGS, dir_fd=fd))
            if not unfinished.is_own(file):
                self._forget(place, temporary)
                raise TargetRefused(f"{_shown(place, temporary)} was replaced")
        else:
            self._files.move_to_end((place, temporary))
        return file

    def _keep(self, place: Place, temporary: bytes, file: int) -> int:
        self._files[place, temporary] = file
        while len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return file

    def _forget(self, place: Place, temporary: bytes) -> None:
        file = self._files.pop((place, temporary), None)
        if file is not None:
            os.close(file)


def _write(file: int, offset: int, view: Buffer, sparse: bool) -> None:
    content = memoryview(view)
    if not sparse:
        return write_all(file, content, offset)
    for start, end, is_zero in runs(bytes(content), offset):
        if is_zero:
            make_hole(file, offset + start, end - start)
        else:
            write_all(file, content[start:end], offset + start)


def _fill(
    file: int, entry: Entry, pieces: Sequence[tuple[int, bytes]], zeros: Sequence[tuple[int, int]]
) -> None:
    if entry.sparse:
        os.ftruncate(file, entry.size)
    for offset, content in pieces:
        _write(file, offset, content, entry.sparse)
    if not entry.sparse:
        for offset, length in zeros:
            os.posix_fallocate(file, offset, length)


@contextmanager
def _anchored(fd: int, name: bytes) -> Iterator[tuple[int, Stat]]:
    anchor = open_anchor(fd, name)
    try:
        yield anchor, to_stat(os.fstat(anchor))
    finally:
        os.close(anchor)


@contextmanager
def _removed(fd: int, temporary: bytes) -> Iterator[None]:
    """If what is done with it fails."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            unfinished.remove(fd, temporary)
        raise


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """For what only asks: a name that is not there, or whose directory is another now.

    Whoever writes there meets the same error again, and tells of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _path_of(place: Place, name: bytes) -> Callable[[], bytes]:
    return lambda: place.child(name).path


def _shown(place: Place, name: bytes) -> str:
    return _text(place.child(name).path)


def _text(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
