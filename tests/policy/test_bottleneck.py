"""The bottleneck is what a run waited for, in whatever unit and for however long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.policy.bottleneck import CAUSES, LEAST, SHORT, Seconds, limited_by, shares

WORKERS = 4
seconds = st.floats(0, 100)


@st.composite
def runs(draw):
    """What some run of a minute may have spent."""
    elapsed = draw(st.floats(SHORT, 1000))
    part = st.floats(0, 1.1)  # clocks are not read at the same moment
    computing = draw(part)
    blocked = draw(part)
    calls = [draw(seconds) for _ in range(3)]
    workers = elapsed * WORKERS
    return Seconds(
        elapsed, workers, computing * workers, blocked * workers, draw(part) * elapsed,
        draw(part) * elapsed, *calls,
    )  # fmt: skip


def pure(cause, elapsed=10.0):
    """A run that only ever waited for one thing."""
    workers = elapsed * WORKERS
    bare = Seconds(elapsed, workers)
    return {
        "source": bare._replace(blocked=workers),
        "target": bare._replace(blocked=workers),
        "cpu": bare._replace(computing=workers),
        "network": bare._replace(far=elapsed, sending=3 * elapsed),
        "vault": bare._replace(far=elapsed, answering=3 * elapsed),
        "throttle": bare._replace(far=elapsed, limited=3 * elapsed),
    }[cause]


@pytest.mark.parametrize("cause", CAUSES)
def test_a_run_that_waited_for_one_thing_was_limited_by_that(cause):
    assert limited_by(pure(cause), reads=cause != "target") == cause


@pytest.mark.parametrize("cause", CAUSES)
def test_nothing_is_said_of_a_run_that_was_too_short(cause):
    assert limited_by(pure(cause, 0.9 * SHORT)) is None


def test_a_run_that_waited_for_nothing_in_particular_was_limited_by_nothing():
    little = Seconds(10, 40, 4, 4, 1, 3, 5, 5, 5)
    assert max(shares(little).values()) < LEAST
    assert limited_by(little) is None


def test_a_thread_of_the_loop_that_always_computes_is_a_processor_that_is_too_slow():
    assert limited_by(Seconds(10, 40, 4, 4, loop=9.9, far=3, answering=5)) == "cpu"


def test_calls_that_wait_beside_a_run_that_is_busy_did_not_hold_it_back():
    """Four uploads that are always under way are as they should be, if workers never wait."""
    assert limited_by(Seconds(10, 40, 38, 1, 3, far=0.5, answering=40)) == "cpu"


@given(runs(), st.sampled_from([0.5, 2.0, 1024.0]))
def test_the_unit_of_time_makes_no_difference(spent, factor):
    scaled = Seconds(*(each * factor for each in spent))
    assert limited_by(scaled, short=0) == limited_by(spent, short=0)


@given(runs(), st.booleans())
def test_no_share_is_more_than_all_of_the_time(spent, reads):
    assert all(0 <= share <= 1 for share in shares(spent, reads).values())
    assert ("source" in shares(spent, reads)) == reads


@given(runs(), st.sampled_from(["limited", "sending", "answering"]), seconds)
def test_more_waiting_for_a_part_of_calls_never_clears_it(spent, field, more):
    cause = {"limited": "throttle", "sending": "network", "answering": "vault"}[field]
    if limited_by(spent) == cause:
        longer = spent._replace(**{field: getattr(spent, field) + more})
        assert limited_by(longer) == cause


@given(runs(), runs())
def test_what_lies_between_two_moments_is_their_difference(first, second):
    both = Seconds(*(a + b for a, b in zip(first, second, strict=True)))
    assert both.since(first) == pytest.approx(second)
