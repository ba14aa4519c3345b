"""A token bucket that decides, and leaves the waiting to others.

It reads no clock and never sleeps: time comes in as an argument and a delay goes out, so that
tests cover a day of traffic in a millisecond.
"""

BURST_SECONDS, MAX_BURST = 0.020, 4 * 2**20
QUANTUM_SECONDS, MIN_QUANTUM, MAX_QUANTUM = 0.004, 2**10, 256 * 2**10


def quantum(rate: int) -> int:
    """The most bytes of one grant: 4 ms at *rate*, so that a change of rate shows at once."""
    return max(MIN_QUANTUM, min(MAX_QUANTUM, int(rate * QUANTUM_SECONDS)))


class TokenBucket:
    """Grant up to *rate* bytes a second, and *burst* bytes at once after a pause.

    An amount is spent even when the bucket is too empty: the bucket goes into debt, and the
    delay is the time to pay it back. So control traffic goes at once and bulk pays for it.
    The bucket starts empty: whoever starts a thousand of them starts no burst.

    Let each amount be at most *burst*, and count it when its delay is over. Then in every
    interval of W seconds at most `rate * W + burst` bytes are counted. `now` may stand still;
    a `now` before an earlier one brings no tokens.
    """

    def __init__(self, rate: int, now: float) -> None:
        if rate <= 0:
            raise ValueError(f"need a rate of at least 1 byte a second, got {rate}")
        self.rate = rate
        self.quantum = quantum(rate)
        self.burst = max(self.quantum, min(MAX_BURST, int(rate * BURST_SECONDS)))
        self._tokens = 0.0
        self._updated = now

    def take(self, amount: int, now: float) -> float:
        """Spend *amount* bytes; return the seconds to wait before using them."""
        self._refill(now)
        self._tokens -= amount
        return self._debt_seconds()

    def delay(self, now: float) -> float:
        """The seconds until all that was taken is paid."""
        self._refill(now)
        return self._debt_seconds()

    def give_back(self, amount: int) -> None:
        """What was taken and will not be used."""
        self._tokens += amount  # cut to the burst at the next look

    def _debt_seconds(self) -> float:
        return max(0.0, -self._tokens / self.rate)

    def _refill(self, now: float) -> None:
        elapsed = max(0.0, now - self._updated)
        # A float keeps the fraction; whole bytes would lose one at each of many short looks.
        self._tokens = min(self.burst, self._tokens + elapsed * self.rate)
        self._updated = max(self._updated, now)
