"""Tasks that share a limiter: the bound holds for their sum, in turns, whoever is cancelled."""

import asyncio
import heapq
from itertools import accumulate, count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.policy.token_bucket import MAX_QUANTUM
from transfer.throttle.limiter import Limiter

RATE = 2**20


class VirtualTime:
    """A clock that moves only when every task of the scenario sleeps or waits."""

    def __init__(self):
        self.now, self._order, self._sleepers = 0.0, count(), []

    def clock(self):
        return self.now

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), woken))
        await woken

    async def run(self, *tasks):
        """Until the *tasks* end."""
        while not all(task.done() for task in tasks):
            for _ in range(10):
                await asyncio.sleep(0)
            if self._sleepers:
                when, _, woken = heapq.heappop(self._sleepers)
                self.now = max(self.now, when)
                if not woken.done():
                    woken.set_result(None)
        return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def time():
    return VirtualTime()


@pytest.fixture
def limiter(time):
    return Limiter(RATE, time.clock, time.sleep)


def spawn(*coroutines):
    return [asyncio.create_task(each) for each in coroutines]


calls = st.tuples(
    st.sampled_from(["take", "spent", "charge"]),
    st.integers(1, 3 * 4194),
    st.sampled_from([0.0, 0.001, 0.05, 1.0]),
)


@given(st.lists(st.lists(calls, max_size=5), max_size=5))
def test_in_every_interval_the_sum_keeps_to_the_rate_and_one_burst(tasks):
    async def scenario():
        time = VirtualTime()
        limiter = Limiter(RATE, time.clock, time.sleep)
        grants, charged = [], []

        async def work(steps):
            for call, size, pause in steps:
                if pause:
                    await time.sleep(pause)
                if call == "charge":
                    limiter.charge(size)
                    charged.append(size)
                    continue
                for at in range(0, size, limiter.quantum):  # as callers do: slice by slice
                    piece = min(limiter.quantum, size - at)
                    await getattr(limiter, call)(piece)
                    grants.append((time.now, piece))

        results = await time.run(*spawn(*map(work, tasks)))
        assert results == [None] * len(tasks)
        for first in range(len(grants)):
            start, sizes = grants[first][0], [size for _, size in grants[first:]]
            for (now, _), granted in zip(grants[first:], accumulate(sizes), strict=True):
                assert granted <= RATE * (now - start) + RATE * 0.020 + 1
        # What went at once was paid by bulk: nothing of the sum comes for free.
        bulk = sum(size for _, size in grants)
        if grants:
            owed = max(0, -limiter._bucket.level(int(time.now * 1e9)))
            assert bulk + sum(charged) <= RATE * time.now + RATE * 0.020 + owed + 1

    asyncio.run(scenario())


async def test_an_amount_beyond_the_quantum_is_granted_as_a_whole_in_the_end(limiter, time):
    await time.run(*spawn(limiter.take(10 * RATE)))
    assert time.now == pytest.approx(10, abs=0.01)


async def test_equal_asks_are_served_in_the_order_of_their_coming(limiter, time):
    served = []

    async def ask(number):
        await limiter.take(limiter.quantum)
        served.append(number)

    await time.run(*spawn(*map(ask, range(20))))
    assert served == list(range(20))


async def test_a_large_ask_does_not_hold_up_a_small_one(limiter, time):
    async def small():
        await limiter.take(1000)
        return time.now

    large, task = spawn(limiter.take(100 * RATE), small())
    await time.run(task)
    large.cancel()
    assert task.result() < 0.1


async def test_what_came_in_is_paid_before_the_next(limiter, time):
    await time.run(*spawn(limiter.spent(RATE)))
    assert time.now == pytest.approx(1, abs=0.005)


async def test_control_goes_at_once_and_bulk_pays(limiter, time):
    limiter.charge(2 * RATE)
    assert time.now == 0
    await time.run(*spawn(limiter.take(1)))
    assert time.now == pytest.approx(2, abs=0.005)


async def test_a_charge_holds_up_who_sleeps_already(limiter, time):
    (task,) = spawn(limiter.take(limiter.quantum))
    await asyncio.sleep(0)
    limiter.charge(RATE)
    await time.run(task)
    assert time.now == pytest.approx(1, abs=0.01)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 30))
def test_who_is_cancelled_costs_the_others_nothing(cancelled, moments):
    """They end when they would have ended had the cancelled ones never asked."""

    async def finish(asks):
        time = VirtualTime()
        limiter = Limiter(RATE, time.clock, time.sleep)
        tasks = spawn(*(limiter.take(4 * limiter.quantum) for _ in asks))
        for _ in range(moments):
            await asyncio.sleep(0)
        for task, drop in zip(tasks, asks, strict=True):
            if drop:
                task.cancel()
        await time.run(*tasks)
        assert [task.cancelled() for task in tasks] == asks
        return time.now

    kept = [drop for drop in cancelled if not drop]
    alone, together = asyncio.run(finish(kept)), asyncio.run(finish(cancelled))
    # A sleep that had begun for the cancelled one is over at the latest after one quantum.
    assert together <= alone + 0.005


async def test_a_cancelled_ask_gives_back_the_pieces_that_it_was_granted(limiter, time):
    (large,) = spawn(limiter.take(RATE))
    await time.run(*spawn(time.sleep(0.5)))
    large.cancel()
    await time.run(large)
    before = time.now
    await time.run(*spawn(limiter.take(limiter.quantum)))
    assert time.now == before  # the bucket is full, as it would be after half a second of quiet


async def test_what_came_in_stays_spent_when_its_reader_is_cancelled(limiter, time):
    (reader,) = spawn(limiter.spent(RATE))
    await time.run(*spawn(time.sleep(0.1)))
    reader.cancel()
    await time.run(reader, *spawn(limiter.take(1)))
    assert time.now == pytest.approx(1, abs=0.01)


async def test_the_time_that_callers_waited_is_known(limiter, time):
    await time.run(*spawn(limiter.take(RATE), limiter.take(RATE)))
    assert limiter.waited == pytest.approx(4, abs=0.02)  # two seconds each, in turns


async def test_a_sleep_that_ends_early_grants_nothing_early(time):
    async def early(seconds):
        await time.sleep(seconds * 0.6)

    limiter = Limiter(RATE, time.clock, early)
    await time.run(*spawn(limiter.take(limiter.quantum)))
    assert time.now >= limiter.quantum / RATE


async def test_no_sleep_is_shorter_than_a_timer_can_be(time):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        await time.sleep(seconds)

    limiter = Limiter(RATE, time.clock, sleep)
    await time.run(*spawn(*(limiter.take(1) for _ in range(100))))
    assert slept and min(slept) >= 0.001


async def test_without_a_rate_nobody_waits():
    limiter = Limiter(None)
    async with asyncio.timeout(1):
        await limiter.take(2**50)
        await limiter.spent(2**50)
    limiter.charge(2**50)
    assert (limiter.waited, limiter.quantum) == (0, MAX_QUANTUM)


async def test_the_real_clock_is_kept_to():
    limiter = Limiter(RATE)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(limiter.take(limiter.quantum) for _ in range(25)))
    assert asyncio.get_running_loop().time() - began >= 25 * limiter.quantum / RATE * 0.999
