"""Several processes of one machine under one limit: a small mapped file, under `flock`.

The file holds the buckets themselves, of up, down and total, and a slot for each process: what
it wishes the limits to be, and what it waits for. Nobody owns the file, and no process holds
bytes ahead of its need, so one that is killed leaves nothing behind but a slot that lapses:

* The lowest wish of the living holds, so two that know different timetables exceed neither.
* Processes share by start-time fair queueing, as flows do. One whose turn comes later leaves in
  the bucket what those before it wait for, and takes what is beyond. If those are dead, or do
  not get round to it, that is one step each, kept back once; and from a full bucket, anyone takes.
* A slot lives while its process looks, every 50 ms, and 3 s more; a claim, 0.2 s.

The lock is held for some 50 us and never waited for. Times are those of the monotonic clock, which
begins anew with the machine; a file from before then counts as empty.
"""

import errno
import fcntl
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transfer.errors import TransientError, UsageError
from transfer.policy.token_bucket import MAX_RATE, SECOND, Hold, TokenBucket
from transfer.throttle.rules import POOLS, Pool, Rates

LOOK = 50_000_000  # ns: how late another process's change may be seen
_LAPSE, _CLAIM, _AGAIN = 3 * SECOND, SECOND // 5, SECOND // 50
_LATE = 5  # what a fifth of a second brings is the most that a busy machine makes one catch up on
_MAGIC = int.from_bytes(b"\0limit\0\1", "big")  # the last byte is the version
_NONE = -1  # a rate that is no limit
_SLOTS = 64
# Cells of 8 bytes: the header, then a record for each pool, then one for each slot.
_POOL, _SLOT = 8, 32
_POOL_CELLS, _SLOT_CELLS = 4, 16
_SIZE = 8 * (_SLOT + _SLOTS * _SLOT_CELLS)
_LEVEL, _UPDATED, _RATE, _VIRTUAL = range(_POOL_CELLS)
_ID, _SEEN, _WEIGHT, _FIRST = 0, 1, 2, 4  # in a slot; from _FIRST on four cells for each pool:
_WISH, _FINISH, _CLAIMED, _CLAIMED_AT = range(4)
_SCALE = 8  # virtual time in 2**-8 bytes: years at any rate fit
_WRAP = 1 << 60
_MOST_DEBT = 2**30 * SECOND


