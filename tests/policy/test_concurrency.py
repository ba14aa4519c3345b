"""The number of connections, on simulated paths: 95 % of the best that there is, within 20 s."""

import random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.policy.concurrency import (
    MOST,
    Concurrency,
    Epoch,
    epoch_length,
    settling,
)

SEGMENT = 1460
STEP = 0.1  # seconds
SEEDS = 3


class Path(NamedTuple):
    """*rate* in bytes a second, *trip* in seconds, *loss* as a share of packets; *window* bounds
    what a connection has under way. Many connections cost a little.
    """

    rate: float
    trip: float
    loss: float = 0.0
    window: float = 6 * 2**20
    price: float = 0.0005

    def goodput(self, connections: int) -> float:
        """Loss holds each connection down by Mathis' law, in bytes a second."""
        one = self.window / self.trip
        if self.loss:
            one = min(one, 1.22 * SEGMENT / (self.trip * self.loss**0.5))
        return min(self.rate, connections * one) * (1 - self.price * connections)

    @property
    def best(self) -> float:
        return max(self.goodput(n) for n in range(1, MOST + 1))


LAN = Path(120e6, 0.0005)
PATHS = {
    "lan": LAN,
    "100 ms": Path(120e6, 0.1),
    "100 ms, small windows": Path(120e6, 0.1, window=208 * 1024),
    "100 ms, 1 %": Path(120e6, 0.1, 0.01),
    "300 ms, 0.1 %": Path(120e6, 0.3, 0.001),
    "10 Mbit": Path(1.25e6, 0.03),
    "20 ms, 0.1 %": Path(30e6, 0.02, 0.001),
}


class Line:
    """A transfer over a path that may become another one, steered as the real ones are."""

    def __init__(self, path, seed=1, start=4):
        self.path, self.control, self.now = path, Concurrency(start), 0.0
        self._noise, self._speed = random.Random(seed), 0.0
        self._changed, self._epoch_bytes, self._measured = 0.0, 0.0, 0.0
        self.moved = []

    def run(self, seconds, cause="network"):
        """Bytes that arrived in each step."""
        end = self.now + seconds
        while self.now < end:
            self._step(cause)
        return self

    def _step(self, cause):
        path = self.path
        aim = path.goodput(self.control.connections) * self._noise.uniform(0.97, 1.0)
        self._speed += (aim - self._speed) * min(1.0, STEP / (4 * path.trip + STEP))
        self.now += STEP
        self.moved.append((self.now, self._speed * STEP))
        if self.now - self._changed > settling(path.trip):
            self._epoch_bytes += self._speed * STEP
            self._measured += STEP
        if self.now - self._changed >= epoch_length(path.trip):
            self.control.seen(Epoch(self._measured, int(self._epoch_bytes), cause))
            self._changed, self._epoch_bytes, self._measured = self.now, 0.0, 0.0

    def share_of_best(self, since):
        moved = [size for at, size in self.moved if at > since]
        return sum(moved) / (len(moved) * STEP * self.path.best)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", PATHS)
def test_from_20_seconds_on_it_is_as_fast_as_the_best_number_that_never_changes(name, seed):
    line = Line(PATHS[name], seed).run(140)
    for since in (20, 60, 100):
        moved = [size for at, size in line.moved if since < at <= since + 40]
        assert sum(moved) / (len(moved) * STEP * line.path.best) >= 0.95, since


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("after", PATHS)
@pytest.mark.parametrize("before", PATHS)
def test_40_seconds_after_the_path_has_changed_it_is_as_fast_again(before, after, seed):
    line = Line(PATHS[before], seed).run(47)
    line.path = PATHS[after]
    changed = line.now
    line.run(80)
    assert line.share_of_best(changed + 40) >= 0.95


def test_on_a_path_that_few_fill_it_stays_with_few():
    assert Line(LAN).run(60).control.connections <= 8


def test_on_a_path_that_loses_it_takes_all_that_there_are():
    assert Line(PATHS["100 ms, 1 %"]).run(20).control.connections == MOST


@pytest.mark.parametrize("cause", ["throttle", "cpu", "source", "target", None])
def test_what_connections_do_not_help_never_gets_more_of_them(cause):
    line = Line(PATHS["100 ms, 1 %"])
    for _ in range(100):
        line.run(2, cause)
        assert line.control.connections <= 4


