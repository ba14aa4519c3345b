"""A forecast is what the limits add up to, to the nanosecond."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.errors import UsageError
from transfer.policy.rates import parse_size
from transfer.policy.timetable import SECOND, Rule, Timetable, windows
from transfer.policy.timetable_simulate import MAX_YEARS, Forecast, simulate

DAILY = range(7)
HOUR = 3600 * SECOND
BERLIN = ZoneInfo("Europe/Berlin")


def rule(name, start, end, rates, days=DAILY):
    return Rule(name, BERLIN, windows(days, start * 60, end * 60), rates, 0, "Europe/Berlin")


def local(*when):
    return int(datetime(*when, tzinfo=BERLIN).timestamp()) * SECOND


def test_bytes_go_at_the_rate_of_their_time():
    table = Timetable([rule("day", 8, 18, {"up": 1000}), rule("night", 18, 8, {"up": 3000})])
    start = local(2026, 11, 25, 17)
    assert simulate(table, 3600_000, start, "up") == Forecast(done=start + HOUR)
    assert simulate(table, 3600_001, start, "up").done == start + HOUR + 333_334  # 1/3000 s, up
    assert simulate(table, 0, start, "up") == Forecast(done=start)


def test_a_night_in_which_the_clock_goes_back_carries_an_hour_more():
    table = Timetable([rule("day", 8, 20, {"up": 0}), rule("night", 20, 8, {"up": 1000})])
    thirteen_hours = 13 * 3600 * 1000
    done = simulate(table, thirteen_hours, local(2026, 10, 24, 20), "up").done
    assert done == local(2026, 10, 25, 8)
    done = simulate(table, thirteen_hours, local(2026, 10, 31, 20), "up").done
    assert done == local(2026, 11, 1, 21)


def test_pauses_are_counted():
    table = Timetable([rule("day", 8, 20, {"up": 0}), rule("night", 20, 8, {"up": 1000})])
    found = simulate(table, 3600_000, local(2026, 11, 25, 10), "up")
    assert found == Forecast(done=local(2026, 11, 25, 21), paused=10 * HOUR)


def test_a_pause_for_ever_is_never_done():
    start = local(2026, 11, 25, 7)
    never = Forecast(forever=True, left=5)
    assert simulate(Timetable([], {"up": 0}), 5, start, "up") == never
    assert simulate(Timetable([], {"total": 0}), 5, start, "down") == never
    two = Timetable([rule("day", 8, 20, {"up": 0}), rule("night", 20, 8, {"up": 0})])
    found = simulate(two, 5, start, "up")
    assert (found.done, found.forever, found.left) == (None, True, 5)


def test_what_takes_too_long_is_not_computed_for_ever():
    found = simulate(Timetable([], {"up": 1000}), 2**60, 0, "up")
    assert (found.done, found.forever) == (None, False)
    assert found.left == 2**60 - MAX_YEARS * 366 * 86400 * 1000


def test_where_nothing_limits_the_line_decides():
    table = Timetable([rule("day", 8, 18, {"up": 1000})])
    start = local(2026, 11, 25, 17)
    assert simulate(table, 7200_000, start, "up") == Forecast(unlimited=start + HOUR, left=3600_000)
    assert simulate(table, 7200_000, start, "up", line=2000) == Forecast(
        done=start + HOUR + HOUR // 2
    )
    assert simulate(table, 7200_000, start, "down") == Forecast(unlimited=start, left=7200_000)


def test_the_lowest_of_direction_total_and_line_counts():
    table = Timetable([], {"up": 3000, "down": 500, "total": 2000})
    assert simulate(table, 2000, 0, "up").done == SECOND
    assert simulate(table, 500, 0, "down").done == SECOND
    assert simulate(table, 1000, 0, "up", line=1000).done == SECOND


hours = st.integers(0, 23)
rules = st.lists(
    st.tuples(hours, hours, st.integers(0, 5000), st.sets(st.integers(0, 6), min_size=1)),
    max_size=4,
)


@given(rules, st.integers(1, 10**9), st.integers(0, 400 * 24 * 60))
@settings(max_examples=40, deadline=None)
def test_it_agrees_with_a_walk_in_steps_of_a_quarter_of_an_hour(rules, size, minutes):
    table = Timetable(
        [rule(str(n), a, b, {"up": rate}, days) for n, (a, b, rate, days) in enumerate(rules)],
        {"up": 700},
    )
    step = 900 * SECOND
    start = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * SECOND + minutes // 15 * step
    at, left, paused = start, size * SECOND, 0
    while at < start + 60 * 24 * HOUR:
        rate = table.limits(at).up.rate
        if rate * step >= left:
            assert simulate(table, size, start, "up") == Forecast(
                done=at + -(-left // rate), paused=paused
            )
            return
        at, left, paused = at + step, left - rate * step, paused + (0 if rate else step)
    found = simulate(table, size, start, "up")
    assert found.done is None or found.done > at


@pytest.mark.parametrize(("text", "size"), [("2T", 2**41), ("1.5G", 3 * 2**29), ("4096", 4096)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2TB", "off", "-1", "1kbit", "2t"])
def test_what_is_not_quite_a_size_is_refused(text):
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)
