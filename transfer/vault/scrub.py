"""How far a verification came: a round over all packs may take many runs, each with its budget.

Packs are looked at in order of their IDs, which are random: what a run has seen is a fair part of
the vault, and the ID of the last one is all that has to be remembered. It stands in the file
`scrub` of the vault's directory, and is a hint: without it a round begins again.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from transfer.errors import FormatError
from transfer.formats import documents
from transfer.formats.documents import Bytes16
from transfer.policy.token_bucket import MAX_RATE, SECOND, TokenBucket
from transfer.vault.durable import write_durably

_MAX = 1024
_SAVED = 60 * SECOND


class Budget:
    """*seconds* and *rate* (bytes a second) that a run may take; None is no limit.

    It begins to run when it is made. `clock` is in ns.
    """

    def __init__(
        self, seconds: float | None = None, rate: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], object] | None = None,
    ) -> None:  # fmt: skip
        self._stopped, self._save_at = threading.Event(), clock() + _SAVED
        self._clock, self._sleep = clock, sleep or self._stopped.wait
        self._end = None if seconds is None else clock() + int(seconds * SECOND)
        self._bucket = None if rate is None else TokenBucket(min(rate, MAX_RATE), clock())

    def stop(self) -> None:
        """It is used up from now on; from any thread."""
        self._stopped.set()

    @property
    def is_limited(self) -> bool:
        """Whether the time may end before everything is read."""
        return self._end is not None

    @property
    def is_used_up(self) -> bool:
        ended = self._end is not None and self._clock() >= self._end
        return ended or self._stopped.is_set()

    def is_time_to_save(self) -> bool:
        """Once a minute."""
        if self._clock() < self._save_at:
            return False
        self._save_at = self._clock() + _SAVED
        return True

    def read(self, size: int) -> None:
        """*size* bytes were read: wait until the rate has brought them."""
        if self._bucket is None:
            return
        self._bucket.take(size, self._clock())
        debt = -self._bucket.level(self._clock())
        if debt > 0:
            self._sleep(debt / self._bucket.rate)


class _Seen(msgspec.Struct, frozen=True):
    after: Bytes16


class Round:
    """The packs of one round that are still to be seen, in the vault at *root*."""

    def __init__(self, root: Path, budget: Budget) -> None:
        self._path, self.budget = root / "scrub", budget
        self.after = self._remembered() if budget.is_limited else b""
        """The ID of the last pack that was seen; empty at the beginning."""
        self.has_seen_some = False
        """In this run: one that saw nothing would never come to an end."""

    @property
    def part(self) -> float:
        """How much of the vault was seen, from 0 to 1."""
        return int.from_bytes(self.after[:4].ljust(4, b"\0"), "big") / 2**32

    def is_seen(self, pack: bytes) -> bool:
        return pack <= self.after

    def saw(self, pack: bytes) -> None:
        """Remembered now and then: whoever is killed has not read for nothing."""
        self.after, self.has_seen_some = pack, True
        if self.budget.is_limited and self.budget.is_time_to_save():
            self.stop()

    def stop(self) -> None:
        """The next run goes on from here."""
        write_durably(self._path, documents.encode(_Seen(self.after)))

    def end(self) -> None:
        """The next run begins a new round."""
        self._path.unlink(missing_ok=True)

    def _remembered(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return documents.decode(file.read(_MAX), _Seen, str(self._path)).after
        except (FileNotFoundError, FormatError):
            return b""
