"""Limits as a relay between machine and vault sees them; docs/throttle.md has the figures."""

import asyncio

import pytest

from perf.wire import measure
from transfer.policy.rates import parse_rate

ATTEMPTS = 3  # what else the machine does moves packets, but not every time


def is_kept(rate, shape):
    """The mean within 1 %, and the worst windows; the first second may be a tenth more."""
    slow = rate == "512kbit"
    return (
        shape.first <= 1.1
        and abs(shape.mean - 1) <= 0.01
        and shape.worst_second <= (1.05 if slow else 1.02)
        and shape.worst_quarter <= (1.3 if slow else 1.1)
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("rate", "seconds", "together"),
    [pytest.param("512kbit", 22, [[1, 16]], marks=pytest.mark.hours), ("5M", 6, [[1], [16]])],
)
async def test_a_limit_is_kept_on_the_wire_in_both_directions(work, rate, seconds, together):
    """At 1 and at 16 connections; together where that disturbs nothing."""
    for numbers in together:
        left, seen = {(number, way) for number in numbers for way in ("up", "down")}, []
        for attempt in range(ATTEMPTS):
            tops = [work / f"{rate}-{number}-{attempt}" for number in numbers]
            for top in tops:
                top.mkdir()
            found = await asyncio.gather(
                *(
                    measure(top, parse_rate(rate), seconds, number)
                    for top, number in zip(tops, numbers, strict=True)
                )
            )
            for number, shapes in zip(numbers, found, strict=True):
                seen += shapes
                left -= {(number, way) for way, shape in shapes if is_kept(rate, shape)}
            if not left:
                break
        assert not left, seen
