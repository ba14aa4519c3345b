"""Who waits, one timer, and grants at the moments that the queue names.

Nothing sleeps: whoever asks, cancels or changes something makes the grants that have become due,
and the timer makes the others. So a change reaches everyone who waits at once.
"""

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, cast

from transfer.policy.fair_queue import Ask, Branch, Bucket, Class, FairQueue, Flow
from transfer.policy.token_bucket import MAX_QUANTUM, SECOND, TokenBucket
from transfer.throttle.rules import POOLS, Pool, Rates
from transfer.throttle.shared import LOOK, SharedLimits
from transfer.throttle.timer import Timer, Timers

Direction = Literal["up", "down"]
ClassName = Literal["restore", "backup", "seed"]
DIRECTIONS: tuple[Direction, ...] = ("up", "down")
WEIGHTS: Mapping[ClassName, int] = MappingProxyType({"restore": 4, "backup": 2, "seed": 1})
_TOGETHER = 10_000_000  # ns after the timer's last call: a wake-up costs more than some grants
_RETRY = 200_000  # ns until the shared file, in another process's hands, is tried again
UNLIMITED: Rates = (None, None, None)


class Dispatch:
    """*own* limits this run alone, `apply` the machine; both hold.

    *look* is called when the moment comes that it returned last, in ns of *clock*.
    """

    def __init__(
        self, weights: Mapping[ClassName, int], own: Mapping[Pool, int],
        shared: SharedLimits | None, clock: Callable[[], int], timers: Timers,
        look: Callable[[int], int | None],
    ) -> None:  # fmt: skip
        self._clock, self._timers, self._look = clock, timers, look
        self._shared, self._timer = shared, cast("Timer | None", None)
        self._next_look = cast("int | None", None)
        self._fired_at, self._together = 0, 0
        total = Branch()
        self._shares: dict[Pool, Branch] = {
            "up": Branch(total), "down": Branch(total), "total": total,
        }  # fmt: skip
        self.classes = {
            (direction, name): Class(self._shares[direction], weight)
            for direction in DIRECTIONS for name, weight in weights.items()
        }  # fmt: skip
        self._queue = FairQueue(total)
        self._own = {pool: TokenBucket(rate, clock()) for pool, rate in own.items()}
        self._machine: dict[Pool, Bucket] = {}
        self._waiters: dict[Ask, asyncio.Future[None]] = {}
        self._late: list[Callable[[int], None]] = []
        self._rates, self._changed, self._closed = UNLIMITED, False, False
        self.listeners: list[Callable[[], None]] = []
        """Called after each change of the machine's limits in force."""
        self._bound()

    def at_once(self, flow: Flow, amount: int) -> bool:
        """Whether *amount* bytes are granted without a wait, and without a task's switch."""
        return self._shared is None and self._queue.take(flow, amount, self._clock())

    async def granted(self, flow: Flow, amount: int, came: bool) -> int:
        """The ns that *amount* bytes had to wait; *came*: they came in already, and are owed."""
        began = self._clock()
        ask = self._queue.ask(flow, amount, began)
        self._waiters[ask] = waiter = asyncio.get_running_loop().create_future()
        if self._queue.leads(ask):
            self.serve()
        try:
            await waiter
        except BaseException:
            end = self._queue.owe if came else self._queue.cancel
            self.do(lambda now: end(ask, now))
            raise
        finally:
            self._waiters.pop(ask, None)
        return self._clock() - began

    def charged(self, flow: Flow, amount: int) -> None:
        self.do(lambda now: self._queue.charge(flow, amount, now))

    def do(self, change: Callable[[int], None]) -> None:
        """*change* buckets or tags, and see who profits; with a shared file once that is ours."""
        self._late.append(change)
        self.serve()

    def apply(self, rates: Rates) -> None:
        """New limits of the machine, for everyone who waits too."""
        if self._shared is not None:
            self._shared.wish(rates)
        else:
            self._adopt(rates, self._clock())
        self.serve()

    def look(self) -> None:
        """At what is in force now, whatever was known of it before."""
        self._fired_at = 0  # what has changed shall show at once
        self._next_look = self._look(self._clock())
        self.serve()

    def level(self, pool: Pool) -> int | None:
        """Bytes that could go at once, negative for debt; None without a limit."""
        now = self._clock()
        return min((each.level(now) for each in self._shares[pool].buckets), default=None)

    def rate(self, pool: Pool) -> int | None:
        """The lowest limit on the way of *pool*; None is no limit, 0 a pause."""
        return min((b.rate for s in self._shares[pool].path for b in s.buckets), default=None)

    def close(self) -> None:
        """Who still waits is cancelled; no wish stays in the shared file."""
        self._closed = True
        for waiter in list(self._waiters.values()):
            waiter.cancel()
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        if self._shared is not None:
            self._shared.close()

    def serve(self) -> None:
        """Grant what is due, and arm the timer for what is not."""
        if self._closed:
            return
        now = self._clock()
        if self._shared is None:
            at = self._serve(now)
        else:
            with self._shared.held(now) as held:
                if held:
                    if self._shared.rates != self._rates:
                        self._adopt(self._shared.rates, now)
                    at = self._serve(now)
                else:
                    at = now + _RETRY
            at = min(at or now + LOOK, now + LOOK)
        self._arm(min((each for each in (at, self._next_look) if each is not None), default=None))
        if self._changed:
            self._changed = False
            for listener in self.listeners:
                listener()

    def _serve(self, now: int) -> int | None:
        late, self._late = self._late, []
        for change in late:
            change(now)
        done, at = self._queue.serve(now)
        for ask in done:
            if not (waiter := self._waiters[ask]).done():
                waiter.set_result(None)
        if at is None or (self._shared is not None and not self._shared.alone):
            return at  # among processes whose turn it is would be lost in the wait
        return max(at, self._fired_at + self._together)

    def _arm(self, at: int | None) -> None:
        if at is None:
            if self._timer is not None:
                self._timer.disarm()
            return
        if self._timer is None:
            try:
                self._timer = self._timers(self._fired)
            except RuntimeError:
                return  # no loop runs yet: the first flow will look again
        self._timer.arm(at)

    def _fired(self) -> None:
        now = self._fired_at = self._clock()
        if self._next_look is not None and now >= self._next_look:
            self.look()
        else:
            self.serve()

    def _adopt(self, rates: Rates, now: int) -> None:
        self._changed = self._changed or rates != self._rates
        self._rates = rates
        for pool, rate in zip(POOLS, rates, strict=True):
            bucket = self._machine.get(pool)
            if rate is None:
                self._machine.pop(pool, None)
            elif self._shared is not None:
                self._machine[pool] = self._shared.buckets[pool]
            elif isinstance(bucket, TokenBucket):
                bucket.set_rate(rate, now)
            else:
                self._machine[pool] = TokenBucket(rate, now)
        self._bound()

    def _bound(self) -> None:
        self._together = _TOGETHER
        for pool, share in self._shares.items():
            both = (self._own.get(pool), self._machine.get(pool))
            share.buckets = [bucket for bucket in both if bucket is not None]
            self._together = min((self._together, *map(_bearable, share.buckets)))


def _bearable(bucket: Bucket) -> int:
    """The ns for which grants may wait for each other: far below those in which it runs over."""
    if not bucket.rate:
        return _TOGETHER
    part = 3 if bucket.quantum == MAX_QUANTUM else 5  # a fifth is a quantum, where that is smaller
    return bucket.burst * SECOND // bucket.rate // part
