"""T9: at every instant the timetable says what a person would read off the wall clock there."""

import doctest
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policy import timetable_oracle as oracle
from tests.policy.timetable_oracle import MINUTE, Naive
from transfer.policy import timetable
from transfer.policy.timetable import SECOND, Limits, Rule, Setting, Timetable, windows
from transfer.policy.timetable_clock import last_turn, next_turn, turns

HOUR = 60 * MINUTE
DAILY = range(7)
# With the first of two years; what is odd about each lies in them.
ZONES = {
    "Australia/Lord_Howe": 2026,  # half an hour of daylight saving
    "Pacific/Apia": 2011,  # no 30 December 2011
    "Africa/Casablanca": 2026,  # four settings a year, around Ramadan
    "Antarctica/Troll": 2026,  # two hours
    "Asia/Tehran": 2021,  # changed at midnight, and stopped doing so
    "Europe/Berlin": 2026,
}


def ns(text):
    """The instant of an RFC 3339 time."""
    return (datetime.fromisoformat(text) - oracle.EPOCH) // timedelta(microseconds=1) * 1000


def built(rules, default=None):
    return Timetable(
        [
            Rule(r.name, r.zone, windows(r.days, r.start, r.end), r.rates, r.priority, str(r.zone))
            for r in rules
        ],
        default,
    )


def one(days, start, end, zone="Europe/Berlin"):
    """A single window, with times in minutes after midnight."""
    return built([Naive("it", ZoneInfo(zone), tuple(days), start, end, {"up": 1000})])


def active(table, text):
    return table.limits(ns(text)).up.rule == "it"


def odd_rules(zone):
    """Edges where clocks jump, at midnight, and over the week's end."""
    return [
        Naive("weekdays", zone, (0, 1, 2, 3, 4), 480, 1080, {"up": 5000, "total": 9000}),
        Naive("in the gap", zone, (5, 6), 135, 165, {"up": 1000}),
        Naive("night", zone, (4, 6), 1320, 150, {"down": 0, "up": 3000}),
        Naive("from two", zone, (6, 2), 120, 180, {"total": None}, 1),
        Naive("friday", zone, (4,), 0, 0, {"up": None}, 2),
        Naive("at midnight", zone, (0, 3, 5), 0, 15, {"down": 2000}),
    ]


def agree(rules, default, minutes):
    """Both say the same at each of *minutes*, and where it changes among adjacent ones."""
    table = built(rules, default)
    before, expected, began = None, None, None
    for minute in minutes:
        now = minute * MINUTE
        said = oracle.limits(rules, default, now)
        assert table.limits(now) == said, (now, rules)
        if before is not None and minute == before[0] + 1:
            assert (expected == now) == (said != before[1]), (now, expected, rules)
            began = now if expected == now else began
        if expected is None or expected <= now or minute != before[0] + 1:
            expected = table.next_change(now)
            assert expected is None or expected > now
        if began is not None and minute % 15 == 7:
            assert table.last_change(now) == began
        before = minute, said


