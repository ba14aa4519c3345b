"""The journal of an item's runs with one vault, in the state directory.

It is bound to vault and item, and written under the item's lock. Today it answers one question: did
the last run post a point whose fate it never heard? Whatever is in doubt is asked of the vault.
"""

import errno
import os
from pathlib import Path

from transfer.errors import NoSpace, UsageError
from transfer.formats import journal as codec
from transfer.formats.journal import Begin, End, PointPosted, Record

MAX_JOURNAL = 64 * 2**20


class RunJournal:
    """Raises NoSpace or UsageError if the state directory cannot hold it."""

    def __init__(self, state: Path, vault: bytes, item: bytes) -> None:
        self._path = state / "journals" / f"{vault.hex()}.{item.hex()}"
        self._file = -1

    def in_doubt(self) -> bytes | None:
        """ID of a point that was posted, and whose end is not known."""
        try:
            with self._path.open("rb") as file:
                records = codec.decode_all(file.read(MAX_JOURNAL)).records
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._translated(error) from error
        last = records[-1] if records else None
        return last.point if isinstance(last, PointPosted) else None

    def begin(self, begin: Begin) -> None:
        """What the runs before have left is settled, and goes."""
        self.close()
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            self._file = os.open(self._path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._translated(error) from error
        self._append(begin)

    def post(self, point: bytes) -> None:
        """*point* is in doubt from here on; durable on return."""
        self._append(PointPosted(point))

    def end(self, committed: bool) -> None:
        self._append(End(committed))

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, record: Record) -> None:
        try:
            raw = codec.encode(record)
            if os.write(self._file, raw) != len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            raise self._translated(error) from error

    def _translated(self, error: OSError) -> NoSpace | UsageError:
        message = f"journal {self._path}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpace(message, "make room, then run again")
        return UsageError(message, "choose another state directory with --state")
