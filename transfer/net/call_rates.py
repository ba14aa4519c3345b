"""Call rates: of calls that cost the vault by their number, and not by their bytes."""

from collections.abc import Hashable

from aiolimiter import AsyncLimiter

from transfer.errors import TooManyCalls

_MAX_KEPT = 10_000  # callers


class CallRate:
    """At most *rate* calls a second of each caller, and as many at once after a quiet time."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._limiters: dict[Hashable, AsyncLimiter] = {}

    async def check(self, caller: Hashable) -> None:
        """Count one call. Raises TooManyCalls at once: who waits here would cost memory."""
        if caller not in self._limiters and len(self._limiters) >= _MAX_KEPT:
            self._forget()
        limiter = self._limiters.setdefault(caller, AsyncLimiter(self.rate, 1))
        if not limiter.has_capacity():
            raise TooManyCalls(f"more than {self.rate} calls a second", "try again in a second")
        await limiter.acquire()

    def _forget(self) -> None:
        """Those that made no call for a second, or all: that is at most one rate too much."""
        busy = {
            caller: limiter
            for caller, limiter in self._limiters.items()
            if not limiter.has_capacity(self.rate)
        }
        self._limiters = busy if len(busy) < _MAX_KEPT // 2 else {}
