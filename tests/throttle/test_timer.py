"""An alarm comes once, at its time or a little later, under both loops and by every means."""

import asyncio
import os
import time

import pytest
import uvloop

from transfer.throttle.timer import SECOND, LoopTimer, TimerDescriptor, timer

MILLISECOND = 10**6
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
EARLY = {TimerDescriptor: 0, LoopTimer: MILLISECOND}  # the loop's: uvloop rounds


async def soon(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request):
    def run(scenario):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(scenario)

    return run


@pytest.mark.parametrize("kind", [TimerDescriptor, LoopTimer])
def test_it_fires_once_and_not_before_its_time(run, kind):
    async def scenario():
        fired = []
        alarm = kind(asyncio.get_running_loop(), lambda: fired.append(time.monotonic_ns()))
        for delay in (0, 300_000, 5 * MILLISECOND):
            at = time.monotonic_ns() + delay
            alarm.arm(at)
            await soon(lambda: fired)
            assert fired.pop() >= at - EARLY[kind]
        await asyncio.sleep(0.01)
        assert fired == []
        alarm.close()

    run(scenario())


@pytest.mark.parametrize("kind", [TimerDescriptor, LoopTimer])
def test_the_last_word_counts(run, kind):
    async def scenario():
        fired = []
        alarm = kind(asyncio.get_running_loop(), lambda: fired.append(time.monotonic_ns()))
        alarm.arm(time.monotonic_ns() + 3600 * SECOND)
        alarm.arm(at := time.monotonic_ns() + MILLISECOND)
        await soon(lambda: fired)
        assert fired.pop() >= at - EARLY[kind]
        for stop in (alarm.disarm, alarm.close):
            alarm.arm(time.monotonic_ns() + MILLISECOND)
            stop()
            await asyncio.sleep(0.005)
            assert fired == []
        alarm.close()  # twice is once

    run(scenario())


def test_linux_has_the_exact_one_and_gives_its_descriptor_back(run):
    async def scenario():
        before = len(os.listdir("/proc/self/fd"))
        made = timer(lambda: None)
        assert isinstance(made, TimerDescriptor)
        made.close()
        assert len(os.listdir("/proc/self/fd")) == before

    run(scenario())
