"""Processes with one limit keep to it together, share by weight, and die without a trace."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time as real
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.policy.grants import Event, violations
from transfer.errors import TransientError, UsageError
from transfer.policy.token_bucket import SECOND, Hold
from transfer.throttle.shared import LOOK, SharedLimits
from transfer.throttle.throttle import Throttle

RATE = 4 * 2**20
MILLISECOND = 10**6


class Clock:
    def __init__(self):
        self.now = 1000 * SECOND

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def join(tmp_path, clock):
    """One more process in the file, on a virtual clock."""
    made = []

    def join(weight=1, rate=RATE, path=tmp_path / "limits"):
        made.append(each := SharedLimits(path, weight, clock))
        each.wish((rate, None, None))
        with each.held(clock.now):
            pass
        return each

    yield join
    for each in made:
        each.close()


def run(clock, until, *processes, step=None):
    """All of them hungry up to *until*, each by itself; the log of (process, event)."""
    log, wakes = [], dict.fromkeys(processes, clock.now)
    while True:
        first = min(processes, key=lambda each: wakes[each])
        if wakes[first] > until:
            clock.now = until
            return log
        clock.now = max(clock.now, wakes[first])
        with first.held(clock.now) as held:
            assert held
            bucket = first.buckets["up"]
            size = step or bucket.step
            ready = bucket.ready_at(size, clock.now)
            if ready is not None and ready <= clock.now:
                bucket.take(size, clock.now, Hold())
                log.append((first, Event(clock.now, size)))
                wakes[first] = clock.now
            else:
                wakes[first] = min(clock.now + LOOK, ready or clock.now + LOOK)


def by_process(log):
    got = {}
    for process, event in log:
        got[process] = got.get(process, 0) + event.size
    return got


def test_together_they_keep_to_the_bound_in_every_interval(clock, join):
    began = clock.now
    processes = [join(weight) for weight in (1, 2, 5)]
    log = run(clock, began + 2 * SECOND, *processes)
    assert violations([event for _, event in log], RATE, began) == 0
    assert sum(by_process(log).values()) == pytest.approx(2 * RATE, rel=0.01)


def test_they_share_by_weight(clock, join):
    processes = [join(weight) for weight in (1, 3)]
    got = by_process(run(clock, clock.now + 4 * SECOND, *processes))
    assert got[processes[1]] / got[processes[0]] == pytest.approx(3, rel=0.02)


def test_one_that_stops_asking_leaves_all_to_the_other_at_once(clock, join):
    alive, dead = join(), join(weight=9)
    run(clock, clock.now + SECOND, alive, dead)
    with dead.held(clock.now):  # it waits, and is killed
        dead.buckets["up"].ready_at(dead.buckets["up"].step, clock.now)
    began = clock.now
    log = run(clock, began + SECOND // 10, alive)
    assert sum(by_process(log).values()) >= RATE // 10 - 2 * alive.buckets["up"].step


def test_one_that_was_idle_has_no_arrears(clock, join):
    idle, busy = join(), join()
    run(clock, clock.now + 5 * SECOND, busy)
    got = by_process(run(clock, clock.now + SECOND, idle, busy))
    assert got[idle] / got[busy] == pytest.approx(1, rel=0.05)


def test_the_lowest_wish_of_the_living_holds(clock, join):
    first, second = join(rate=RATE), join(rate=RATE // 2)

    def rates(process):
        with process.held(clock.now):
            return process.rates[0]

    assert rates(first) == RATE // 2
    clock.now += 4 * SECOND  # the second was killed
    assert rates(first) == RATE
    second.wish((None, None, None))
    assert rates(second) == RATE
    first.close()
    assert rates(second) is None


def test_a_slot_that_lapsed_is_taken_and_its_process_finds_another(clock, join):
    first = join()
    clock.now += 10 * SECOND
    others = [join() for _ in range(3)]
    assert len({each._slot for each in others}) == 3
    assert first._slot in {each._slot for each in others}
    with first.held(clock.now):
        assert first._slot not in {each._slot for each in others}


def test_a_file_in_other_hands_is_not_waited_for(clock, join):
    first, second = join(), join()
    with first.held(clock.now) as held:
        assert held
        with second.held(clock.now) as other:
            assert not other
    with second.held(clock.now) as held:
        assert held


def test_after_a_restart_of_the_machine_the_bucket_is_empty(clock, join):
    before = join()
    clock.now += SECOND
    with before.held(clock.now):
        full = before.buckets["up"].level(clock.now)
    clock.now = 5 * SECOND  # the monotonic clock begins anew
    after = join()
    for pause, level in ((0, 0), (SECOND, full)):
        clock.now += pause
        with after.held(clock.now):
            assert after.rates[0] == RATE
            assert after.buckets["up"].level(clock.now) == level


def test_a_grant_is_given_back_unless_another_process_used_the_bucket_meanwhile(clock, join):
    first, second = join(), join()
    for other in (False, True):
        clock.now += SECOND
        hold = Hold()
        with first.held(clock.now):
            bucket = first.buckets["up"]
            full = bucket.level(clock.now)
            bucket.take(1000, clock.now, hold)
        if other:
            with second.held(clock.now):
                second.buckets["up"].take(1, clock.now, Hold())
        with first.held(clock.now):
            bucket.give_back(hold, clock.now)
            assert bucket.level(clock.now) == (full - 1001 if other else full)


def test_no_more_than_64_processes(clock, join):
    for _ in range(64):
        join()
    with pytest.raises(TransientError, match="64 processes"):
        join()


@pytest.mark.parametrize("content", [b"something else", bytes(8448)])
def test_another_kind_of_file_is_refused_and_not_touched(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="holds no limits"):
        SharedLimits(path)
    assert path.read_bytes() == content


def test_a_full_disk_leaves_nothing_that_is_taken_for_another_file(tmp_path, monkeypatch):
    path, pwrite = tmp_path / "limits", os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, raw, at: pwrite(file, raw[:100], at))
    with pytest.raises(OSError, match="No space"):
        SharedLimits(path)
    monkeypatch.undo()
    SharedLimits(path).close()


def test_the_file_is_its_owners_and_no_link_is_followed(tmp_path, join):
    join()
    assert stat.S_IMODE((tmp_path / "limits").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        SharedLimits(tmp_path / "link")


def test_whatever_stands_in_the_cells_ends_in_a_limit_that_holds(tmp_path, clock, join):
    """A process killed in the middle of a change leaves some cells new and some old."""
    import random

    join()
    chance = random.Random(3)
    for _ in range(200):
        with (tmp_path / "limits").open("r+b") as file:
            for _ in range(20):
                file.seek(8 * chance.randrange(1, 96))
                file.write(chance.randbytes(8))
        clock.now += 10 * SECOND
        fresh = join()
        log = run(clock, clock.now + SECOND // 10, fresh)
        assert sum(event.size for _, event in log) <= RATE // 10 + RATE // 50 + 10
        fresh.close()


# Real processes, on the real clock.

HUNGRY = """
import asyncio, sys, time
from pathlib import Path
from transfer.throttle.shared import SharedLimits
from transfer.throttle.throttle import Throttle

