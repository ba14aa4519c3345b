"""The journal of an item's runs with one vault, in the state directory.

It is bound to vault and item, and written under the item's lock. It answers three questions about
the run before, if that was interrupted: did it post a point whose fate it never heard; which
session was its own; and what has it read already. The answers are hints. What is in doubt is asked
of the vault, a session goes on only if the vault agrees, and of what was read the vault is asked
for every block.

What runs read is kept until a point is committed, over as many interruptions as it takes. It is
not synced: what it says is void after a crash of the machine, as pipeline/resume.py explains.
"""

import asyncio
import errno
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from transfer.errors import NoSpace, UsageError
from transfer.formats import journal as codec
from transfer.formats.journal import Begin, End, Ids, PointPosted, Read, Record
from transfer.jobs.known_reads import KnownReads

MAX_JOURNAL = 2**30  # bytes; what was read beyond, some 10 TiB, is read again
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Interrupted(NamedTuple):
    """A run without an end: how it began, and the point that it posted, if it came so far."""

    begin: Begin
    in_doubt: bytes | None


class RunJournal:
    """Raises NoSpace or UsageError if the state directory cannot hold it.

    `recall` and `note` make it `pipeline.resume.Reads`.
    """

    def __init__(self, state: Path, vault: bytes, item: bytes) -> None:
        self._path = state / "journals" / f"{vault.hex()}.{item.hex()}"
        self._lock = threading.Lock()
        self._file, self._end, self._open_run = -1, 0, False
        self._begun = 0  # what stands before this says more than what was read
        self._known: KnownReads | None = None

    def interrupted(self) -> Interrupted | None:
        """The last run, if its end is not known; None if it ended, or there was none."""
        begin, in_doubt = None, None
        for record in self._records():
            match record:
                case Begin():
                    begin = record
                case PointPosted():
                    in_doubt = record.point
                case End():
                    begin = in_doubt = None
        return None if begin is None else Interrupted(begin, in_doubt)

    def begin(self, begin: Begin, resume: bool) -> bool:
        """Whether it is known what runs before have read; without *resume* all of that goes."""
        self.close()
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self._path, flags, 0o600)
            self._known = self._load() if resume else None
            if not resume:
                self._end, self._open_run = 0, False
            os.ftruncate(self._file, self._end)
        except OSError as error:
            raise self._translated(error) from error
        if self._open_run:
            self._append(End(False))
        self._append(begin)
        self._begun = self._end
        return self._known is not None

    def post(self, point: bytes) -> None:
        """*point* is in doubt from here on; durable on return."""
        self._append(PointPosted(point))

    def end(self, committed: bool) -> None:
        """After a commit nothing is left to go on from, and what was read is forgotten."""
        self._append(End(committed))
        if committed:
            with self._lock, suppress(OSError):
                os.ftruncate(self._file, 0)

    async def recall(self, keys: Sequence[bytes]) -> list[Ids | None]:
        return await asyncio.to_thread(self._recall, keys)

    async def note(self, extents: Sequence[tuple[bytes, Ids]]) -> None:
        await asyncio.to_thread(self._note, Read(tuple(extents)))

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            if self._known is not None:
                self._known.close()
                self._known = None

    def _recall(self, keys: Sequence[bytes]) -> list[Ids | None]:
        with self._lock:
            if self._known is None:
                return [None] * len(keys)
            return self._known.find(keys)

    def _note(self, read: Read) -> None:
        """A journal that cannot grow costs a later run some reading, and this one nothing."""
        raw = codec.encode(read)
        with self._lock:
            if self._file < 0 or self._end + len(raw) > MAX_JOURNAL:
                return
            with suppress(OSError):
                self._write(raw)

    def _append(self, record: Record) -> None:
        try:
            with self._lock:
                self._write_at_any_cost(codec.encode(record))
                os.fsync(self._file)
        except OSError as error:
            raise self._translated(error) from error
        self._open_run = not isinstance(record, End)

    def _write_at_any_cost(self, raw: bytes) -> None:
        """What this run has read is forgotten before a point cannot be posted."""
        try:
            self._write(raw)
        except OSError:
            if not 0 < self._begun < self._end:
                raise
            os.ftruncate(self._file, self._begun)
            self._end = self._begun
            self._write(raw)

    def _write(self, raw: bytes) -> None:
        """All of it, or nothing: what stands behind a torn record is not read."""
        if os.pwrite(self._file, raw, self._end) != len(raw):
            os.ftruncate(self._file, self._end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._end += len(raw)

    def _load(self) -> KnownReads | None:
        """What was read since the last commit; the end of the last whole record is where to go on.

        None if that is nothing.
        """
        self._end, self._open_run = 0, False
        known = KnownReads(self._path.parent)
        try:
            for record, end in _walk(self._file):
                self._end, self._open_run = end, not isinstance(record, End)
                match record:
                    case End(committed=True):
                        known.clear()
                    case Read():
                        known.add(record.extents)
        except BaseException:
            known.close()
            raise
        if not known:
            known.close()
            return None
        return known

    def _records(self) -> list[Record]:
        """All but what was read."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._translated(error) from error
        try:
            return [record for record, _ in _walk(file) if not isinstance(record, Read)]
        finally:
            os.close(file)

    def _translated(self, error: OSError) -> NoSpace | UsageError:
        message = f"journal {self._path}: {error.strerror}"
        if error.errno in _FULL:
            return NoSpace(message, "make room, then run again")
        return UsageError(message, "choose another state directory with --state")


def _walk(file: int) -> Iterator[tuple[Record, int]]:
    if os.fstat(file).st_size == 0:
        return
    with mmap.mmap(file, 0, prot=mmap.PROT_READ) as raw:
        yield from codec.walk(raw)
