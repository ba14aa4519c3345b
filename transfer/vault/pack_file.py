"""Reading a pack from the disk, frame by frame, through a window of some 8 MiB.

It is read and not mapped: under a mapping a bad sector is SIGBUS and the end of the process; here
it is a page of zeros, and costs the frame that it lies in.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from blake3 import blake3

from transfer.errors import FormatError, NewerFormat
from transfer.formats import frame, pack
from transfer.formats.pack import FOOTER_SIZE, HEADER_SIZE, IndexEntry, PackHeader

_STEP = frame.MAX_FRAME
_SECTOR = 4096


class Contents(NamedTuple):
    entries: list[IndexEntry]  # whole frames, ascending
    lost: list[IndexEntry]  # what the pack's index names beside them
    faults: list[str]  # what is wrong with the pack as a whole
    size: int
    cut: int  # where the last whole frame ends
    hash: blake3  # of all before the cut
    closed: bool  # there is a sound trailer, or one that tells what is lost
    readable: bool  # all of it


def examine(
    path: Path, header: PackHeader, end: int | None = None,
    done: Callable[[int], None] = lambda size: None,
) -> Contents | None:  # fmt: skip
    """What the pack *header* holds at *path*, up to *end* (default: the file's); None for no pack.

    *done* is called with the bytes of each read. A file whose own header is another one was moved
    or swapped: nothing in it is taken.
    """
    try:
        with PackFile(path, done) as file:
            return None if file.header() != header else _contents(file, end)
    except (OSError, FormatError):
        return None


def _contents(file: "PackFile", end: int | None) -> Contents:
    entries, faults = list(file.frames(end)), [] if file.readable else ["sectors cannot be read"]
    trailer, sound = None, False
    # A whole frame that ends behind the footer's place holds it: those are a client's bytes.
    if end is None and file.cut <= file.size - FOOTER_SIZE:
        try:
            trailer = file.trailer()
        except FormatError as error:
            faults.append(str(error))
    if trailer is not None:
        sound = file.digest() == trailer.digest
        faults += [] if sound else ["the pack's BLAKE3 does not hold"]
    elif end is None and not faults:
        faults.append("there is no trailer")
    whole = {(entry.reference, entry.offset) for entry in entries}
    index = trailer.entries if trailer is not None else ()
    lost = [entry for entry in index if (entry.reference, entry.offset) not in whole]
    closed = sound or bool(lost)
    return Contents(entries, lost, faults, file.size, file.cut, file.hash, closed, file.readable)


class PackFile:
    """Raises OSError; unreadable sectors read as zeros."""

    def __init__(self, path: Path, done: Callable[[int], None] = lambda size: None) -> None:
        self._done = done
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        self.readable = True
        self.size = os.fstat(self._file).st_size
        self.cut = HEADER_SIZE
        self.hash = blake3(self._read(0, HEADER_SIZE))

    def __enter__(self) -> "PackFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        os.close(self._file)

    def header(self) -> PackHeader:
        """Raises FormatError."""
        return pack.decode_header(self._read(0, HEADER_SIZE))

    def trailer(self) -> pack.Trailer | None:
        """None for an open pack; raises FormatError. Its digest is yet to be compared."""
        footer = self._read(max(0, self.size - FOOTER_SIZE), FOOTER_SIZE)
        index_at = int.from_bytes(footer[8:16], "little")
        if not HEADER_SIZE <= index_at < self.size - FOOTER_SIZE:
            index_at = max(0, self.size - FOOTER_SIZE)
        if footer[4] != 1:
            index_at = 0  # a later version's is believed for its digest, which covers all
        # The decoder takes the whole pack; pages of an anonymous mapping cost nothing until used.
        whole = memoryview(mmap.mmap(-1, max(self.size, 1)))[: self.size]
        whole[index_at:] = self._read(index_at, self.size - index_at)
        return pack.decode_trailer(whole)

    def frames(self, end: int | None = None) -> Iterator[IndexEntry]:
        """Each whole frame that ends before *end*, ascending; advances `cut` and `hash`.

        A damaged frame in the middle costs itself only. Raises NewerFormat for a frame of a later
        version that follows whole ones.
        """
        end = self.size if end is None else min(end, self.size)
        at = base = hashed = HEADER_SIZE  # where to look next; where the window begins
        window, running = b"", self.hash.copy()
        while at < end:
            seen = base + len(window)
            if at + frame.MAX_FRAME > seen and seen < end:
                running.update(memoryview(window)[hashed - base : at - base])
                tail, window = window[at - base :], b""  # never two windows at once
                window = tail + self._read(seen, min(_STEP, end - seen))
                base, hashed, seen = at, at, at + len(window)
            # What begins behind this may go on behind the window.
            decided = end if seen == end else seen - frame.MAX_FRAME
            try:
                found = _first(window, at - base)
            except NewerFormat:
                if at == self.cut:
                    raise
                at += 1  # after damage: a client's bytes inside of a frame
                continue
            if found is None or base + found.offset > decided:
                at = decided + 1
                continue
            at = self.cut = base + found.offset + found.frame_length
            running.update(memoryview(window)[hashed - base : at - base])
            self.hash, hashed = running.copy(), at
            yield found._replace(offset=base + found.offset)

    def digest(self) -> bytes:
        """BLAKE3 of all before the footer."""
        total, at = self.hash.copy(), self.cut
        while at < self.size - FOOTER_SIZE:
            part = self._read(at, min(_STEP, self.size - FOOTER_SIZE - at))
            total.update(part)
            at += len(part)
        return total.digest()

    def _read(self, offset: int, length: int) -> bytes:
        """*length* bytes, zeros for those that cannot be read."""
        try:
            raw = os.pread(self._file, length, offset)
        except OSError:
            if length <= _SECTOR:
                self.readable = False
                return bytes(length)
            raw = self._read(offset, length // 2)
        self._done(len(raw))
        if not raw:
            return bytes(length)
        return raw if len(raw) == length else raw + self._read(offset + len(raw), length - len(raw))


def _first(window: bytes, start: int) -> IndexEntry | None:
    """The first whole frame in *window*, by its place there."""
    found = next(pack.walk(window, start), None)
    return None if found is None else pack.entry_of(found.frame.header, found.offset)
