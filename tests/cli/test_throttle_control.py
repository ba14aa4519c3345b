"""`transfer throttle show|set|pause|resume|off`: what is said is kept, and shown."""

import pytest


@pytest.fixture
def throttle(quick, monkeypatch):
    monkeypatch.setenv("TRANSFER_CONFIG", str(quick.top / "config"))
    (quick.top / "config").mkdir()

    def run(*words, expect=0):
        code, answer = quick("throttle", *words, "--state", quick.top / "state", plain=True)
        assert code == expect, answer
        return answer

    return run


def test_without_anything_there_is_no_limit(throttle):
    found = throttle("show")
    assert found["timetable"] is None
    assert found["limits"]["up"] == {"rate": None, "rule": None}
    assert found["runs"] == {}


def test_what_is_set_is_shown_until_it_is_cleared(throttle):
    throttle("set", "--up", "20Mbit", "--for", "2h")
    throttle("set", "--down", "off", "--total", "0")
    found = throttle("show")["set"]
    assert found["up"]["rate"] == 2_500_000
    assert found["up"]["until"] > 0
    assert found["down"] == {"rate": None, "until": None}
    assert found["total"]["rate"] == 0
    throttle("set", "--clear")
    assert not any(throttle("show")["set"].values())


def test_a_pause_goes_besides_and_ends(throttle):
    throttle("set", "--up", "1M")
    throttle("pause", "--for", "10m")
    found = throttle("show")["set"]
    assert found["pause"]["rate"] == 0 and found["up"]["rate"] == 2**20
    throttle("resume")
    found = throttle("show")["set"]
    assert found["pause"] is None and found["up"]["rate"] == 2**20


def test_off_lifts_everything(throttle):
    throttle("pause")
    throttle("off", "--for", "1h")
    found = throttle("show")["set"]
    assert found["pause"] is None
    assert {found[pool]["rate"] for pool in ("up", "down", "total")} == {None}


def test_what_holds_for_good_is_not_lost_to_what_holds_for_a_time(throttle):
    throttle("set", "--up", "5M")
    throttle("off", "--for", "1h", expect=64)
    throttle("set", "--up", "1M", "--for", "1h", expect=64)
    assert throttle("show")["set"]["up"]["rate"] == 5 * 2**20
    throttle("set", "--down", "1M", "--for", "1h")


def test_the_timetable_is_shown_with_its_rule_and_the_week(throttle, quick):
    (quick.top / "config" / "timetable.toml").write_text("[[rule]]\nname = 'always'\nup = '1M'\n")
    assert throttle("show")["limits"]["up"] == {"rate": 2**20, "rule": "always"}


@pytest.mark.parametrize(
    "words",
    [
        ("set",),
        ("set", "--clear", "--up", "1M"),
        ("set", "--up", "-5"),
        ("pause", "x"),
        ("set", "--up", "2000G"),
    ],
)
def test_what_cannot_be_meant(throttle, words):
    answer = throttle(*words, expect=64)
    assert answer["error"]["hint"]


def test_a_wrong_timetable_is_named_with_its_line(throttle, quick):
    (quick.top / "config" / "timetable.toml").write_text("[[rule]]\nname = 'x'\nup = 'fast'\n")
    assert "timetable.toml:3" in throttle("show", expect=64)["error"]["message"]
