"""The token bucket under asyncio: the only part that knows a clock."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from transfer.policy.token_bucket import MAX_QUANTUM, SECOND, Hold, TokenBucket

# The timers of asyncio and uvloop are this coarse, in seconds. A shorter sleep would end at once.
_TICK = 0.001


class Limiter:
    """Hold tasks back so that together they keep to *rate* bytes a second; None never waits.

    A large amount is granted in pieces of one quantum. Tasks take turns at each piece, in the
    order in which they came, so a large amount holds nobody up. Only the task whose turn it is
    has spent anything that is not yet granted: a change reaches no further than one quantum.
    """

    def __init__(
        self,
        rate: int | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if rate is not None and rate <= 0:
            raise ValueError(f"need a rate of at least 1 byte a second, got {rate}")
        self._clock, self._sleep = clock, sleep
        self._bucket = None if rate is None else TokenBucket(rate, self._now())
        self._turn = asyncio.Lock()
        self.waited = 0.0
        """Seconds that callers spent waiting, all together."""

    @property
    def quantum(self) -> int:
        """The most bytes to hand to the network at once; the size of a caller's slices."""
        return MAX_QUANTUM if self._bucket is None else self._bucket.quantum

    async def take(self, amount: int) -> None:
        """Return when *amount* bytes may go out. Cancelled, it leaves nothing spent."""
        if self._bucket is not None:
            await self._pass(self._bucket, amount, used=False)

    async def spent(self, amount: int) -> None:
        """*amount* bytes came in; return when they are paid. Cancelled, they stay spent."""
        if self._bucket is not None:
            await self._pass(self._bucket, amount, used=True)

    def charge(self, amount: int) -> None:
        """*amount* bytes of control traffic go at once; whoever waits, waits for these too."""
        if self._bucket is not None:
            self._bucket.take(amount, self._now())

    async def _pass(self, bucket: TokenBucket, amount: int, used: bool) -> None:
        began, taken, hold = self._clock(), 0, Hold()
        try:
            while taken < amount:
                async with self._turn:
                    piece = min(bucket.quantum, amount - taken)
                    bucket.take(piece, self._now(), hold)
                    taken += piece
                    await self._until_paid(bucket)
        except BaseException:
            if used:
                bucket.take(amount - taken, self._now())
            else:
                bucket.give_back(hold, self._now())
            raise
        finally:
            self.waited += self._clock() - began

    async def _until_paid(self, bucket: TokenBucket) -> None:
        # Again after each sleep: a charge may have come in between, and uvloop rounds to the
        # nearest millisecond, so its timers may be early.
        while (ready := bucket.ready_at(0, now := self._now())) is not None and ready > now:
            await self._sleep(max((ready - now) / SECOND, _TICK))

    def _now(self) -> int:
        return int(self._clock() * SECOND)
