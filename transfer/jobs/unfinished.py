"""Marks of restores that are under way, in the state directory's `restores`.

A mark is made before the first byte is written, and goes when all is durable. Until then it says
that what stands in the target is not whole, and when that restore began: a later one of the same
point into the same target goes on from there. It is a hint: whatever stands in the target is
compared with the point before it is kept.

The file is locked by the process that restores. A second one does its own work without a mark.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from blake3 import blake3

from transfer.errors import FormatError
from transfer.files.system import boot_id
from transfer.formats import documents
from transfer.formats.documents import Bytes16, Bytes32, Time
from transfer.jobs.state import StateDirectory, state_errors
from transfer.vault.durable import sync_directory

_TICK = 20_000_000  # ns; the clock of a file system's times may be that much behind
_MAX = 2**20
_LOST = "lost"


class Unfinished(msgspec.Struct, frozen=True):
    """*begun* is ns of the clock; *target* the absolute path that --to named.

    Outside of *boot* files may have lost content that had got their names. *choice* hashes what is
    restored and how; another choice is another restore.
    """

    vault: Bytes16
    point: Bytes32
    item: str
    target: bytes
    begun: Time
    boot: str
    choice: bytes = b""
    own: tuple[tuple[bytes, int], ...] = ()
    """Handles of images that it writes, whatever their names are, and their ctimes when whole."""


def mark(vault: bytes, point: bytes, item: str, target: bytes, *choice: object) -> Unfinished:
    """Of a restore that begins now."""
    hashed = blake3(repr(choice).encode()).digest(16)
    return Unfinished(vault, point, item, target, time.time_ns() - _TICK, boot_id(), hashed)


class RestoreMark:
    """Of one restore; its methods block."""

    def __init__(self, state: StateDirectory, mark: Unfinished) -> None:
        name = blake3(mark.vault + mark.point + mark.choice + mark.target).hexdigest(16)
        self._path, self._mark, self._fd = state.path / "restores" / name, mark, -1

    def begin(self) -> Unfinished | None:
        """The mark of an interrupted restore, to go on with; durable on return."""
        with state_errors(self._path):
            made = self._path.parent
            made.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._close()
                return None
            earlier = _read(self._fd)
            if earlier is None:
                os.ftruncate(self._fd, 0)
                self._write(self._mark)
            else:
                self._mark = earlier
                os.fsync(self._fd)
            # Also of one that was killed before it had done so.
            for directory in (made, made.parent):
                sync_directory(directory)
            return earlier

    def owns(self, handle: bytes, finished: int = 0) -> None:
        """The image with that *handle* is written from now on; durable on return.

        *finished* is its ctime once it is whole: with another one somebody has used it since.
        """
        own = dict(self._mark.own) | {handle: finished}
        if self._fd >= 0 and own != dict(self._mark.own):
            with state_errors(self._path):
                self._write(msgspec.structs.replace(self._mark, own=tuple(own.items())))

    def is_own(self, handle: bytes, ctime: int) -> bool:
        return dict(self._mark.own).get(handle, -1) in (0, ctime)

    def doubts(self) -> None:
        """A disk has lost something of what was written, as in a crash."""
        if self._fd >= 0:
            with state_errors(self._path):
                self._write(msgspec.structs.replace(self._mark, boot=_LOST))

    def _write(self, mark: Unfinished) -> None:
        """Behind what is there, so that a cut leaves the one before."""
        raw, self._mark = documents.encode(mark) + b"\n", mark
        if os.write(self._fd, raw) != len(raw):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._fd)

    def end(self, whole: bool) -> None:
        """Without *whole* the mark stays, for the next one to go on with."""
        if whole and self._fd >= 0:
            with suppress(OSError):
                self._path.unlink()
                sync_directory(self._path.parent)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def unfinished(state: StateDirectory) -> list[Unfinished]:
    """All that nobody works on, the oldest first."""
    found: list[Unfinished] = []
    with suppress(FileNotFoundError):
        for path in (state.path / "restores").iterdir():
            with _opened(path) as fd:
                if (each := _read(fd)) is not None and _is_free(fd):
                    found.append(each)
    return sorted(found, key=lambda each: each.begun)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


def _read(fd: int) -> Unfinished | None:
    """As it was written last; None if none is whole: then nothing was restored either."""
    for line in reversed(os.pread(fd, _MAX, 0).splitlines()):
        with suppress(FormatError):
            return documents.decode(line, Unfinished, "a restore's mark")
    return None


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
