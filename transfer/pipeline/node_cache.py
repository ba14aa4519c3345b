"""Node cache: the nodes of an item's newest point on this machine's disk, sealed as in the vault.

A backup reads its parent's nodes and pages. From a far vault that would be a download of them all,
each time; so what a run read and made of them stays here for the next one.

Nothing is believed because it comes from here: it is opened and held against its ID as what comes
from the vault is, and what does not open is fetched. Losing the cache costs a download.

The file holds frames back to back, in no order; its index is made by walking their headers. It is
bounded by `limit` bytes and MAX_NODES frames (some 200 bytes of memory for each); what is beyond is
not kept. A run replaces it when its point is committed, and leaves it alone otherwise.
"""

import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from transfer.errors import FormatError, NewerFormat
from transfer.formats import frame
from transfer.formats.reference import REFERENCE_SIZE, Kind, Reference, decode_references

LIMIT = 512 * 2**20
MAX_NODES = 100_000
_WINDOW = 2**20
_Place = tuple[int, int]  # offset and length


class NodeCache:
    """Synchronous; its methods may be called from several threads.

    What cannot be read or written is not there: a cache never fails a run.
    """

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self._path, self._limit = path, limit
        self._new_path = path.with_name(f".{path.name}.new")
        self._lock = threading.Lock()
        self._old, self._new = -1, -1
        self._places: dict[Reference, _Place] = {}
        self._used: dict[Reference, _Place] = {}
        self._added: set[Reference] = set()
        self._size = 0  # of what will be kept

    def open(self) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._old = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._places = dict(_walk(self._old))

    def get(self, references: Sequence[Reference]) -> list[bytes | None]:
        """What is there of *references*, not checked; it is kept for the next run."""
        with self._lock:
            return [self._get(reference) for reference in references]

    def keep(self, references: Sequence[Reference]) -> None:
        """These are in the new point, with all that is below them: kept, as far as they are here.

        What they say is not checked; at the worst nodes are kept that nobody asks for.
        """
        left = list(references)
        with self._lock:
            while left:
                reference = left.pop()
                place = self._places.get(reference)
                if place is None or reference in self._used:
                    continue
                self._use(reference, place)
                if reference.kind is Kind.STREAM and reference.level > 1:
                    left += self._children(place)

    def _children(self, place: _Place) -> list[Reference]:
        try:
            raw = os.pread(self._old, place[1], place[0])
            header = frame.decode_header(raw)
            if header is None:
                return []
            end = frame.HEADER_SIZE + header.child_count * REFERENCE_SIZE
            return list(decode_references(raw[frame.HEADER_SIZE : end]))
        except (OSError, FormatError, NewerFormat):
            return []

    def _get(self, reference: Reference) -> bytes | None:
        place = self._places.get(reference)
        if place is None:
            return None
        try:
            raw = os.pread(self._old, place[1], place[0])
        except OSError:
            return None
        self._use(reference, place)
        return raw

    def _use(self, reference: Reference, place: _Place) -> None:
        if reference not in self._used and self._has_room(place[1]):
            self._used[reference] = place
            self._size += place[1]

    def forget(self, reference: Reference) -> None:
        """It did not open."""
        with self._lock:
            self._places.pop(reference, None)
            self._size -= self._used.pop(reference, (0, 0))[1]

    def add(self, frames: Iterable[tuple[Reference, bytes | memoryview]]) -> None:
        with self._lock:
            try:
                for reference, raw in frames:
                    self._add(reference, raw)
            except OSError:
                self._limit = 0  # a full disk: what is there already is worth keeping

    def _add(self, reference: Reference, raw: bytes | memoryview) -> None:
        known = reference in self._added or reference in self._used
        if known or not self._has_room(len(raw)):
            return
        if self._new < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            self._new = os.open(self._new_path, flags, 0o600)
        _append(self._new, raw)
        self._added.add(reference)
        self._size += len(raw)

    def _has_room(self, size: int) -> bool:
        count = len(self._used) + len(self._added)
        return self._size + size <= self._limit and count < MAX_NODES

    def commit(self) -> None:
        """What this run read and added is what the next one finds."""
        with self._lock, suppress(OSError):
            if self._new < 0:
                return  # nothing is new: the old one is as good
            for offset, length in self._used.values():
                _append(self._new, os.pread(self._old, length, offset))
            os.rename(self._new_path, self._path)

    def close(self) -> None:
        with self._lock, suppress(OSError):
            for descriptor in (self._old, self._new):
                if descriptor >= 0:
                    os.close(descriptor)
            self._old = self._new = -1
            self._places.clear()
            self._limit = 0  # a thread of a cancelled run may still come
            self._new_path.unlink(missing_ok=True)


def _append(descriptor: int, raw: bytes | memoryview) -> None:
    """All of *raw* or nothing, so that what follows can be found."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    if os.write(descriptor, raw) != len(raw):
        os.ftruncate(descriptor, end)
        raise OSError("the disk is full")


def _walk(descriptor: int) -> Iterable[tuple[Reference, _Place]]:
    """The frames of a file, up to the first thing that is none."""
    size, at = os.fstat(descriptor).st_size, 0
    window, start = b"", 0
    for _ in range(MAX_NODES):
        if at + frame.HEADER_SIZE > start + len(window):
            window, start = os.pread(descriptor, _WINDOW, at), at
        try:
            header = frame.decode_header(window, at - start)
        except (FormatError, NewerFormat):
            return
        if header is None or at + header.frame_length > size:
            return
        yield header.reference, (at, header.frame_length)
        at += header.frame_length
