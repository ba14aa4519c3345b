"""What a check tells is true of the timetable, and it misses nothing of its kind."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.policy.timetable import SECOND, Rule, Timetable, windows
from transfer.policy.timetable_check import check

NOW = int(datetime(2026, 11, 25, tzinfo=UTC).timestamp()) * SECOND
WEEKDAYS, DAILY = range(5), range(7)


def rule(name, days=DAILY, start="00:00", end="24:00", up=1000, priority=0, zone="Europe/Berlin"):
    begins, ends = (int(clock[:2]) * 60 + int(clock[3:]) for clock in (start, end))
    return Rule(name, ZoneInfo(zone), windows(days, begins, ends), {"up": up}, priority, zone)


def told(*rules, code):
    return [found.message for found in check(Timetable(rules), NOW) if found.code == code]


def test_rules_of_one_priority_that_overlap_are_named_with_the_times():
    office, lunch = rule("office", WEEKDAYS, "08:00", "18:00"), rule("lunch", [2], "17:00", "19:00")
    [message] = told(office, lunch, code="overlap")
    assert message == (
        "'office' and 'lunch' both set up with priority 0, so the lower limit holds: "
        "Wed 17:00-18:00 (Europe/Berlin)"
    )
    assert told(office, rule("lunch", [2], "12:00", "13:00", priority=1), code="overlap") == []
    assert told(office, rule("evening", WEEKDAYS, "18:00", "08:00"), code="overlap") == []


def test_rules_that_set_different_limits_do_not_overlap():
    down = Rule("down", UTC, windows(DAILY, 0, 0), {"down": 1}, 0, "Europe/Berlin")
    assert told(rule("up"), down, code="overlap") == []


def test_an_overlap_in_only_a_few_weeks_of_the_year_is_found():
    berlin = rule("berlin", DAILY, "15:00", "16:00")
    york = rule("york", DAILY, "10:00", "11:00", zone="America/New_York")
    [message] = told(berlin, york, code="overlap")
    assert message.endswith("the lower limit holds: Mon-Sun 15:00-16:00 (Europe/Berlin)")
    later = rule("york", DAILY, "11:00", "12:00", zone="America/New_York")
    assert told(berlin, later, code="overlap") == []


def test_a_rule_that_others_always_win_over_is_named():
    days, nights = (
        rule("days", DAILY, "06:00", "22:00", 500),
        rule("nights", DAILY, "22:00", "06:00", 1),
    )
    weekend = rule("weekend", [5, 6], "00:00", "24:00", 1000)
    assert told(days, nights, weekend, code="shadowed") == [
        "'weekend' never has an effect: it always gives way to 'nights', 'days'"
    ]
    assert told(days, weekend, code="shadowed") == []
    assert told(rule("a"), rule("b"), code="shadowed") == [
        "'b' never has an effect: it always gives way to 'a'"
    ]


def test_a_rule_with_one_limit_that_counts_is_not_shadowed():
    both = Rule("both", UTC, windows(DAILY, 0, 0), {"up": 9000, "down": 1}, 0, "UTC")
    assert told(rule("up", zone="UTC"), both, code="shadowed") == []


def test_a_rule_that_counts_in_only_a_few_weeks_of_the_year_is_not_shadowed():
    york = rule("york", DAILY, "09:00", "10:00", zone="America/New_York")
    assert told(rule("berlin", DAILY, "15:00", "16:00", 1), york, code="shadowed") == []
    assert told(rule("berlin", DAILY, "14:00", "16:00", 1), york, code="shadowed") != []


def test_when_no_rule_holds_is_told():
    assert told(code="gap") == ["there is no rule: the default always holds"]
    [message] = told(rule("office", WEEKDAYS, "08:00", "18:00"), code="gap")
    assert message == (
        "outside all rules the default holds: Mon 18:00 to Tue 08:00, Tue 18:00 to Wed 08:00, "
        "Wed 18:00 to Thu 08:00, Thu 18:00 to Fri 08:00, Fri 18:00 to Mon 08:00 (Europe/Berlin)"
    )
    assert told(rule("mornings", DAILY, "00:00", "12:00"), code="gap") == [
        "outside all rules the default holds: Mon-Sun 12:00-24:00 (Europe/Berlin)"
    ]


def test_days_are_told_in_short():
    [message] = told(
        rule("x", [0, 1, 2, 5, 6], "00:00", "24:00"),
        rule("y", [3, 4], "00:00", "12:00"),
        code="gap",
    )
    assert "the default holds: Thu,Fri 12:00-24:00 (" in message


def test_a_full_week_has_no_gap():
    assert (
        told(rule("a", DAILY, "08:00", "20:00"), rule("b", DAILY, "20:00", "08:00"), code="gap")
        == []
    )


def test_times_that_do_not_exist_are_told_for_two_years():
    skipped = told(
        rule("starts", DAILY, "02:30", "05:00"), rule("ends", DAILY, "01:00", "02:30"),
        rule("within", [6], "02:00", "03:00"), rule("never mind", DAILY, "03:00", "02:00"),
        rule("other day", WEEKDAYS, "02:30", "02:45"), code="skipped-time",
    )  # fmt: skip
    assert skipped == [
        line.format(day) for day in ("Sun 2027-03-28", "Sun 2028-03-26") for line in (
            "'starts' starts at {} 03:00: 02:30 does not exist then",
            "'ends' ends as the clock is set: {} 02:30 does not exist",
            "'within' does not apply once: {} 02:00 to 03:00 does not exist",
        )
    ]  # fmt: skip


def test_times_that_come_twice_are_told():
    repeated = told(
        rule("starts", DAILY, "02:30", "05:00"), rule("within", [6], "02:15", "02:45"),
        rule("longer", DAILY, "02:00", "03:00"), code="repeated-time",
    )  # fmt: skip
    assert repeated[:2] == [
        "'starts' starts twice: Sun 2027-10-31 02:00 to 03:00 comes twice",
        "'within' starts and ends twice: Sun 2027-10-31 02:00 to 03:00 comes twice",
    ]
    assert len(repeated) == 4


def test_settings_of_the_clock_are_told_for_each_zone_in_use():
    changes = told(rule("a"), rule("b", zone="Australia/Lord_Howe"), code="clock-change")
    assert len(changes) == 8
    assert changes[0] == (
        "Europe/Berlin: clocks go forward from Sun 2027-03-28 02:00 to Sun 2027-03-28 03:00"
    )
    assert (
        "Lord_Howe: clocks go back from Sun 2027-04-04 02:00 to Sun 2027-04-04 01:30" in changes[4]
    )
    assert len(told(rule("a", zone="Africa/Casablanca"), code="clock-change")) == 4
    assert told(rule("a", zone="UTC"), code="clock-change") == []


rules = st.lists(
    st.builds(
        rule, st.just("x"), st.sets(st.integers(0, 6), min_size=1),
        *[st.sampled_from(["00:00", "06:00", "12:00", "18:00"])] * 2, st.sampled_from([1, 2, None]),
        st.integers(0, 1), st.sampled_from(["UTC", "Asia/Kolkata"]),
    ),
    max_size=4,
)  # fmt: skip


@given(rules)
@settings(max_examples=60, deadline=None)
def test_overlaps_gaps_and_shadows_are_those_that_a_walk_through_the_week_meets(rules):
    rules = [Rule(str(n), r.zone, r.spans, r.rates, r.priority, r.zone_name)
             for n, r in enumerate(rules)]  # fmt: skip
    alone = {each.name: Timetable([each]) for each in rules}
    table = Timetable(rules)
    pairs, winners, always = set(), set(), True
    for half_hour in range(336):
        at = NOW + half_hour * 1800 * SECOND
        there = [each for each in rules if alone[each.name].limits(at).up.rule]
        always = always and bool(there)
        winners.add(table.limits(at).up.rule)
        pairs |= {(a.name, b.name) for a in there for b in there
                  if a.name < b.name and a.priority == b.priority}  # fmt: skip
    found = check(table, NOW)
    assert {each.rules for each in found if each.code == "overlap"} == pairs
    shadowed = {each.rules[0] for each in found if each.code == "shadowed"}
    assert shadowed == {each.name for each in rules} - winners
    assert ("no-gap" in {each.code for each in found}) == (always and bool(rules))


def test_what_is_meant_for_a_person_to_mend_is_a_warning():
    kinds = {each.code: each.is_warning for each in check(Timetable([rule("a"), rule("b")]), NOW)}
    assert kinds == {
        "overlap": True, "shadowed": True, "no-gap": False, "clock-change": False,
    }  # fmt: skip


def test_the_two_years_begin_now():
    later = NOW + timedelta(days=200) // timedelta(microseconds=1) * 1000
    first = next(
        f.message for f in check(Timetable([rule("a")]), later) if f.code == "clock-change"
    )
    assert "2027-10-31" in first
