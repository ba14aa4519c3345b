"""The throttle: what all connections of a run may send and receive, changed while it runs.

throttle = Throttle(up=2**20)
flow = throttle.flow("up", "backup")
await flow.take(flow.quantum)       # right before that many bytes are written
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from transfer.errors import UsageError
from transfer.policy.admission_gate import AdmissionGate, Place
from transfer.policy.token_bucket import MAX_RATE, SECOND, TokenBucket
from transfer.throttle.dispatch import DIRECTIONS, WEIGHTS, ClassName, Direction, Dispatch
from transfer.throttle.flow import Counted, Counters, Flow
from transfer.throttle.rules import InForce, Pool, Rules, Schedule
from transfer.throttle.shared import SharedLimits
from transfer.throttle.timer import Timers, timer

_LOOK = SECOND  # how often the wall clock is compared: it may be set at any time


class Stats(NamedTuple):
    """*rate* in bytes a second, None without a limit; *tokens* may go at once, negative is debt."""

    rate: int | None
    tokens: int | None
    classes: Mapping[ClassName, Counted]


class Throttle:
    """*up* and *down*, in bytes a second, limit this run alone. `set`, `pause` and the schedule
    limit the machine: with *shared* the sum of all processes that share it. The lower holds.

    *block_size* and *patience*, the seconds in which the other side wants to see a block, decide
    how many requests are admitted at once. All calls come from one event loop's thread, the first
    `flow` from within it; `threads` has a facade for others. Close it.
    """

    def __init__(
        self, up: int | None = None, down: int | None = None, *,
        weights: Mapping[ClassName, int] = WEIGHTS, shared: SharedLimits | None = None,
        block_size: int = 2**20, patience: float = 60.0,
        clock: Callable[[], int] = time.monotonic_ns, utc: Callable[[], int] = time.time_ns,
        timers: Timers = timer,
    ) -> None:  # fmt: skip
        self._clock, self._utc, self._rules = clock, utc, Rules()
        limits: tuple[tuple[Pool, int | None], ...] = (("up", up), ("down", down))
        own = {pool: _checked(rate) for pool, rate in limits if rate is not None}
        self._dispatch = Dispatch(weights, own, shared, clock, timers, self._looked)
        self._classes = self._dispatch.classes
        self._counters = {key: Counters() for key in self._classes}
        self._gates = {
            each: AdmissionGate(self.rate(each), block_size, patience) for each in DIRECTIONS
        }
        self._outside: dict[Place, asyncio.Future[None]] = {}
        self._dispatch.listeners.append(self._admit)

    def flow(self, direction: Direction, name: ClassName = "backup", weight: int = 1) -> Flow:
        """For one connection, or whoever sends or receives one thing after another."""
        key = direction, name
        self._dispatch.look()
        return Flow(self._dispatch, self._classes[key], self._counters[key], weight)

    def set(self, pool: Pool, rate: int | None, until: int | None = None) -> None:
        """The machine's limit instead of the schedule's, up to *until* in ns of UTC.

        Bytes a second; None is no limit, 0 a pause. Raises UsageError for a rate that is none.
        """
        self._rules.set(pool, rate, self._utc(), until)
        self._dispatch.look()

    def clear(self, pool: Pool) -> None:
        """What the schedule says holds again."""
        self._rules.clear(pool)
        self._dispatch.look()

    def pause(self, until: int | None = None) -> None:
        """Both directions, up to *until* in ns of UTC; control traffic goes on."""
        self._rules.pause(self._utc(), until)
        self._dispatch.look()

    def resume(self) -> None:
        self._rules.resume()
        self._dispatch.look()

    def set_schedule(self, schedule: Schedule | None) -> None:
        """Such as `Timetable.explain`. If that raises, what was in force stays."""
        self._rules.schedule(schedule, self._utc())
        self._dispatch.look()

    def set_ceiling(self, direction: Direction, name: ClassName, rate: int | None) -> None:
        """The most that a class gets even if nobody else waits. Raises UsageError."""
        bucket = None if rate is None else TokenBucket(_checked(rate), self._clock())
        self._classes[direction, name].buckets = () if bucket is None else (bucket,)
        self._dispatch.serve()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Called after each change of `rate`, for whoever fits buffers to it."""
        self._dispatch.listeners.append(listener)

    def rate(self, direction: Direction) -> int | None:
        """The lowest limit of this direction; None is no limit, 0 a pause."""
        return self._dispatch.rate(direction)

    def explain(self) -> dict[Pool, InForce]:
        """The machine's limits as this process knows them: why, since when, until when."""
        return self._rules.at(self._utc())

    def stats(self, direction: Direction) -> Stats:
        classes = {
            name: counters.read(self._classes[where, name].waiting)
            for (where, name), counters in self._counters.items()
            if where == direction
        }
        return Stats(self.rate(direction), self._dispatch.level(direction), classes)

    @asynccontextmanager
    async def admitted(self, direction: Direction) -> AsyncIterator[None]:
        """Around a request: it begins when the rate has enough for one more. Not in a pause."""
        gate = self._gates[direction]
        place = gate.ask()
        self._outside[place] = entered = asyncio.get_running_loop().create_future()
        self._admit()
        try:
            await entered
            yield
        finally:
            self._outside.pop(place, None)
            gate.leave(place)
            self._admit()

    def close(self) -> None:
        """Who still waits for a grant is cancelled. Twice is once."""
        self._dispatch.close()

    def _looked(self, now: int) -> int | None:
        """Put in force what holds at this instant; when to look again."""
        utc = self._utc()
        rules = self._rules.at(utc)
        self._dispatch.apply((rules["up"].rate, rules["down"].rate, rules["total"].rate))
        if not self._rules.depend_on_time:
            return None
        following = self._rules.next_look(utc)
        return now + (_LOOK if following is None else min(_LOOK, following - utc))

    def _admit(self) -> None:
        for direction, gate in self._gates.items():
            gate.set_rate(self.rate(direction))
            for place in gate.admit():
                if (entered := self._outside.pop(place, None)) and not entered.done():
                    entered.set_result(None)


def _checked(rate: int) -> int:
    if not 0 <= rate <= MAX_RATE:
        raise UsageError(f"a rate of {rate} bytes a second is not between 0 and {MAX_RATE}")
    return rate
