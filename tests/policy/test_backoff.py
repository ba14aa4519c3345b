"""Waits grow, spread, and respect the vault; retries run out when nothing succeeds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.policy.backoff import BASE, CAP, RetryBudget, delay

attempts = st.integers(0, 10**6)
chances = st.floats(0, 1, exclude_max=True)
waits = st.one_of(st.none(), st.floats(0, 3600))


@pytest.mark.parametrize(
    ("attempt", "span"), [(0, 0.5), (1, 1), (2, 2), (5, 16), (6, CAP), (10**9, CAP)]
)
def test_the_span_doubles_up_to_the_cap(attempt, span):
    assert delay(attempt, 0.5) == span / 2


@given(attempts, chances, waits)
def test_a_wait_is_within_its_span_and_never_shorter_than_the_vault_asked(attempt, chance, asked):
    wait = delay(attempt, chance, asked)
    assert (asked or 0) <= wait <= (asked or 0) + CAP


def test_full_jitter_spreads_from_zero():
    assert delay(3, 0.0) == 0.0
    assert delay(3, 0.999) > BASE * 2**3 * 0.99


def test_clients_that_were_told_the_same_time_do_not_come_back_in_the_same_moment():
    assert delay(4, 0.1, 10) != delay(4, 0.9, 10)


def test_a_budget_ends_retries_when_nothing_succeeds():
    budget = RetryBudget(capacity=12, cost=5, refund=1)
    assert [budget.retry() for _ in range(4)] == [True, True, False, False]
    for _ in range(3):
        budget.succeeded()
    assert budget.retry()
    assert not budget.retry()


def test_successes_do_not_save_up_more_than_the_capacity():
    budget = RetryBudget(capacity=10, cost=5, refund=4)
    for _ in range(100):
        budget.succeeded()
    assert [budget.retry() for _ in range(3)] == [True, True, False]


def test_a_budget_allows_a_hundred_retries_in_a_row_unless_told():
    budget = RetryBudget()
    assert sum(budget.retry() for _ in range(200)) == 100