async def main(path, weight, rate):
    throttle = Throttle(shared=SharedLimits(Path(path), int(weight)))
    throttle.set("up", int(rate))
    flow, got, told = throttle.flow("up"), 0, 0
    while True:
        piece = min(flow.quantum, 8192)
        await flow.take(piece)
        sys.stdout.write(f"{time.monotonic_ns()} {piece}\\n")
        if time.monotonic_ns() - told > 5_000_000:
            told = time.monotonic_ns()
            sys.stdout.flush()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def hungry(path: Path, log: Path, weight=1, rate=RATE):
    with log.open("w") as out:
        command = [sys.executable, "-c", HUNGRY, str(path), str(weight), str(rate)]
        process = subprocess.Popen(command, stdout=out, cwd=Path(__file__).parents[2])
    try:
        while log.stat().st_size == 0:
            assert process.poll() is None
            real.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def events(log, since=0, until=1 << 62):
    lines = [line.split() for line in log.read_text().splitlines() if " " in line]
    found = [(int(at), int(size)) for at, size in lines if size]
    return [Event(at, size) for at, size in found if since <= at < until]


def total(found):
    return sum(event.size for event in found)


def test_two_processes_share_by_weight_within_one_bound(tmp_path):
    path, one, three = tmp_path / "limits", tmp_path / "one", tmp_path / "three"
    with hungry(path, one), hungry(path, three, weight=3):
        began = real.monotonic_ns()
        real.sleep(1.5)
        until = real.monotonic_ns() - 50 * MILLISECOND
    seconds = (until - began) / SECOND
    first, second = events(one, began, until), events(three, began, until)
    # Above, two grants that were logged late; below, what a busy machine may cost.
    assert 0.85 <= (total(first) + total(second)) / (RATE * seconds) <= 1.03
    assert 2 < total(second) / total(first) < 4.5  # the virtual clock's test is the exact one


def test_a_process_killed_leaves_all_to_the_other_at_once(tmp_path):
    path, one, nine = tmp_path / "limits", tmp_path / "one", tmp_path / "nine"
    with hungry(path, one), hungry(path, nine, weight=9) as process:
        real.sleep(0.5)
        began = real.monotonic_ns()
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = real.monotonic_ns()
        real.sleep(0.6)
    alone = events(one, killed, killed + SECOND // 2)
    assert total(events(one, began - SECOND // 4, began)) < RATE / 4 * 0.2
    assert 0.85 <= total(alone) / (RATE / 2) <= 1.08
    at_once = total(event for event in alone if event.at < killed + SECOND // 10)
    assert at_once >= RATE / 10 * 0.8


def test_a_change_by_one_process_reaches_those_that_wait_in_another(tmp_path):
    async def scenario():
        path = tmp_path / "limits"
        first = Throttle(shared=SharedLimits(path))
        second = Throttle(shared=SharedLimits(path))
        first.set("up", 0)
        flow = second.flow("up")
        first.flow("up")
        await asyncio.sleep(0.1)
        assert flow.limited  # though it wishes for no limit
        waiting = asyncio.create_task(flow.take(1000))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        began = real.monotonic()
        first.resume()
        first.set("up", 2**30)
        await waiting
        assert real.monotonic() - began < 0.2
        first.close()
        await asyncio.sleep(0.1)
        assert not flow.limited
        second.close()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before
