"""`throttle check` and `simulate`, and the chart of a week, as a person or a script meets them."""

import argparse
import json
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from transfer.cli import output, throttle
from transfer.cli.throttle_chart import chart, in_force
from transfer.errors import UsageError
from transfer.files.timetable import read_timetable

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = """
[[rule]]
name = "office"
days = "Mon-Fri"
start = "08:00"
end = "18:00"
up = "2M"
zone = "Europe/Berlin"
[[rule]]
name = "night"
start = "22:00"
end = "02:30"
up = 0
down = "5M"
zone = "Europe/Berlin"
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    path = tmp_path / "timetable.toml"
    path.write_text(OFFICE)
    return path


def run(*words):
    parser = argparse.ArgumentParser()
    throttle.configure(parser)
    outcome = throttle.run(parser.parse_args([*map(str, words)]))
    json.dumps(outcome.result)
    return outcome


def at(*when):
    return int(datetime(*when, tzinfo=BERLIN).timestamp()) * 10**9


def test_check_tells_what_is_good_to_know(file):
    found = run("check", file)
    assert found.exit_code == 0
    assert found.lines[0] == f"{file}: 2 rules"
    assert found.result["rules"] == ["office", "night"]
    assert {note["code"] for note in found.result["notes"]} == {
        "gap", "clock-change", "skipped-time", "repeated-time",
    }  # fmt: skip
    assert [note["message"] for note in found.result["notes"]] == found.lines[1:]


def test_check_warns_of_what_was_hardly_meant(file, capsys):
    file.write_text(OFFICE + '[[rule]]\nname = "more"\nup = "9M"\nzone = "Europe/Berlin"\n')
    found = run("check", file)
    assert output.show(found, as_json=False, quiet=True) == 3
    told = capsys.readouterr().err
    assert "'office' and 'more' both set up" in told
    assert "[overlap]" in told
    assert found.result["warnings_total"] == len(found.result["warnings"]) == 2


def test_check_names_the_line_of_what_is_wrong(file):
    file.write_text(OFFICE + "speed = 1")
    with pytest.raises(UsageError, match=f"{file}:16: rule 'night': unknown key 'speed'"):
        run("check", file)


def test_simulate_says_when_it_is_done(file):
    found = run("simulate", file, "--bytes", "144000M", "--from", "2026-11-30T06:00",
                "--line", "4M")  # fmt: skip
    assert found.exit_code == 0
    assert found.result["from"] == "2026-11-30T05:00:00Z"
    assert found.result["done"] == "2026-11-30T20:00:00Z"
    assert found.lines[0] == "begins  Mon 2026-11-30 06:00:00 CET, 140.6 GiB up"


def test_simulate_takes_a_date_with_an_offset_and_the_other_direction(file):
    found = run("simulate", file, "--bytes", "9000M", "--from", "2026-11-30T22:00:00+01:00",
                "--direction", "down")  # fmt: skip
    assert found.result["done"] == "2026-11-30T21:30:00Z"
    assert found.result["seconds"] == 1800
    assert found.lines[1] == "done    Mon 2026-11-30 22:30:00 CET, after 30 min"


def test_simulate_says_since_when_nothing_limits(file):
    found = run("simulate", file, "--bytes", "1T", "--from", "2026-11-30T00:00")
    assert (found.result["done"], found.result["unlimited_from"]) == (None, "2026-11-30T01:30:00Z")
    assert found.lines[1:] == [
        "no limit from Mon 2026-11-30 02:30:00 CET on, with 1.0 TiB left",
        "        --line RATE says what the line carries",
        "paused  2 h 30 min of that",
    ]


def test_simulate_says_never(file):
    file.write_text("[default]\nup = 0\n")
    found = run("simulate", file, "--bytes", "1")
    assert (found.result["done"], found.result["forever"]) == (None, True)
    assert found.lines[1:] == ["never done: paused for ever, with 1 B left"]
    file.write_text("[default]\nup = 1000\n")
    assert "not done in 20 years" in run("simulate", file, "--bytes", "9T").lines[1]


@pytest.mark.parametrize("date", ["soon", "", "2026-13-01", "0001-01-01", "9999-12-31", "18:00"])
def test_simulate_refuses_what_is_no_date(file, date):
    with pytest.raises(UsageError, match="is no date"):
        run("simulate", file, "--bytes", "1", f"--from={date}")


def test_a_week_is_drawn_from_now_on(file):
    assert chart(read_timetable(file), at(2027, 3, 26, 12, 10), BERLIN) == [
        "            00    03    06    09    12    15    18    21    24",
        "Fri 26 Mar                          aaaaaaaaaaaa........bbbb",
        "Sat 27 Mar  bbbbb.......................................bbbb",
        "Sun 28 Mar  bbbb  ......................................bbbb",
        "Mon 29 Mar  bbbbb...........aaaaaaaaaaaaaaaaaaaa........bbbb",
        "Tue 30 Mar  bbbbb...........aaaaaaaaaaaaaaaaaaaa........bbbb",
        "Wed 31 Mar  bbbbb...........aaaaaaaaaaaaaaaaaaaa........bbbb",
        "Thu 01 Apr  bbbbb...........aaaaaaaaaaaaaaaaaaaa........bbbb",
        "",
        ".  no limit",
        "a  up 2.0 MiB/s                           office",
        "b  up paused, down 5.0 MiB/s              night",
    ]


def test_a_short_window_is_seen_and_a_long_line_is_cut(file):
    file.write_text(
        f'[[rule]]\nname = "{"x" * 64}"\nup = 0\nstart = "10:05"\nend = "10:06"\n'
        '[default]\ntotal = "1M"'
    )
    lines = chart(read_timetable(file), at(2026, 11, 30, 0), BERLIN)
    assert lines[1] == "Mon 30 Nov  " + "a" * 20 + "b" + "a" * 27
    assert max(map(len, lines)) == 80
    assert lines[-1].endswith("xxx...")


def test_each_half_hour_that_a_window_touches_is_drawn(file):
    file.write_text('[[rule]]\nname = "x"\nup = 0\nstart = "10:20"\nend = "11:10"\n')
    lines = chart(read_timetable(file), at(2026, 11, 30, 0), BERLIN)
    assert lines[1] == "Mon 30 Nov  " + "." * 20 + "aaa" + "." * 25


def test_colours_change_nothing_but_the_colour(file):
    plain = chart(read_timetable(file), at(2026, 11, 30, 0), BERLIN)
    coloured = chart(read_timetable(file), at(2026, 11, 30, 0), BERLIN, colours=True)
    assert "\x1b[31maaaaa\x1b[0m\x1b[32m...........\x1b[0m\x1b[33mbbb" in coloured[1]
    bare = "\n".join(coloured)
    for code in ("\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"):
        bare = bare.replace(code, "")
    assert bare.split("\n") == plain


def test_more_limits_than_letters_are_drawn_all_the_same(file):
    rules = [
        f'[[rule]]\nname = "{n}"\nup = {1000 + n}\nstart = "{n // 3:02}:{n % 3 * 20:02}"\n'
        f'end = "{(n + 1) // 3:02}:{(n + 1) % 3 * 20:02}"\n'
        for n in range(72)
    ]
    file.write_text("".join(rules))
    lines = chart(read_timetable(file), at(2026, 11, 30, 0), BERLIN)
    assert len(lines[1]) == 12 + 48
    assert " " not in lines[1][12:]


def test_what_is_in_force_is_told_with_its_rule(file):
    now = at(2026, 11, 30, 9)
    assert in_force(read_timetable(file).explain(now), BERLIN) == [
        "up     2.0 MiB/s    rule 'office'",
        "down   no limit     the default",
        "total  no limit     the default",
        "since  Mon 2026-11-30 08:00:00 CET",
        "until  Mon 2026-11-30 18:00:00 CET",
    ]
    file.write_text("")
    assert in_force(read_timetable(file).explain(now), BERLIN)[3:] == [
        "since  always", "until  changed",
    ]  # fmt: skip
