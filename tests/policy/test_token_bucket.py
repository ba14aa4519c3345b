"""The bound of the bucket, over every interval, and its other side: it gives what it owes."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.policy.token_bucket import MAX_BURST, MAX_QUANTUM, MIN_QUANTUM, TokenBucket, quantum

rates = st.integers(1, 10**10)
pauses = st.sampled_from([0.0, 0.0, 1e-6, 1e-4, 0.003, 0.02, 0.5, 60.0])


def assert_bound(grants, rate, burst):
    """*grants* are (time, bytes) in ascending time: check every interval that begins at one."""
    for first in range(len(grants)):
        start = grants[first][0]
        for (now, _), granted in zip(
            grants[first:], accumulate(size for _, size in grants[first:]), strict=True
        ):
            allowed = rate * (now - start) + burst
            assert granted <= allowed * (1 + 1e-9) + 1e-3


@given(rates, st.lists(st.tuples(pauses, st.floats(0, 1)), max_size=40))
def test_in_every_interval_the_grants_keep_to_the_rate_and_one_burst(rate, steps):
    bucket, now, grants = TokenBucket(rate, 0.0), 0.0, []
    for pause, fraction in steps:
        now += pause
        amount = int(fraction * bucket.burst)
        # Asked at *now*, used when the delay is over; nobody overtakes in a bucket with debt.
        grants.append((now + bucket.take(amount, now), amount))
    assert_bound(sorted(grants), rate, bucket.burst)


@given(rates, st.integers(1, 30))
def test_a_bucket_starts_empty(rate, seconds):
    """From the first moment on, `rate * t` and no burst."""
    bucket = TokenBucket(rate, 100.0)
    assert bucket.take(seconds * rate, 100.0) == pytest.approx(seconds)


@given(rates, st.integers(1, 200), st.floats(1e-7, 1e-3))
def test_many_short_looks_lose_nothing(rate, looks, pause):
    """Proxmox's limiter floors to whole bytes at each look, and runs slow when polled fast."""
    bucket, now = TokenBucket(rate, 0.0), 0.0
    bucket.take(10 * rate, now)
    for _ in range(looks):
        now += pause
        bucket.delay(now)
    assert bucket.delay(now) == pytest.approx(10 - now, rel=1e-6)


@given(rates, st.floats(0, 1000))
def test_a_pause_saves_up_one_burst_and_no_more(rate, pause):
    bucket = TokenBucket(rate, 0.0)
    available = min(bucket.burst, rate * pause)
    bucket.take(bucket.burst, pause)
    assert bucket.delay(pause) == pytest.approx((bucket.burst - available) / rate, abs=1e-9)


def test_a_clock_that_stands_still_or_goes_back_brings_nothing():
    bucket = TokenBucket(1000, 50.0)
    assert bucket.take(1000, 50.0) == 1
    assert bucket.take(1000, 50.0) == 2
    assert bucket.delay(20.0) == 2
    assert bucket.delay(50.0) == 2  # the way back to where it was is not paid again
    assert bucket.delay(51.0) == 1


@given(st.integers(1, 2**20), st.integers(1, 2**20))
def test_what_is_given_back_is_as_if_never_taken(kept, returned):
    bucket, other = TokenBucket(2**20, 0.0), TokenBucket(2**20, 0.0)
    for each in (bucket, other):
        each.take(kept, 0.0)
    bucket.take(returned, 0.0)
    bucket.give_back(returned)
    assert bucket.delay(0.0) == other.delay(0.0)


def test_giving_back_fills_the_bucket_up_to_its_burst_only():
    bucket = TokenBucket(2**20, 0.0)
    bucket.take(bucket.burst, 0.0)
    bucket.delay(3600.0)
    bucket.give_back(bucket.burst)
    assert bucket.take(2 * bucket.burst, 3600.0) == bucket.burst / bucket.rate


@pytest.mark.parametrize(
    ("rate", "size"),
    [(1, MIN_QUANTUM), (64_000, MIN_QUANTUM), (2**20, 4194), (10**7, 40_000), (10**9, MAX_QUANTUM)],
)
def test_the_quantum_is_4_ms_within_its_limits(rate, size):
    assert quantum(rate) == TokenBucket(rate, 0.0).quantum == size


@pytest.mark.parametrize(
    ("rate", "burst"),
    [(1, MIN_QUANTUM), (10**7, 200_000), (10**9, MAX_BURST), (10**12, MAX_BURST)],
)
def test_the_burst_is_20_ms_and_no_less_than_a_quantum(rate, burst):
    assert TokenBucket(rate, 0.0).burst == burst


@pytest.mark.parametrize("rate", [0, -1])
def test_a_bucket_needs_a_rate(rate):
    with pytest.raises(ValueError):
        TokenBucket(rate, 0.0)
