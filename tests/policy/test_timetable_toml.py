"""A timetable's file is read as it was meant, or refused with the place that is wrong."""

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.errors import UsageError
from transfer.policy.timetable import Limits, Setting, Timetable
from transfer.policy.timetable_clock import DAY, WEEK
from transfer.policy.timetable_toml import MAX_BYTES, MAX_RULES, parse

MINUTE = 60 * 10**9
MONDAY = 4 * DAY * MINUTE  # 1970-01-05


def zones(name):
    """As files.timetable has it; the machine's own is UTC here."""
    try:
        return ZoneInfo("UTC" if name == "local" else name)
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(f"unknown zone {name!r}", "another") from error


def read(text):
    return parse(text.encode() if isinstance(text, str) else text, "t.toml", zones)


def at(table, day, clock):
    """The limits at a wall time of the week of 1970-01-05, in UTC; 0 is Monday."""
    hour, minute = map(int, clock.split(":"))
    return table.limits(MONDAY + (day * DAY + hour * 60 + minute) * MINUTE)


def rates(limits):
    return tuple(setting.rate for setting in limits)


def test_a_whole_file():
    table = read(
        """
        [default]
        up = "20M"
        [[rule]]
        name = "office"
        days = "Mon-Fri"
        start = "08:00"
        end = "18:00"
        up = "2M"
        down = 0
        total = "20Mbit"
        zone = "Europe/Berlin"
        priority = 10
        [[rule]]
        name = "Sunday"
        days = ["Sun", "sat - sat"]
        up = "off"
    """.replace("sat - sat", "sat-sat")
    )
    assert at(table, 0, "06:59") == Limits(Setting(20 * 2**20, None), *[Setting(None, None)] * 2)
    assert at(table, 0, "07:00") == Limits(
        Setting(2 * 2**20, "office"), Setting(0, "office"), Setting(2_500_000, "office")
    )
    assert at(table, 5, "23:59").up == Setting(None, "Sunday")


def test_an_empty_file_limits_nothing():
    assert rates(read("").limits(0)) == (None, None, None)
    assert rates(read("# nothing\n[default]\n").limits(0)) == (None, None, None)


@pytest.mark.parametrize(
    ("days", "meant"),
    [('"Mon"', {0}), ('"Fri-Mon"', {4, 5, 6, 0}), ('"mon, WED"', {0, 2}), ('"Sat-Sun,Sat"', {5, 6}),
     ('["Mon-Tue", "Sun"]', {0, 1, 6}), ('"Sun-Sat"', set(range(7)))],
)  # fmt: skip
def test_days(days, meant):
    table = read(f'[[rule]]\nname = "x"\ndays = {days}\nup = "1M"')
    assert {day for day in range(7) if at(table, day, "12:00").up.rate} == meant


def test_without_one_of_its_ends_a_window_goes_to_midnight():
    morning = read('[[rule]]\nname = "x"\nend = "08:00"\nup = "1M"')
    evening = read('[[rule]]\nname = "x"\nstart = "20:00"\nup = "1M"')
    assert [at(morning, 0, c).up.rule for c in ("00:00", "07:59", "08:00")] == ["x", "x", None]
    assert [at(evening, 0, c).up.rule for c in ("19:59", "20:00", "23:59")] == [None, "x", "x"]
    assert at(evening, 1, "00:00").up.rule is None


