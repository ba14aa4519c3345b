"""Scratch directories in TMPDIR: gone at the end, and those of dead processes when one is made.

    TMPDIR/PREFIXxxxxxxxx       locked (flock) for as long as its maker lives

One that can be locked is nobody's any more: the kernel lets go of a dead process's locks.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transfer.errors import TargetUnusable
from transfer.files.directories import OpenDirectories, Place
from transfer.files.metadata import stat_at
from transfer.formats.entry import FileType

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A directory for the caller alone; it is gone afterwards, whatever was made in it.

    Dead ones of the same *prefix* go before. Raises TargetUnusable where TMPDIR has none.
    """
    _sweep(prefix)
    try:
        top, lock = _made(prefix)
    except OSError as error:
        raise TargetUnusable(
            f"there is no place for temporary files: {error.strerror}",
            "name a directory that can be written with TMPDIR",
        ) from error
    try:
        yield Path(top)
    finally:
        try:
            _remove(os.fsencode(top))
        finally:
            os.close(lock)


def _made(prefix: str) -> tuple[str, int]:
    """A new directory, and the descriptor that locks it."""
    while True:
        top = os.path.abspath(tempfile.mkdtemp(prefix=prefix))
        try:
            lock = _locked(top)
        except FileNotFoundError:  # somebody found it before it was locked
            continue
        except OSError:
            os.rmdir(top)
            raise
        if lock is not None:
            if os.path.exists(top):
                return top, lock
            os.close(lock)


def _locked(path: str) -> int | None:
    """A descriptor that locks the directory; None if another process has it."""
    fd = os.open(path, _FLAGS)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd


def _sweep(prefix: str) -> None:
    left: list[str] = []
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as found:
        left = [each.path for each in found if each.name.startswith(prefix) and _is_ours(each)]
    for path in left:
        with suppress(OSError):  # another one sweeps, too
            if (lock := _locked(path)) is not None:
                try:
                    _remove(os.fsencode(os.path.abspath(path)))
                finally:
                    os.close(lock)


def _is_ours(entry: "os.DirEntry[str]") -> bool:
    with suppress(FileNotFoundError):
        is_own = entry.stat(follow_symlinks=False).st_uid == os.geteuid()
        return is_own and entry.is_dir(follow_symlinks=False)
    return False


def _remove(top: bytes) -> None:
    """Remove the directory *top*, which nobody else may write in, with all that is in it."""
    directories = OpenDirectories()
    stack = [(Place(top), _emptied(directories, Place(top)))]
    try:
        while True:
            place, below = stack[-1]
            if below:
                child = place.child(below.pop())
                stack.append((child, _emptied(directories, child)))
                continue
            directories.forget(place)
            stack.pop()
            if not stack:
                return os.rmdir(top)
            os.rmdir(place.parts[-1], dir_fd=directories.fd(stack[-1][0]))
    finally:
        directories.close()


def _emptied(directories: OpenDirectories, place: Place) -> list[bytes]:
    """Unlink all in *place* but its directories, whose names are what is left."""
    fd, left = directories.fd(place), []
    for name in map(os.fsencode, os.listdir(fd)):
        if stat_at(fd, name).type is not FileType.DIRECTORY:
            os.unlink(name, dir_fd=fd)
        else:
            os.chmod(name, 0o700, dir_fd=fd)  # a restored one may forbid to write, or to look
            left.append(name)
    return left
