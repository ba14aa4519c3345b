"""Flows of one throttle: the bound, changes that reach who waits at once, and nothing lost."""

import asyncio

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policy.grants import Event, violations
from tests.throttle.virtual import SECOND, VirtualTime
from transfer.errors import UsageError
from transfer.policy.timetable import Explanation, Limits, Setting
from transfer.policy.token_bucket import MAX_QUANTUM, TokenBucket
from transfer.throttle.throttle import Throttle
from transfer.throttle.timer import LoopTimer

RATE = 2**20
QUANTUM = TokenBucket(RATE, 0).quantum
MILLISECOND = 10**6


@pytest.fixture
def time():
    return VirtualTime()


def elapsed(time, since=SECOND):
    return (time.now - since) / SECOND


async def hungry(flow, amount, log=None, time=None):
    """Take *amount* bytes slice by slice, as a body does."""
    while amount:
        piece = min(amount, flow.quantum)
        await flow.take(piece)
        if log is not None:
            log.append((time.now, piece))
        amount -= piece


async def test_a_flow_has_its_rate(time):
    throttle = time.throttle(up=RATE)
    await time.run(hungry(throttle.flow("up"), 10 * RATE))
    assert elapsed(time) == pytest.approx(10, abs=0.01)


async def test_without_a_limit_nobody_waits_and_nothing_is_armed(time):
    throttle = time.throttle()
    flow = throttle.flow("up")
    await flow.take(2**50)
    await flow.spent(2**50)
    flow.charge(2**50)
    assert (flow.quantum, flow.limited, flow.waited, time.alarms) == (MAX_QUANTUM, False, 0, [])


@pytest.mark.parametrize(
    ("rate", "piece", "most"),
    [(RATE, 1024, 250), (125 * 10**6, 2**15, 150), (10**9, 2**17, 720)],
)
async def test_small_grants_are_made_together_and_nothing_is_lost(time, rate, piece, most):
    """A wake-up costs more than some grants: there are few where the bucket is large enough."""
    throttle = time.throttle(up=rate)
    count = rate // piece // 64

    async def small(flow):
        for _ in range(count):
            await flow.take(piece)

    await time.run(*(small(throttle.flow("up")) for _ in range(64)))
    assert elapsed(time) == pytest.approx(64 * count * piece / rate, abs=0.02)
    assert len(time.fired) < 1.02 * most


async def test_what_waits_together_goes_at_once_when_the_rate_changes(time):
    throttle = time.throttle(up=RATE)
    flow = throttle.flow("up")

    async def change():
        await time.sleep(1.0005)
        throttle.set("up", 100 * RATE)
        changed = time.now
        await flow.take(1000)
        assert time.now - changed < MILLISECOND

    await time.run(hungry(throttle.flow("up"), RATE), change())


async def test_directions_do_not_wait_for_each_other(time):
    throttle = time.throttle(up=RATE, down=4 * RATE)
    down = throttle.flow("down")
    await time.run(hungry(throttle.flow("up"), 2 * RATE), down.spent(8 * RATE))
    assert elapsed(time) == pytest.approx(2, abs=0.01)


