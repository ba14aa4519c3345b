"""Checks and measures of a log of grants, exact: whole numbers of 10**-9 bytes."""

from typing import NamedTuple

from transfer.policy.token_bucket import SECOND, TokenBucket


class Event(NamedTuple):
    """*size* bytes that went at *at*; control goes without asking, and bulk pays for it.

    A change of the rate is an event without bytes.
    """

    at: int
    size: int
    control: bool = False
    rate: int | None = None


def burst(rate):
    return TokenBucket(rate, 0).burst * SECOND


def violations(events, rate, began=0):
    """How many grants end an interval in which more went than its integral and one burst.

    Every interval counts, not only some windows. Let A be what went less what came in: it may
    rise above none of its earlier values by more than the burst of that moment. As A only falls
    between two events, the moments to compare with are those just before an event.
    """
    found, gone, at, least = 0, 0, began, 0  # at the beginning the bucket is empty
    for event in events:
        gone -= (event.at - at) * rate
        at = event.at
        least = min(least, gone + burst(rate))
        if event.rate is not None:
            rate = event.rate
            least = min(least, gone + burst(rate))
            continue
        gone += event.size * SECOND
        found += not event.control and gone > least
    return found


def jain(values):
    """Fairness from 1/n, one has all, to 1, all have the same."""
    values = list(values)
    return sum(values) ** 2 / (len(values) * sum(each * each for each in values))