def test_a_limit_that_comes_in_the_middle_of_a_search_ends_it():
    line = Line(PATHS["100 ms, 1 %"]).run(5)
    reached = line.control.connections
    assert 4 < reached < MOST
    line.run(40, "throttle")
    assert line.control.connections == reached
    line.run(100)  # and after it, by and by
    assert line.control.connections == MOST


def test_a_vault_that_asks_for_less_is_asked_by_half():
    control = Concurrency(start=32)
    numbers = [control.seen(Epoch(2, 10**7, "network", refused=True)) for _ in range(7)]
    assert numbers == [16, 8, 4, 2, 1, 1, 1]


def test_after_a_refusal_nothing_is_tried_for_half_a_minute():
    control = Concurrency(start=32)
    control.seen(Epoch(2, 10**7, "network", refused=True))
    held = [control.seen(Epoch(2, 10**7, "network")) for _ in range(14)]
    assert held == [16] * 14
    assert control.seen(Epoch(2, 10**7, "network")) != 16


epochs = st.builds(
    Epoch, st.floats(0.5, 10), st.integers(0, 10**10),
    st.sampled_from(["network", "vault", "cpu", "source", "throttle", None]), st.booleans(),
)  # fmt: skip


@given(st.integers(1, MOST), st.integers(1, MOST), st.lists(epochs, max_size=100))
def test_whatever_is_seen_the_number_stays_in_its_bounds(start, most, seen):
    control = Concurrency(start, most)
    for epoch in seen:
        before = control.connections
        assert 1 <= control.seen(epoch) <= most
        assert control.connections <= max(2 * before, 4)


def test_an_epoch_has_twice_the_time_in_which_a_change_shows():
    for trip in (0.0, 0.05, 0.3, 1.0):
        assert epoch_length(trip) >= 2 and epoch_length(trip) >= 2 * settling(trip)


def driven(control, goodput, epochs, cause="network"):
    """The numbers that were tried, where so many connections have that *goodput*."""
    return [
        control.seen(Epoch(2, int(2 * goodput(control.connections)), cause)) for _ in range(epochs)
    ]


def test_where_more_is_as_good_it_settles_for_the_fewest():
    assert driven(Concurrency(), lambda n: 10**7, 6)[-1] == 4


def test_the_knee_between_the_last_two_is_found():
    def goodput(number):
        return 10**7 if number < 12 else 1.04 * 10**7

    assert driven(Concurrency(8), goodput, 8)[-1] == 13


def test_a_search_that_a_limit_ended_compares_nothing_with_what_was_before():
    control = Concurrency()
    assert driven(control, lambda n: 10**7, 1) == [8]
    driven(control, lambda n: 10**5, 3, "throttle")
    assert driven(control, lambda n: 10**6, 10) == [8] * 10


def test_a_path_that_gets_better_keeps_all_its_connections():
    control = Concurrency(MOST)
    driven(control, lambda n: 10**6, 5)
    assert min(driven(control, lambda n: 10**7, 10)) == MOST


def test_a_path_that_gets_better_while_fewer_are_tried_is_no_reason_for_fewer():
    control = Concurrency(MOST)
    tried = driven(control, lambda n: n * 10**5, 20)
    while tried[-1] == MOST:
        tried += driven(control, lambda n: n * 10**5, 1)
    assert driven(control, lambda n: n * 10**6, 2)[-1] == MOST


def test_a_rate_that_drifts_is_no_other_path():
    control = Concurrency(8, 32)
    driven(control, lambda n: 10**7, 1, "throttle")  # holds
    numbers = [control.seen(Epoch(2, int(2e7 * 1.02**n), "network")) for n in range(14)]
    assert numbers == [8] * 14


def test_one_epoch_that_was_bad_ends_no_search():
    control, rates = Concurrency(), iter([4, 8, 8.2, 15, 32, 64])
    tried = [control.seen(Epoch(1, int(next(rates) * 10**6), "network")) for _ in range(6)]
    assert tried == [8, 16, 16, 32, 64, 64]


def test_two_epochs_of_one_number_count_by_their_mean():
    control, rates = Concurrency(), iter([4, 8, 6, 10.5])  # 8.25 is too little more than 8
    for _ in range(4):
        control.seen(Epoch(1, int(next(rates) * 10**6), "network"))
    assert control.connections < 16
