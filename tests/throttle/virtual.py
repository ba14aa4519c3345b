"""A throttle on a clock that moves only when every task waits."""

import asyncio

from transfer.throttle.throttle import Throttle

SECOND = 10**9
MONDAY = 1_800_000_000 * SECOND


class VirtualTime:
    """The clocks and the timers of one scenario; `utc` may be set, as a system's clock may."""

    def __init__(self):
        self.now, self.utc_offset, self.alarms, self._sleepers = SECOND, MONDAY, [], []
        self.fired = []  # when any timer did

    def clock(self):
        return self.now

    def utc(self):
        return self.now + self.utc_offset

    def timers(self, callback):
        asyncio.get_running_loop()
        return Alarm(self, callback)

    def throttle(self, *args, **kwargs):
        return Throttle(*args, clock=self.clock, utc=self.utc, timers=self.timers, **kwargs)

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        alarm = Alarm(self, lambda: woken.done() or woken.set_result(None))
        alarm.arm(self.now + int(seconds * SECOND))
        await woken

    async def run(self, *coroutines):
        """Until they end; their results."""
        tasks = [asyncio.ensure_future(each) for each in coroutines]
        while not all(task.done() for task in tasks):
            for _ in range(6):
                await asyncio.sleep(0)
            armed = [alarm for alarm in self.alarms if alarm.at is not None]
            if armed and not all(task.done() for task in tasks):
                first = min(armed, key=lambda alarm: alarm.at)
                self.now = max(self.now, first.at)
                self.fired.append(self.now)
                first.fire()
        return await asyncio.gather(*tasks)


class Alarm:
    def __init__(self, time, callback):
        self._time, self._callback, self.at = time, callback, None
        time.alarms.append(self)

    def arm(self, at):
        self.at = at

    def disarm(self):
        self.at = None

    def close(self):
        self.at = None

    def fire(self):
        self.at = None
        self._callback()