RULE = '[[rule]]\nname = "fine"\nup = "1M"\n[[rule]]\nname = "bad"\nup = "1M"\n'
WRONG = [
    # text, line, part of the message
    (RULE + 'speed = "1M"', 7, "unknown key 'speed'"),
    (RULE + 'zone = "Europe/Berln"', 7, "unknown zone 'Europe/Berln'"),
    (RULE + 'zone = "Europe"', 7, "unknown zone"),
    (RULE + 'zone = "../../etc/passwd"', 7, "unknown zone"),
    (RULE + "zone = 1", 7, "zone = 1 is no text"),
    (RULE + 'down = "5Mb"', 7, "down: '5Mb' is no RATE"),
    (RULE + 'down = "-5M"', 7, "is no RATE"),
    (RULE + "down = -5", 7, "is no RATE"),
    (RULE + "down = 5.5", 7, "is no text"),
    (RULE + "down = true", 7, "is no text"),
    (RULE + "\n  down = 512", 8, "too little"),
    (RULE + '"total" = "9000G"', 7, "too much"),
    (RULE + 'days = "Mon-Fry"', 7, "'Mon-Fry' is no day"),
    (RULE + 'days = "Mon-Tue-Wed"', 7, "is no day"),
    (RULE + "days = [1]", 7, "1 is no day"),
    (RULE + "days = []", 7, "never applies"),
    (RULE + 'days = ""', 7, "is no day"),
    (RULE + "days = 3", 7, "is no text"),
    (RULE + 'start = "8:00"', 7, "'8:00' is no time"),
    (RULE + 'start = "24:00"', 7, "starts at 24:00"),
    (RULE + 'end = "24:01"', 7, "is no time"),
    (RULE + 'end = "08:60"', 7, "is no time"),
    (RULE + 'end = "08:00\\n"', 7, "is no time"),
    (RULE + "end = 08:00:00", 7, "is no text"),
    (RULE + "end = 08:00", 7, "not TOML"),
    (RULE + 'priority = "high"', 7, "is no priority"),
    (RULE + "priority = true", 7, "is no priority"),
    (RULE + "priority = 1001", 7, "is no priority"),
    (RULE + 'up = "2M"', 7, "not TOML"),
    (RULE + '[[rule]] # third\nname = "fine"\nup = "1M"', 8, "another rule has this name"),
    (RULE + '[[ rule ]]\nname = "empty"', 8, "sets no limit"),
    ('[[rule]]\nup = "1M"\n' + RULE, 1, "rule 1: name is missing"),
    (RULE + '[[rule]]\nup = "1M"', 7, "rule 3: name is missing"),
    (RULE + '[[rule]]\nname = " "\nup = "1M"', 8, "no name"),
    (RULE + '[[rule]]\nname = "a\\u0007"\nup = "1M"', 8, "no name"),
    (RULE + f'[[rule]]\nname = "{"x" * 65}"\nup = "1M"', 8, "no name"),
    ('[default]\nup = "fast"', 2, "[default]: up: 'fast' is no RATE"),
    ('[default]\nname = "x"', 2, "unknown key 'name'"),
    ('[azure]\nwork_start = "09:00"\nwork_up = "1M"', 1, "work_end is missing"),
    ('[azure]\nwork_start = "09:00"\nwork_end = "10:00"', 1, "sets no limit"),
    ('[azure]\nwork_start = "09:00"\nwork_end = "10:00"\nup = "1M"', 4, "unknown key 'up'"),
    ('[azure]\nwork_days = "Mon-Sun"\nwork_start = "09:00"\nwork_end = "09:00"\nother_up = "1M"',
     2, "no other times"),
    ('[rclone]\ntimetable = "08:00"', 2, "'08:00' is no entry"),
    ('[rclone]\ntimetable = ""', 2, "has no entry"),
    ('[rclone]\ntimetable = "8:00,1M 9:00,2M"', 2, "'8:00,1M' is no entry"),
    ('[rclone]\ntimetable = "24:00,1M"', 2, "is no entry"),
    ('[rclone]\ntimetable = "Mo-08:00,1M"', 2, "is no entry"),
    ('[rclone]\ntimetable = "08:00,1X"', 2, "'1X' in '08:00,1X' is no bandwidth"),
    ('[rclone]\ntimetable = "08:00,1M:2M:3M"', 2, "is no bandwidth"),
    ('[rclone]\ntimetable = "08:00,1M:"', 2, "'' in '08:00,1M:' is no bandwidth"),
    ('[rclone]\ntimetable = "08:00,100B"', 2, "too little"),
    ('[rclone]\ntimetable = "08:00,1M 08:00,2M"', 2, "'08:00,1M' never applies"),
    ('[[rule]]\nname = """\n[[rule]]\n"""', None, "this is no name"),
    ("x = 1", None, "unknown key 'x'"),
    ("rule = 1", None, "rule is no table"),
    ('[rule]\nname = "x"', None, "rule is no table"),
    ("[[azure]]", None, "azure is no table"),
    ("rule = [1]", None, "rule is no table"),
    ('rule = [{name = "x"}]', None, "rule 'x': it sets no limit"),
    ("a = " + "[" * 4000, None, "not TOML"),
    ("x = " + "9" * 4000 + "\n" + "y = " + "9" * 4092, None, "unknown key"),
    ("x = \n", 1, "not TOML"),
    ("\n" + "x" * 5000, 2, "too long a line"),
    (b"\n\n\xff", 3, "not UTF-8"),
    ("#" * (MAX_BYTES + 1), None, "too long"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message"), WRONG)
def test_what_is_wrong_is_refused_with_its_place(text, line, message):
    with pytest.raises(UsageError) as refused:
        read(text)
    place = "t.toml: " if line is None else f"t.toml:{line}: "
    assert refused.value.message.startswith(place)
    assert message in refused.value.message
    assert refused.value.hint
    if isinstance(text, str) and text.startswith(RULE + "d"):
        assert "rule 'bad'" in refused.value.message or "not TOML" in refused.value.message


def test_the_number_of_rules_is_bounded():
    rules = [f'[[rule]]\nname = "{n}"\nup = "1M"\n' for n in range(MAX_RULES + 1)]
    assert len(read("".join(rules[:-1])).rules) == MAX_RULES
    with pytest.raises(UsageError, match="257 rules are too many"):
        read("".join(rules))


def test_azures_work_hours_and_all_other_times():
    table = read("""
        [azure]
        work_days = "Mon-Fri"
        work_start = "09:00"
        work_end = "18:00"
        work_up = "512kbit"
        other_up = "1023Mbit"
        other_down = "1M"
        priority = 3
    """)
    work, other = Setting(64_000, "azure work"), Setting(127_875_000, "azure other")
    assert [at(table, 0, c).up for c in ("08:59", "09:00", "17:59", "18:00")] == [
        other, work, work, other,
    ]  # fmt: skip
    assert at(table, 5, "12:00").up == other
    assert [at(table, 0, c).down.rate for c in ("08:59", "09:00")] == [2**20, None]
    assert {rule.priority for rule in table.rules} == {3}


def test_azures_work_hours_may_go_past_midnight():
    table = read('[azure]\nwork_start = "22:00"\nwork_end = "06:00"\nwork_up = "1M"\nother_up = 0')
    assert [at(table, 5, c).up.rate for c in ("05:59", "06:00", "22:00")] == [2**20, 0, 0]
    assert at(table, 0, "05:59").up.rate == 0


def clone(text):
    return read(f'[rclone]\ntimetable = "{text}"')


def test_rclones_timetable():
    table = clone("08:00,512k 12:00,10M:off Mon-20:00,off")
    assert [rates(at(table, day, clock))[:2] for day, clock in [
        (0, "07:59"), (0, "08:00"), (0, "12:00"), (0, "20:00"), (1, "07:59"), (1, "08:00"),
        (6, "23:59"),
    ]] == [
        (10 * 2**20, None), (2**19, 2**19), (10 * 2**20, None), (None, None), (None, None),
        (2**19, 2**19), (10 * 2**20, None),
    ]  # fmt: skip
    assert at(table, 0, "12:00").up.rule == "rclone 12:00,10M:off"


@pytest.mark.parametrize(
    ("text", "rate"),
    [("512", 512 * 1024), ("1.5M", 3 * 2**19), ("512B", None), ("2000b", 2000), ("1g", 2**30),
     ("10MiB", 10 * 2**20), ("10Ki", 10240), ("0", None), ("off", None), ("OFF", None)],
)  # fmt: skip
def test_rclones_units(text, rate):
    if text == "512B":
        with pytest.raises(UsageError, match="too little"):
            clone(text)
        return
    assert rates(clone(text).limits(0)) == (rate, rate, None)
    assert rates(at(clone(f"Tuesday-10:00,{text}:1M"), 0, "00:00")) == (rate, 2**20, None)


def test_rclones_latest_entry_of_the_week_goes_on_over_its_end_wherever_it_stands():
    table = clone("Sun-20:00,3M Mon-00:10,1M Wed-10:00,2M")
    assert [at(table, *when).up.rate // 2**20 for when in [
        (6, "20:00"), (0, "00:09"), (0, "00:10"), (2, "09:59"), (2, "10:00"), (6, "19:59"),
    ]] == [3, 3, 1, 1, 2, 2]  # fmt: skip


def test_of_rclones_entries_for_one_time_the_last_counts():
    assert at(clone("08:00,1M Sat-08:00,2M"), 5, "08:00").up.rate == 2 * 2**20
    with pytest.raises(UsageError, match="'Sat-08:00,2M' never applies"):
        clone("Sat-08:00,2M 08:00,1M")


entries = st.dictionaries(
    st.tuples(st.none() | st.integers(0, 6), st.integers(0, DAY - 1)),
    st.integers(1, 999),
    min_size=1,
)


@given(entries)
@settings(max_examples=25, deadline=None)
def test_rclones_entry_holds_until_the_next_one(entries):
    names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    texts, held = [], [None] * WEEK
    for (day, minute), rate in sorted(entries.items(), key=lambda entry: entry[0][0] is not None):
        clock = f"{minute // 60:02}:{minute % 60:02}"
        texts.append(f"{'' if day is None else names[day] + '-'}{clock},{rate}")
        for each in range(7) if day is None else [day]:
            held[each * DAY + minute] = rate * 1024
    try:
        table = clone(" ".join(texts))
    except UsageError as error:
        if "never applies" not in error.message:  # all seven days of one were taken by others
            raise
        return
    current = next(rate for rate in reversed(held) if rate is not None)
    for minute, rate in enumerate(held):
        changed, current = rate not in (None, current), rate or current
        if changed or minute % 97 == 0:
            assert table.limits(MONDAY + minute * MINUTE).up.rate == current


pieces = st.sampled_from([
    "[[rule]]", "[default]", "[azure]", "[rclone]", 'name = "a"', 'name = "b"', 'up = "1M"',
    'start = "08:00"', 'end = "08:00"', 'days = "Mon"', 'zone = "UTC"', "priority = 1", "up = 0",
    'work_start = "08:00"', 'work_end = "09:00"', 'work_up = "1M"', 'timetable = "08:00,1M"', "x",
    "[", "]", '"', "=", "rule = 1", "days = [[]]", "name = 1979-05-27", "up = nan", "\r", "\x00",
])  # fmt: skip


@given(st.lists(pieces | st.text(max_size=5), max_size=12).map("\n".join) | st.binary())
@settings(max_examples=200, deadline=None)
def test_any_file_is_a_timetable_or_a_usage_error(content):
    try:
        table = read(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    except UsageError as error:
        if not error.message.startswith("t.toml"):
            raise
        return
    assert isinstance(table, Timetable)
