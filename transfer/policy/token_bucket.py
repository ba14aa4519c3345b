"""A token bucket that decides, and leaves the waiting to others.

It reads no clock and never sleeps: time comes in as an argument, in ns of one monotonic clock, and
times go out, so that tests cover a day of traffic in a millisecond. All arithmetic is in whole
numbers of 10**-9 bytes, what one byte a second brings in one ns: nothing is ever rounded.
"""

from bisect import bisect_left

SECOND = 10**9  # ns
BURST_SECONDS, MAX_BURST = 0.020, 4 * 2**20
QUANTUM_SECONDS, MIN_QUANTUM, MAX_QUANTUM = 0.004, 2**10, 256 * 2**10
MAX_RATE = 10**12  # bytes a second: beyond any network, and still exact in a 64-bit cell
_ROOMS = 256  # moments kept; they are as rare as records


def quantum(rate: int) -> int:
    """The most bytes of one grant: 4 ms at *rate*, so that a change of rate shows at once."""
    return max(MIN_QUANTUM, min(MAX_QUANTUM, int(rate * QUANTUM_SECONDS)))


class Hold:
    """What was taken and may still be given back: *owed* of it is missing in the bucket."""

    __slots__ = ("mark", "owed")

    def __init__(self) -> None:
        self.owed = self.mark = 0


class TokenBucket:
    """Grant up to *rate* bytes a second, and *burst* bytes at once after a quiet time.

    `take` spends even what is not there, and the bucket is in debt: so control traffic goes at
    once, and bulk, which asks `ready_at` first, pays for it. A bucket starts empty: whoever
    starts a thousand of them starts no burst. Rate 0 is a pause: it saves nothing up.

    The bound: let every `take` but those of control happen when it is ready. Then in every
    interval that ends with such a take, all that was taken, control included, is at most the
    integral of the rate plus the burst of the interval's first moment. `now` may stand still;
    a `now` before an earlier one brings no tokens.

    Giving back must not break the bound. Had the bytes never been taken, the bucket would have
    been full earlier, and would have lost what ran over. So no more comes back than the least
    room that there was since; the moments of least room are kept, each less than those after it.
    """

    def __init__(self, rate: int, now: int) -> None:
        self._level, self._updated = 0, now  # the level in 10**-9 bytes
        self._mark, self._marks, self._rooms = 0, list[int](), list[int]()
        self._adopt(rate)

    def _adopt(self, rate: int) -> None:
        if not 0 <= rate <= MAX_RATE:
            raise ValueError(f"need a rate from 0 to {MAX_RATE} bytes a second, got {rate}")
        self.rate, self.quantum = rate, quantum(rate)
        self.burst = max(self.quantum, min(MAX_BURST, int(rate * BURST_SECONDS))) if rate else 0
        # Where the burst is one quantum, a timer that is late would find the bucket full, and
        # what runs over is lost for ever. Half of it leaves half of it to be late in.
        self.step = min(self.quantum, self.burst // 2) if rate else self.quantum
        self._full = self.burst * SECOND

    def set_rate(self, rate: int, now: int) -> None:
        """What came in until *now* came at the old rate; beyond the new burst it is gone."""
        self.settle(now)
        self._note()
        self._adopt(rate)
        self._level = min(self._level, self._full)
        self._note()

    def settle(self, now: int) -> None:
        if now > self._updated:
            self._level = min(self._full, self._level + (now - self._updated) * self.rate)
            self._updated = now

    def level(self, now: int) -> int:
        """Whole bytes that may be taken; negative is debt."""
        self.settle(now)
        return self._level // SECOND

    def ready_at(self, amount: int, now: int) -> int | None:
        """The first moment, *now* or later, at which *amount* bytes are there.

        None if there is none: in a pause, or for more than the burst.
        """
        self.settle(now)
        missing = amount * SECOND - self._level
        if self.rate == 0 or amount > self.burst:
            return None
        return max(now, self._updated) if missing <= 0 else self._updated - (-missing // self.rate)

    def take(self, amount: int, now: int, hold: Hold | None = None) -> None:
        if now > self._updated:
            self.settle(now)
        self._note()
        self._level -= amount * SECOND
        if hold is not None:
            hold.owed = min(hold.owed, self._least_room(hold.mark)) + amount * SECOND
            hold.mark = self._mark

    def give_back(self, hold: Hold, now: int) -> None:
        """What was taken for *hold* will not be used: as if it had never been taken."""
        self.settle(now)
        self._note()
        back = min(hold.owed, self._least_room(hold.mark))
        self._level += back
        hold.owed = 0
        # For other holds too: without those bytes there would have been less room all the time.
        self._rooms = [max(0, room - back) for room in self._rooms]

    def _note(self) -> None:
        """The room before it grows."""
        room, rooms, marks = self._full - self._level, self._rooms, self._marks
        while rooms and rooms[-1] >= room:
            rooms.pop()
            marks.pop()
        if len(rooms) >= _ROOMS:
            room = rooms.pop()  # said to be less than it was: on the safe side
            marks.pop()
        rooms.append(room)
        marks.append(self._mark)
        self._mark += 1

    def _least_room(self, mark: int) -> int:
        at = bisect_left(self._marks, mark)
        return self._rooms[at] if at < len(self._rooms) else self._full - self._level