async def test_the_lower_of_the_runs_and_the_machines_limit_holds(time):
    throttle = time.throttle(up=RATE)
    throttle.set("up", 3 * RATE)
    assert throttle.rate("up") == RATE
    throttle.set("up", RATE // 2)
    assert throttle.rate("up") == RATE // 2
    await time.run(hungry(throttle.flow("up"), RATE))
    assert elapsed(time) == pytest.approx(2, abs=0.01)


async def test_a_total_bounds_the_sum_of_both(time):
    throttle = time.throttle()
    throttle.set("total", RATE)
    await time.run(hungry(throttle.flow("up"), RATE), hungry(throttle.flow("down"), RATE))
    assert elapsed(time) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("change", ["set", "clear", "resume", "off"])
async def test_a_change_reaches_at_once_who_waits(time, change):
    throttle = time.throttle()
    throttle.set("up", 1000)
    if change == "resume":
        throttle.pause()
    flow = throttle.flow("up")

    async def changed():
        await time.sleep(1)
        if change == "set":
            throttle.set("up", 1000 * RATE)
        elif change == "off":
            throttle.set("up", None)
        elif change == "clear":
            throttle.clear("up")
        else:
            throttle.set("up", 1000 * RATE)
            throttle.resume()

    await time.run(flow.take(RATE), changed())
    assert elapsed(time) == pytest.approx(1, abs=0.005)


async def test_a_pause_holds_for_hours_and_then_it_goes_on(time):
    throttle = time.throttle(up=RATE)
    flow = throttle.flow("up")

    async def paused():
        await time.sleep(1)
        throttle.pause()
        before = flow._counters.read(0).granted
        assert throttle.rate("up") == 0
        await time.sleep(36_000)
        assert flow._counters.read(0).granted == before
        throttle.resume()

    await time.run(hungry(flow, 2 * RATE), paused())
    assert elapsed(time) == pytest.approx(36_002, abs=0.025)  # its own bucket saved up one burst


async def test_control_goes_in_a_pause_and_bulk_pays_afterwards(time):
    throttle = time.throttle(up=RATE)
    flow = throttle.flow("up")
    throttle.pause()
    flow.charge(RATE)
    throttle.resume()
    await time.run(flow.take(1))
    assert elapsed(time) == pytest.approx(1, abs=0.01)


async def test_what_is_set_for_a_time_ends_at_that_time(time):
    throttle = time.throttle(up=10 * RATE)
    throttle.set("up", RATE, until=time.utc() + 2 * SECOND)
    await time.run(hungry(throttle.flow("up"), 12 * RATE))
    assert elapsed(time) == pytest.approx(3, abs=0.025)  # less what its own bucket saved up
    throttle.pause(until=time.utc() + SECOND)
    began = time.now
    await time.run(throttle.flow("up").take(1))
    assert elapsed(time, began) == pytest.approx(1, abs=0.01)


def steps(*edges):
    """A schedule of (seconds after *start*, rate, name)."""

    def schedule(start, calls):
        def explain(utc):
            calls.append(utc)
            at = [(start + int(after * SECOND), rate, name) for after, rate, name in edges]
            past = [each for each in at if each[0] <= utc]
            since, rate, name = past[-1] if past else (None, None, None)
            until = next((each[0] for each in at if each[0] > utc), None)
            none = Setting(None, None)
            return Explanation(Limits(Setting(rate, name), none, none), since, until)

        return explain

    return schedule


async def test_a_schedule_is_followed_to_the_instant(time):
    throttle = time.throttle()
    calls = []
    schedule = steps((0, RATE, "office"), (10.5, 10 * RATE, "night"))
    throttle.set_schedule(schedule(time.utc(), calls))
    log = []
    await time.run(hungry(throttle.flow("up"), 20 * RATE, log, time))
    office = sum(size for at, size in log if at <= SECOND * 11.5)
    assert office == pytest.approx(10.5 * RATE, abs=2 * QUANTUM)
    assert elapsed(time) == pytest.approx(10.5 + 9.5 / 10, abs=0.01)
    assert len(calls) == 2  # it is asked when something changes, and not at each look


async def test_explain_says_which_rule_and_until_when(time):
    throttle, start = time.throttle(), time.utc()
    assert throttle.explain()["up"] == (None, "none", None, None, None)
    throttle.set_schedule(steps((0, RATE, "office"), (60, None, "night"))(start, []))
    until = start + 60 * SECOND
    assert throttle.explain()["up"] == (RATE, "rule", "office", start, until)
    assert throttle.explain()["down"] == (None, "default", None, start, until)
    throttle.set("up", 5, until=start + SECOND)
    assert throttle.explain()["up"] == (5, "set", None, start, start + SECOND)
    throttle.pause()
    assert (
        throttle.explain()["up"] == throttle.explain()["down"] == (0, "paused", None, start, None)
    )


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_step_of_the_clock_is_seen_within_a_second(time, hours):
    throttle, start = time.throttle(), time.utc()
    hour = 3600
    throttle.set_schedule(
        steps((-2 * hour, 2, "before"), (-100, RATE, "now"), (hour - 100, 3, "after"))(start, [])
    )
    flow = throttle.flow("up")
    assert throttle.rate("up") == RATE

    async def stepped():
        time.utc_offset += hours * hour * SECOND
        await time.sleep(1.001)
        assert throttle.rate("up") == (3 if hours > 0 else 2)
        throttle.clear("up")
        throttle.set("up", 100 * RATE)

    await time.run(flow.take(3 * RATE), stepped())


async def test_a_schedule_that_fails_leaves_what_was_in_force(time):
    throttle = time.throttle()
    throttle.set_schedule(steps((0, RATE, "office"))(time.utc(), []))

    def broken(utc):
        raise UsageError("line 3")

    with pytest.raises(UsageError):
        throttle.set_schedule(broken)
    assert throttle.rate("up") == RATE


@pytest.mark.parametrize("rate", [-1, 10**13])
async def test_an_absurd_rate_is_refused_and_the_old_one_stays(time, rate):
    throttle = time.throttle()
    throttle.set("up", RATE)
    for refuse in (
        lambda: throttle.set("up", rate),
        lambda: throttle.set_ceiling("up", "seed", rate),
        lambda: time.throttle(up=rate),
        lambda: throttle.set("sideways", RATE),
    ):
        with pytest.raises(UsageError):
            refuse()
    assert throttle.rate("up") == RATE


async def test_classes_share_by_weight_and_keep_to_their_ceilings(time):
    throttle = time.throttle(up=RATE)
    flows = [throttle.flow("up", name) for name in ("restore", "seed")]
    tasks = [asyncio.create_task(hungry(flow, 100 * RATE)) for flow in flows]
    await time.run(time.sleep(5))
    classes = throttle.stats("up").classes
    ratio = classes["restore"].granted / classes["seed"].granted
    throttle.set_ceiling("up", "restore", RATE // 10)
    before = classes["restore"].granted
    await time.run(time.sleep(5))
    after = throttle.stats("up").classes["restore"].granted
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert ratio == pytest.approx(4, rel=0.02)
    assert after - before == pytest.approx(RATE / 2, rel=0.03)


async def test_the_figures_are_those_of_what_happened(time):
    throttle = time.throttle(up=RATE)
    flow = throttle.flow("up", "restore")
    await time.run(flow.take(RATE), flow.take(RATE))
    stats = throttle.stats("up")
    assert stats.rate == RATE and stats.tokens < QUANTUM
    restore = stats.classes["restore"]
    assert (restore.waiting, restore.granted) == (0, 2 * RATE)
    assert restore.waited == flow.waited == pytest.approx(3, abs=0.02)
    assert restore.longest == pytest.approx(2, abs=0.01)


calls = st.tuples(
    st.sampled_from(["take", "spent", "charge", "cancel", "set", "pause", "sleep"]),
    st.integers(1, 3 * QUANTUM),
    st.sampled_from([0, 1, 5, 50, 1000]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(calls, max_size=6), min_size=1, max_size=5))
def test_in_every_interval_the_sum_keeps_to_the_rate_and_one_burst(tasks):
    """Through changes, pauses, control and cancels, as the tasks themselves see it."""

    async def scenario():
        time = VirtualTime()
        throttle, events = time.throttle(), []

        def change(rate):
            throttle.set("up", rate)
            events.append(Event(time.now, 0, rate=rate))

        async def piecewise(call, flow, size):
            while size:
                piece = min(size, flow.quantum, flow._share.bounds[0].step)
                await call(piece)
                events.append(Event(time.now, piece))
                size -= piece

        async def work(steps):
            flow = throttle.flow("up")
            for call, size, pause in steps:
                if call == "sleep":
                    await time.sleep(pause / 1000)
                elif call == "charge":
                    flow.charge(size)
                    events.append(Event(time.now, size, control=True))
                elif call == "cancel":
                    task = asyncio.create_task(piecewise(flow.take, flow, size))
                    await time.sleep(pause / 1000)
                    task.cancel()
                    await asyncio.wait([task])
                elif call == "set":
                    change(RATE * max(1, pause // 10))
                elif call == "pause":
                    change(0)
                    await time.sleep(pause / 1000)
                    change(RATE)
                else:
                    await piecewise(getattr(flow, call), flow, size)

        change(RATE)
        results = await time.run(*map(work, tasks))
        assert results == [None] * len(tasks)
        # A task sees its grant a turn of the loop later: those of a moment come first in it.
        events.sort(key=lambda event: (event.at, event.control or event.rate is not None))
        assert violations(events, RATE, began=SECOND) == 0
        assert throttle.stats("up").classes["backup"].waiting == 0

    asyncio.run(scenario())


async def test_a_grant_that_its_task_no_longer_sees_is_given_back(time):
    """Cancelled between the grant and the next turn of the loop."""
    throttle = time.throttle(up=RATE)
    flow = throttle.flow("up")
    task = asyncio.create_task(flow.take(QUANTUM))
    await asyncio.sleep(0)
    (alarm,) = time.alarms
    time.now = alarm.at
    alarm.fire()  # granted, and its future is done
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and throttle.stats("up").tokens == QUANTUM
    assert throttle.stats("up").classes["backup"].granted == 0


async def test_who_is_cancelled_makes_room_for_who_waits(time):
    throttle = time.throttle(up=1000)
    flow, other = throttle.flow("up"), throttle.flow("up")
    large = asyncio.create_task(flow.take(1024))
    await time.run(time.sleep(0.9))
    small = asyncio.create_task(other.take(300))
    large.cancel()
    await asyncio.wait([large])
    await asyncio.wait_for(small, 1)  # on the real clock: the virtual one stands still
    assert elapsed(time) == pytest.approx(0.9, abs=0.01)


async def test_what_came_in_stays_spent_when_its_reader_is_cancelled(time):
    throttle = time.throttle(down=RATE)
    reader = asyncio.create_task(throttle.flow("down").spent(RATE))
    await time.run(time.sleep(0.1))
    reader.cancel()
    await time.run(throttle.flow("down").take(1))
    assert elapsed(time) == pytest.approx(1, abs=0.01)


async def test_requests_are_admitted_as_the_rate_can_feed_them(time):
    throttle = time.throttle(up=64_000)
    inside, most = 0, []

    async def request():
        nonlocal inside
        async with throttle.admitted("up"):
            inside += 1
            most.append(inside)
            await time.sleep(1)
            inside -= 1

    await time.run(*(request() for _ in range(4)))
    assert max(most) == 1 and elapsed(time) == pytest.approx(4, abs=0.01)


async def test_a_pause_admits_nobody_and_what_comes_after_it_does(time):
    throttle = time.throttle()
    throttle.pause()
    entered = []

    async def request():
        async with throttle.admitted("up"):
            entered.append(time.now)

    async def resumed():
        await time.sleep(5)
        assert entered == []
        throttle.resume()

    await time.run(request(), request(), resumed())
    assert len(entered) == 2


async def test_who_fits_buffers_hears_of_changes_and_of_nothing_else(time):
    throttle, heard = time.throttle(), []
    throttle.on_change(lambda: heard.append(throttle.rate("up")))
    for rate in (RATE, RATE, 5, None):
        throttle.set("up", rate)
    throttle.set("down", 7)
    assert heard == [RATE, 5, None, None]


async def test_closing_ends_every_wait(time):
    throttle = time.throttle(up=1)
    task = asyncio.create_task(throttle.flow("up").take(RATE))
    await asyncio.sleep(0)
    throttle.close()
    throttle.close()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("exact", [True, False])
def test_the_real_clock_is_kept_to(factory, exact):
    async def scenario():
        loop = asyncio.get_running_loop()
        timers = {} if exact else {"timers": lambda callback: LoopTimer(loop, callback)}
        throttle = Throttle(up=10 * RATE, **timers)
        began = loop.time()
        await asyncio.gather(*(hungry(throttle.flow("up"), RATE // 2) for _ in range(4)))
        throttle.close()
        return loop.time() - began

    with asyncio.Runner(loop_factory=factory) as runner:
        assert 0.2 * 0.9 <= runner.run(scenario()) <= 1
