"""The bound of the bucket, over every interval, and its other side: it gives what it owes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.policy.grants import Event, violations
from transfer.policy.token_bucket import (
    MAX_BURST,
    MAX_QUANTUM,
    MAX_RATE,
    MIN_QUANTUM,
    SECOND,
    Hold,
    TokenBucket,
    quantum,
)

rates = st.integers(1, 10**10)
pauses = st.sampled_from([0, 0, 1, 1000, 10**5, 3 * 10**6, 2 * 10**7, SECOND // 2, 60 * SECOND])
steps = st.one_of(
    st.tuples(st.just("take"), pauses, st.floats(0, 1)),
    st.tuples(st.just("hold"), pauses, st.floats(0, 1)),
    st.tuples(st.just("cancel"), pauses, st.integers(0, 9)),
    st.tuples(st.just("charge"), pauses, st.integers(0, 2**16)),
    st.tuples(st.just("rate"), pauses, st.one_of(st.just(0), rates)),
)


@given(rates, st.lists(steps, max_size=40))
def test_every_interval_keeps_to_the_rate_and_one_burst(rate, steps):
    """Through changes, pauses, control traffic and what is given back."""
    bucket, now, events, holds = TokenBucket(rate, 0), 0, [], []
    for step, pause, argument in steps:
        now += pause
        if step == "rate":
            bucket.set_rate(argument, now)
            events.append(Event(now, 0, rate=argument))
        elif step == "charge":
            bucket.take(argument, now)
            events.append(Event(now, argument, control=True))
        elif step in ("take", "hold"):
            amount = int(argument * bucket.burst)
            if (ready := bucket.ready_at(amount, now)) is None:
                continue
            now = ready
            bucket.take(amount, now, hold := Hold())
            if step == "hold":
                holds.append(hold)
            else:
                events.append(Event(now, amount))
        if step == "cancel" and holds:
            bucket.give_back(holds.pop(argument % len(holds)), now)
    assert violations(events, rate) == 0


def test_the_checker_of_the_bound_sees_a_single_byte_too_much():
    rate, full = 10**6, TokenBucket(10**6, 0).burst
    assert violations([Event(SECOND, full), Event(SECOND + 1000, 1)], rate) == 0
    assert violations([Event(SECOND, full), Event(SECOND + 1000, 2)], rate) == 1
    assert violations([Event(0, 1)], rate) == 1  # it starts empty
    slower = [Event(SECOND, 0, rate=1), Event(SECOND, MIN_QUANTUM)]
    assert violations(slower, rate) == 0
    assert violations([*slower, Event(SECOND, 1)], rate) == 1


@given(rates, st.integers(1, 2**18), st.lists(st.integers(0, 10**6), max_size=20))
def test_it_is_ready_as_soon_as_the_bytes_are_there_and_not_a_nanosecond_before(
    rate, amount, looks
):
    bucket, now = TokenBucket(rate, 0), 0
    amount = min(amount, bucket.burst)
    ready = bucket.ready_at(amount, now)
    for pause in looks:  # looking costs nothing: Proxmox's limiter floors at each look
        if now + pause < ready:
            now += pause
            assert bucket.ready_at(amount, now) == ready
    assert bucket.level(ready - 1) < amount <= bucket.level(ready)


@given(rates, st.integers(1, 30))
def test_a_bucket_starts_empty(rate, seconds):
    bucket = TokenBucket(rate, 100 * SECOND)
    assert bucket.level(100 * SECOND) == 0
    bucket.take(seconds * rate, 100 * SECOND)
    assert bucket.ready_at(0, 100 * SECOND) == (100 + seconds) * SECOND


@given(rates, st.integers(0, 1000 * SECOND))
def test_a_quiet_time_saves_up_one_burst_and_no_more(rate, pause):
    bucket = TokenBucket(rate, 0)
    assert bucket.level(pause) == min(bucket.burst, rate * pause // SECOND)


@given(rates, rates, st.integers(0, 10**8))
def test_a_change_settles_at_the_old_rate(old, new, pause):
    bucket = TokenBucket(old, 0)
    bucket.set_rate(new, pause)
    kept = min(TokenBucket(old, 0).burst, TokenBucket(new, 0).burst, old * pause // SECOND)
    assert bucket.level(pause) == kept


def test_a_pause_grants_nothing_keeps_nothing_and_forgets_no_debt():
    bucket = TokenBucket(10**6, 0)
    bucket.set_rate(0, SECOND)
    assert bucket.level(3600 * SECOND) == 0
    assert bucket.ready_at(1, 3600 * SECOND) is None
    bucket.take(1000, 3600 * SECOND)
    bucket.set_rate(1000, 7200 * SECOND)
    assert bucket.ready_at(0, 7200 * SECOND) == 7201 * SECOND


def test_a_clock_that_stands_still_or_goes_back_brings_nothing():
    bucket = TokenBucket(1000, 50 * SECOND)
    bucket.take(2000, 50 * SECOND)
    assert bucket.ready_at(0, 50 * SECOND) == 52 * SECOND
    assert bucket.ready_at(0, 20 * SECOND) == 52 * SECOND
    assert bucket.level(50 * SECOND) == -2000  # the way back to where it was is not paid again
    assert bucket.level(51 * SECOND) == -1000


@example(321_494, [("rate", 60 * SECOND, 134), ("rate", 2 * 10**7, 51_252)], 0, 38)
@given(rates, st.lists(steps, max_size=20), st.integers(0, 19), st.integers(0, 2**20))
def test_what_is_given_back_is_as_if_never_taken(rate, steps, place, taken):
    """Whatever happens in between: what would have run over without it does not come back."""
    bucket, other, now, hold = TokenBucket(rate, 0), TokenBucket(rate, 0), 0, Hold()
    for index, (step, pause, argument) in enumerate(steps):
        now += pause
        for each in (bucket, other):
            if step == "rate":
                each.set_rate(argument, now)
            elif step == "charge":
                each.take(argument, now)
        if index == place:
            bucket.take(taken, now, hold)
    bucket.give_back(hold, now)
    assert bucket.level(now) == other.level(now)


def test_of_two_that_are_given_back_neither_hides_that_the_bucket_was_full():
    bucket, first, second = TokenBucket(2**20, 0), Hold(), Hold()
    bucket.take(bucket.burst // 2, SECOND, first)
    bucket.take(bucket.burst // 2, SECOND, second)
    later = bucket.ready_at(bucket.burst // 2, SECOND)
    bucket.take(1000, later)  # without the two it would have been full just now
    for hold in (first, second):
        bucket.give_back(hold, later)
    assert bucket.level(later) == bucket.burst - 1000


def test_more_than_a_burst_is_never_there_at_once():
    bucket = TokenBucket(2**20, 0)
    assert bucket.ready_at(bucket.burst + 1, 3600 * SECOND) is None
    assert bucket.ready_at(bucket.burst, 3600 * SECOND) == 3600 * SECOND


@given(st.integers(1, MAX_RATE), st.integers(0, 2 * 10**6))
def test_a_timer_that_is_two_milliseconds_late_loses_nothing(rate, late):
    """For as long as one is granted a step at a time, and 4 MiB last as long."""
    bucket, now, granted = TokenBucket(min(rate, 10**9), 0), 0, 0
    for _ in range(50):
        now = bucket.ready_at(bucket.step, now) + late
        while bucket.level(now) >= bucket.step:
            bucket.take(bucket.step, now)
            granted += bucket.step
    assert granted + bucket.level(now) == bucket.rate * now // SECOND


@pytest.mark.parametrize(
    ("rate", "size"),
    [(1, MIN_QUANTUM), (64_000, MIN_QUANTUM), (2**20, 4194), (10**7, 40_000), (10**9, MAX_QUANTUM)],
)
def test_the_quantum_is_4_ms_within_its_limits(rate, size):
    assert quantum(rate) == TokenBucket(rate, 0).quantum == size


@pytest.mark.parametrize(
    ("rate", "burst"),
    [(1, MIN_QUANTUM), (10**7, 200_000), (10**9, MAX_BURST), (10**12, MAX_BURST)],
)
def test_the_burst_is_20_ms_and_no_less_than_a_quantum(rate, burst):
    assert TokenBucket(rate, 0).burst == burst


@pytest.mark.parametrize("rate", [-1, MAX_RATE + 1])
def test_an_absurd_rate_is_refused_and_the_old_one_stays(rate):
    with pytest.raises(ValueError):
        TokenBucket(rate, 0)
    bucket = TokenBucket(1000, 0)
    with pytest.raises(ValueError):
        bucket.set_rate(rate, 0)
    assert bucket.ready_at(1000, 0) == SECOND
