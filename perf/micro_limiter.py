"""The limiter: grants a second, to 1, 16 and 256 flows, as a run's connections ask for them."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop

from perf.micro_loop import Loop
from transfer.policy.token_bucket import MAX_RATE
from transfer.throttle.throttle import Throttle

RATES = {"no limit": None, "a limit that is not reached": MAX_RATE}


def loops(top: Path, quick: bool) -> Iterator[Loop]:
    count = 1000 if quick else 50_000
    for what, rate in RATES.items():
        for flows in (1, 16, 256):
            yield Loop(f"{what}, {flows} flows", "grants", _granting(rate, flows, count))
    for flows in (1, 16, 256):
        yield Loop(f"a limit that is reached, {flows} flows", "grants", _queueing(flows, count))


def _granting(rate: int | None, flows: int, count: int) -> Callable[[], int]:
    """Grants that need no wait: what each slice pays."""

    async def work() -> int:
        throttle = Throttle(up=rate)

        async def one() -> None:
            flow = throttle.flow("up")
            for _ in range(count // flows):
                await flow.take(1)

        await asyncio.gather(*(one() for _ in range(flows)))
        throttle.close()
        return count // flows * flows

    return lambda: uvloop.run(work())


def _queueing(flows: int, count: int) -> Callable[[], int]:
    """Flows wait in the queue, on a clock that brings what they need as soon as all of them do."""

    async def work() -> int:
        clock = Clock()
        throttle = Throttle(up=10**9, clock=clock.now, timers=clock.timer)

        async def one() -> None:
            flow = throttle.flow("up")
            for _ in range(count // flows):
                await flow.take(flow.quantum)

        await asyncio.gather(*(one() for _ in range(flows)))
        throttle.close()
        return count // flows * flows

    return lambda: uvloop.run(work())


class Clock:
    """It stands still until a timer is armed: then that moment has come at the loop's next turn."""

    def __init__(self) -> None:
        self._now = 10**9

    def now(self) -> int:
        return self._now

    def timer(self, callback: Callable[[], None]) -> "Alarm":
        return Alarm(self, callback)

    def reach(self, at: int) -> None:
        self._now = max(self._now, at)


class Alarm:
    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock, self._callback = clock, callback
        self._handle: asyncio.Handle | None = None

    def arm(self, at: int) -> None:
        self.disarm()
        self._handle = asyncio.get_running_loop().call_soon(self._fire, at)

    def _fire(self, at: int) -> None:
        self._handle = None
        self._clock.reach(at)
        self._callback()

    def disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        self.disarm()