@pytest.mark.parametrize("name", ZONES)
def test_around_each_setting_of_the_clock_it_agrees_with_the_wall(name):
    zone, rules = ZoneInfo(name), odd_rules(ZoneInfo(name))
    first, last = (datetime(ZONES[name] + n, 1, 1, tzinfo=UTC) for n in (0, 2))
    begin, end = int(first.timestamp()), int(last.timestamp())
    changes = [turn // 60 for turn in turns(zone, begin, end)]
    assert changes
    for turn in changes:
        agree(rules, {"down": 7000}, range(turn - 1000, turn + 1000))
    agree(rules, {"down": 7000}, range(begin // 60, end // 60, 211))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.hours) if n > 1 else name
        for n, name in enumerate(ZONES)
    ],
)
def test_at_every_minute_of_two_years_it_agrees_with_the_wall(name):
    first, last = (datetime(ZONES[name] + n, 1, 1, tzinfo=UTC) for n in (0, 2))
    minutes = range(int(first.timestamp()) // 60, int(last.timestamp()) // 60)
    agree(odd_rules(ZoneInfo(name)), {}, minutes)


zones = st.sampled_from(
    [*map(ZoneInfo, [*ZONES, "America/New_York"]), timezone(timedelta(hours=5, minutes=45))]
)
rates = st.sampled_from([None, 0, 1000, 5000])
fields = st.dictionaries(st.sampled_from(timetable.FIELDS), rates, min_size=1)
times = st.sampled_from([0, 60, 120, 135, 150, 180, 1439]) | st.integers(0, 1439)
naive = st.builds(
    partial(Naive, ""), zones, st.sets(st.integers(0, 6), min_size=1).map(tuple),
    times, times, fields, st.integers(-1, 1),
)  # fmt: skip
numbered = st.lists(naive, max_size=5).map(
    lambda rules: [rule._replace(name=str(number)) for number, rule in enumerate(rules)]
)
# Within a week after a clock is set somewhere, or at any time.
moments = st.sampled_from(
    [
        ns("2027-03-28T00:00Z"),
        ns("2026-10-25T00:00Z"),
        ns("2011-12-29T00:00Z"),
        ns("2026-02-13T00:00Z"),
    ]
).flatmap(lambda at: st.integers(at, at + 72 * HOUR)) | st.integers(0, ns("2037-01-01T00:00Z"))


@given(numbered, st.fixed_dictionaries({}, optional={"up": rates, "total": rates}), moments)
@settings(max_examples=60, deadline=None)
def test_any_timetable_changes_when_the_wall_clocks_say_so(rules, default, now):
    table = built(rules, default)
    said = oracle.limits(rules, default, now)
    found = table.explain(now)
    assert found.limits == said
    if found.until is not None:
        assert oracle.limits(rules, default, found.until - SECOND) == said
        assert oracle.limits(rules, default, found.until) != said
    if found.since is not None:
        assert found.since <= now
        assert oracle.limits(rules, default, found.since) == said
        assert oracle.limits(rules, default, found.since - SECOND) != said
    begin = now - 48 * HOUR if found.since is None else found.since
    end = now + 48 * HOUR if found.until is None else found.until
    for part in range(100):
        at = begin + (end - begin) * part // 100
        assert oracle.limits(rules, default, at) == said


@given(numbered, moments)
@settings(max_examples=30, deadline=None)
def test_what_never_changes_is_the_same_in_each_of_eight_weeks(rules, now):
    table = built(rules)
    if table.next_change(now) is None:
        said = table.limits(now)
        assert all(table.limits(now + step * HOUR) == said for step in range(0, 8 * 168, 5))


def test_a_window_past_midnight_belongs_to_the_day_on_which_it_starts():
    table = one([4], 22 * 60, 6 * 60)
    assert active(table, "2026-11-27T22:00+01:00")  # a Friday
    assert active(table, "2026-11-28T05:59+01:00")
    assert not active(table, "2026-11-28T06:00+01:00")
    assert not active(table, "2026-11-27T05:59+01:00")
    assert not active(table, "2026-11-28T22:00+01:00")


def test_a_start_that_is_skipped_takes_effect_at_the_first_instant_after_it():
    table = one(DAILY, 150, 300)
    assert not active(table, "2027-03-28T01:59+01:00")
    assert active(table, "2027-03-28T03:00+02:00")
    assert table.next_change(ns("2027-03-28T00:00+01:00")) == ns("2027-03-28T03:00+02:00")


def test_an_end_that_is_skipped_takes_effect_as_the_clock_is_set():
    table = one(DAILY, 60, 150)
    assert table.next_change(ns("2027-03-28T01:30+01:00")) == ns("2027-03-28T03:00+02:00")


def test_a_window_that_is_skipped_does_not_happen_that_day():
    table = one([6], 120, 180)
    assert table.next_change(ns("2027-03-21T03:00+01:00")) == ns("2027-04-04T02:00+02:00")


def test_both_passes_of_a_repeated_hour_are_inside():
    table = one(DAILY, 120, 180)
    assert active(table, "2026-10-25T02:00+02:00")
    assert active(table, "2026-10-25T02:59+01:00")
    assert table.explain(ns("2026-10-25T02:30+02:00")) == (
        table.limits(ns("2026-10-25T02:30+01:00")),
        ns("2026-10-25T02:00+02:00"),
        ns("2026-10-25T03:00+01:00"),
    )


def test_a_window_in_a_repeated_hour_happens_twice():
    table = one(DAILY, 150, 165)
    start = ns("2026-10-25T00:00+02:00")
    assert [at for at, _ in table.transitions(start, start + 12 * HOUR)] == [
        start,
        ns("2026-10-25T02:30+02:00"),
        ns("2026-10-25T02:45+02:00"),
        ns("2026-10-25T02:30+01:00"),
        ns("2026-10-25T02:45+01:00"),
    ]


def test_the_night_of_a_day_that_never_was_still_ends_in_the_morning():
    table = one([4], 22 * 60, 6 * 60, "Pacific/Apia")  # there, no Friday 30 December 2011
    begins = ns("2011-12-31T00:00+14:00")
    assert not active(table, "2011-12-29T23:59-10:00")
    assert table.next_change(begins - HOUR) == begins
    assert table.next_change(begins) == ns("2011-12-31T06:00+14:00")


def test_half_an_hour_of_daylight_saving_shifts_by_half_an_hour():
    table = one(DAILY, 105, 240, "Australia/Lord_Howe")  # 02:00 +11 is 01:30 +10:30
    at = ns("2026-04-05T01:45+11:00")
    assert table.next_change(at - 1) == at
    assert table.next_change(at) == ns("2026-04-05T02:00+11:00")
    assert table.next_change(ns("2026-04-05T01:30+10:30")) == ns("2026-04-05T01:45+10:30")


def test_clocks_that_were_seconds_off_count_by_the_second():
    table = one(DAILY, 480, 540, "Africa/Monrovia")  # -00:44:30 until 1972
    at = ns("1971-06-01T08:44:30+00:00")
    assert table.next_change(at - HOUR) == at
    assert table.limits(at - 1).up.rule is None
    assert table.limits(at).up.rule == "it"


def test_a_window_that_ends_at_its_start_is_a_whole_day():
    assert windows([1], 480, 480) == ((1440 + 480, 2880 + 480),)
    assert windows([6, 6], 0, 1440) == ((8640, 10080),)
    assert one(DAILY, 480, 480).explain(0)[1:] == (None, None)


def rule(name, rates, priority=0, days=DAILY):
    return Rule(name, UTC, windows(days, 0, 0), rates, priority)


def test_first_the_priority_decides_and_then_the_lower_limit():
    table = Timetable([
        rule("low", {"up": 1000}), rule("high", {"up": 5000}, 1), rule("higher", {"up": 3000}, 1),
    ])  # fmt: skip
    assert table.limits(0).up == Setting(3000, "higher")


def test_no_limit_is_the_highest_and_a_pause_the_lowest_limit():
    free, paused, some = (
        rule("free", {"up": None}),
        rule("paused", {"up": 0}),
        rule("some", {"up": 1}),
    )
    assert Timetable([free, some]).limits(0).up == Setting(1, "some")
    assert Timetable([free, some, paused]).limits(0).up == Setting(0, "paused")


def test_among_equals_the_first_is_named():
    assert Timetable([rule("a", {"up": 1}), rule("b", {"up": 1})]).limits(0).up.rule == "a"


def test_each_field_is_decided_by_itself():
    table = Timetable(
        [rule("low", {"up": 1000, "down": 2000}), rule("high", {"up": None}, 1)], {"total": 9}
    )
    assert table.limits(0) == Limits(Setting(None, "high"), Setting(2000, "low"), Setting(9, None))


def test_zones_whose_clocks_are_set_on_other_days_drift_apart():
    berlin, york = (ZoneInfo(name) for name in ("Europe/Berlin", "America/New_York"))
    table = built([
        Naive("berlin", berlin, (0, 1, 2, 3, 4, 5, 6), 15 * 60, 16 * 60, {"up": 1}),
        Naive("york", york, (0, 1, 2, 3, 4, 5, 6), 9 * 60, 10 * 60, {"up": 2}),
    ])  # fmt: skip
    at_noon = ns("2027-03-01T12:00Z")
    assert [limits.up.rule for _, limits in table.transitions(at_noon, at_noon + 6 * HOUR)] == [
        None, "berlin", None,
    ]  # fmt: skip
    at_noon = ns("2027-03-15T12:00Z")
    assert [limits.up.rule for _, limits in table.transitions(at_noon, at_noon + 6 * HOUR)] == [
        None, "york", "berlin", None,
    ]  # fmt: skip


def test_without_rules_the_default_always_holds():
    table = Timetable(default={"down": 5})
    nothing = Setting(None, None)
    assert table.explain(ns("2026-11-25T12:00Z")) == (
        (nothing, Setting(5, None), nothing), None, None,
    )  # fmt: skip
    assert [*table.transitions(7, 9)] == [(7, table.limits(7))]
    assert [*table.transitions(7, 7)] == []


def test_the_example_in_its_documentation_is_true():
    assert doctest.testmod(timetable).failed == 0


def test_clocks_that_are_set_twice_in_a_week_are_found():
    recife = ZoneInfo("America/Recife")
    begin, end, *both = (
        ns(f"2000-10-{when}Z") // SECOND
        for when in ("01T00:00", "30T00:00", "08T03:00", "15T02:00")
    )
    assert [*turns(recife, begin, end)] == both
    assert next_turn(recife, both[0] - 1, end) == both[0]
    assert next_turn(recife, both[0], end) == last_turn(recife, begin, end) == both[1]
    assert last_turn(recife, begin, both[1] - 1) == both[0]
    assert last_turn(recife, both[0], both[0] + 3600) is None
    assert next_turn(recife, begin, both[0] - 1) is None


def test_since_when_is_right_over_a_setting_of_the_clock():
    table = one(DAILY, 22 * 60, 6 * 60)
    for now, since in [("2027-03-28T04:00+02:00", "2027-03-27T22:00+01:00"),
                       ("2026-10-25T04:00+01:00", "2026-10-24T22:00+02:00")]:  # fmt: skip
        assert table.last_change(ns(now)) == ns(since)
    short = one(DAILY, 60, 119)
    assert short.last_change(ns("2027-03-28T04:00+02:00")) == ns("2027-03-28T01:59+01:00")
