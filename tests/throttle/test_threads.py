"""Threads wait as tasks do: the bound holds for all of them, and who gives up costs nothing."""

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from transfer.throttle.threads import in_thread
from transfer.throttle.throttle import Throttle

RATE = 2**20


def soon(condition):
    """The loop hears of a wait that ended a moment later."""
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_threads_together_keep_to_the_rate():
    with in_thread(Throttle(up=RATE)) as throttle, ThreadPoolExecutor(4) as pool:
        began = time.monotonic()

        def hungry(_):
            flow = throttle.flow("up")
            for _ in range(10):
                flow.take(flow.quantum)
            return 10 * flow.quantum

        took = sum(pool.map(hungry, range(4)))
        assert time.monotonic() - began >= took / RATE - 0.020  # a burst was saved up before


def test_a_wait_that_times_out_gives_back_and_one_that_came_in_stays_spent():
    own = Throttle()
    own.set("up", RATE)
    with in_thread(own) as throttle:
        flow = throttle.flow("up")
        with pytest.raises(TimeoutError):
            flow.take(2**30, timeout=0.05)
        throttle.call(lambda: own.pause())
        soon(lambda: throttle.call(lambda: own.stats("up").classes["backup"]).waiting == 0)
        with pytest.raises(TimeoutError):
            flow.spent(10 * RATE, timeout=0.01)
        soon(lambda: throttle.call(lambda: own.stats("up").tokens) <= -9 * RATE)


def test_without_a_limit_no_thread_waits_and_errors_come_back():
    with in_thread(Throttle()) as throttle:
        flow = throttle.flow("down", "restore")
        flow.take(2**50)
        flow.spent(2**50)
        flow.charge(2**50)
        with pytest.raises(KeyError):
            throttle.flow("sideways")


def test_closing_ends_the_waits_of_threads():
    ended = threading.Event()
    with in_thread(Throttle(up=1)) as throttle:
        flow = throttle.flow("up")
        flow.charge(100)

        def wait():
            with pytest.raises(CancelledError):
                flow.take(2**20)
            ended.set()

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
    thread.join(5)
    assert ended.is_set()