class SharedLimits:
    """This process's place in the file at *path*, which is made if it is missing.

    Raises UsageError if that is another kind of file, TransientError if 64 others use it.
    """

    def __init__(
        self, path: Path, weight: int = 1, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        if weight < 1:
            raise ValueError(f"need a weight of at least 1, got {weight}")
        self.path, self.weight = path, weight
        self._wishes: Rates = (None, None, None)
        self.rates: Rates = (None, None, None)
        """What is in force, since the file was last held."""
        self.alone = True
        """Whether no other process looked lately, then."""
        self._id, self._slot = secrets.randbits(62) + 1, -1
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._map = self._opened()
        except BaseException:
            os.close(self._file)
            raise
        self.cells = memoryview(self._map).cast("q")
        self.buckets: dict[Pool, SharedBucket] = {
            pool: SharedBucket(self, index, clock()) for index, pool in enumerate(POOLS)
        }

    def _opened(self) -> mmap.mmap:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            size = os.fstat(self._file).st_size
            if size == 0:
                self._begin()
            elif size != _SIZE or os.pread(self._file, 8, 0) != _MAGIC.to_bytes(8, "little"):
                raise UsageError(
                    f"{self.path} holds no limits of this version",
                    "name another file, or remove it while no transfer runs",
                )
            return mmap.mmap(self._file, _SIZE)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _begin(self) -> None:
        whole = _MAGIC.to_bytes(8, "little").ljust(_SIZE, b"\0")
        try:
            if os.pwrite(self._file, whole, 0) < _SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError:
            os.ftruncate(self._file, 0)  # else it would be taken for another kind of file
            raise

    def wish(self, rates: Rates) -> None:
        """What this process knows as the machine's limits; in force once the file is held."""
        self._wishes = rates

    @contextmanager
    def held(self, now: int) -> Iterator[bool]:
        """Whether the buckets are ours until the end; False at once if another process has them."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            self._enter(now)
            yield True
            for bucket in self.buckets.values():
                bucket.store()
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Others no longer regard this process's wishes. Twice is once."""
        if self._file < 0:
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        if self._slot >= 0 and self.cells[self._at(self._slot)] == self._id:
            self.cells[self._at(self._slot)] = 0
        self.cells.release()
        self._map.close()
        os.close(self._file)
        self._file = -1

    def _at(self, slot: int) -> int:
        return _SLOT + slot * _SLOT_CELLS

    def living(self, now: int) -> list[int]:
        """The first cells of the slots whose processes looked lately."""
        cells = self.cells
        return [
            at
            for at in range(_SLOT, _SLOT + _SLOTS * _SLOT_CELLS, _SLOT_CELLS)
            if cells[at + _ID] and 0 <= now - cells[at + _SEEN] <= _LAPSE
        ]

    def _enter(self, now: int) -> None:
        at = self._place(now)
        self.cells[at + _SEEN] = now
        for index, wish in enumerate(self._wishes):
            self.cells[at + _FIRST + 4 * index + _WISH] = _NONE if wish is None else wish
        living = self.living(now)
        self.alone = len(living) == 1
        rates = []
        for index, bucket in enumerate(self.buckets.values()):
            wishes = [self.cells[each + _FIRST + 4 * index + _WISH] for each in living]
            rate = min((each for each in wishes if 0 <= each <= MAX_RATE), default=None)
            bucket.load(rate, now, at, living)
            rates.append(rate)
        up, down, total = rates
        self.rates = (up, down, total)

    def _place(self, now: int) -> int:
        """The first cell of our slot; of a new one if ours lapsed and was taken."""
        at = self._at(self._slot)
        if self._slot >= 0 and self.cells[at + _ID] == self._id:
            return at
        living = set(self.living(now))
        free = (slot for slot in range(_SLOTS) if self._at(slot) not in living)
        self._slot = next(free, -1)
        if self._slot < 0:
            raise TransientError(
                f"{_SLOTS} processes share the limits in {self.path}", "wait until one ends"
            )
        at = self._at(self._slot)
        self.cells[at : at + _SLOT_CELLS] = memoryview(bytes(8 * _SLOT_CELLS)).cast("q")
        self.cells[at + _ID], self.cells[at + _WEIGHT] = self._id, self.weight
        return at


class SharedBucket(TokenBucket):
    """The bucket in the file, to be used only while that is held."""

    def __init__(self, file: SharedLimits, index: int, now: int) -> None:
        super().__init__(0, now)
        self._file, self._pool = file, _POOL + index * _POOL_CELLS
        self._place = _FIRST + 4 * index
        self._mine, self._living = 0, list[int]()

    def load(self, rate: int | None, now: int, mine: int, living: list[int]) -> None:
        """As it is in the file, settled up to *now*, and at *rate* from now on."""
        cells, at = self._file.cells, self._pool
        self._mine, self._living = mine, living
        level, updated = cells[at + _LEVEL], cells[at + _UPDATED]
        known = cells[at + _RATE]
        if not 0 < updated <= now or not 0 <= known <= MAX_RATE:
            level, updated, known = 0, now, rate or 0
        if (level, updated) != (self._level, self._updated):
            self._forget_holds()
        if known != self.rate:
            self._adopt(known)
        self._level, self._updated = max(min(level, self._full), -_MOST_DEBT), updated
        if rate is not None and rate != known:
            self.set_rate(rate, now)
        cells[at + _RATE] = _NONE if rate is None else rate
        if cells[at + _VIRTUAL] > _WRAP:
            self._rewind()

    def store(self) -> None:
        cells, at = self._file.cells, self._pool
        cells[at + _LEVEL], cells[at + _UPDATED] = self._level, self._updated

    def ready_at(self, amount: int, now: int) -> int | None:
        ahead = self._claim(amount, now)
        return super().ready_at(min(amount + ahead, max(self.burst, amount)), now)

    def take(self, amount: int, now: int, hold: Hold | None = None) -> None:
        super().take(amount, now, hold)
        if hold is None:
            return  # control goes at once, whoever's turn it is
        cells, mine = self._file.cells, self._mine + self._place
        start = self._start(self._mine)
        cells[self._pool + _VIRTUAL] = max(start, cells[self._pool + _VIRTUAL])
        cells[mine + _FINISH] = start + (amount << _SCALE) // self._file.weight
        # The claim stands for a moment: whoever is hungry asks again as soon as it gets to run.
        cells[mine + _CLAIMED_AT] = now - _CLAIM + _AGAIN

    def _claim(self, amount: int, now: int) -> int:
        """Say what we wait for; how many bytes those wait for whose turn comes before ours."""
        cells, mine = self._file.cells, self._mine + self._place
        if not self._claims(self._mine, now):  # it was idle, and is owed nothing
            cells[mine + _FINISH] = max(cells[mine + _FINISH], cells[self._pool + _VIRTUAL])
        cells[mine + _CLAIMED], cells[mine + _CLAIMED_AT] = amount, now
        ours, ahead = (self._start(self._mine), self._mine), 0
        for at in self._living:
            if at != self._mine and self._claims(at, now) and (self._start(at), at) < ours:
                ahead += cells[at + self._place + _CLAIMED]
        return ahead

    def _claims(self, at: int, now: int) -> bool:
        cells, place = self._file.cells, self._place
        fresh = 0 <= now - cells[at + place + _CLAIMED_AT] <= _CLAIM
        return fresh and cells[at + place + _CLAIMED] > 0

    def _start(self, at: int) -> int:
        """When its turn is due: others may have taken theirs first, while it did not get to run."""
        cells = self._file.cells
        late = (self.rate // _LATE << _SCALE) // max(1, cells[at + _WEIGHT])
        return max(cells[self._pool + _VIRTUAL] - late, cells[at + self._place + _FINISH])

    def _forget_holds(self) -> None:
        """Others used the bucket: it may have been full since, and nothing is given back."""
        self._marks, self._rooms = [self._mark], [0]
        self._mark += 1

    def _rewind(self) -> None:
        cells = self._file.cells
        cells[self._pool + _VIRTUAL] = 0
        for slot in range(_SLOTS):
            cells[_SLOT + slot * _SLOT_CELLS + self._place + _FINISH] = 0
