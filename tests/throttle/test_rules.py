"""What is in force at an instant, whatever the clock does in between."""

from transfer.policy.timetable import Explanation, Limits, Setting
from transfer.throttle.rules import Rules


def test_a_pause_goes_before_what_is_set_and_that_before_the_schedule():
    rules = Rules()
    rules.schedule(
        lambda now: Explanation(Limits(Setting(1, "a"), Setting(2, "a"), Setting(3, None)), 0, 100),
        5,
    )
    assert [each.rate for each in rules.at(5).values()] == [1, 2, 3]
    assert [each.why for each in rules.at(5).values()] == ["rule", "rule", "default"]
    rules.set("up", None, 5)
    rules.set("total", 7, 5)
    assert [each.rate for each in rules.at(5).values()] == [None, 2, 7]
    rules.pause(6)
    assert [each.rate for each in rules.at(6).values()] == [0, 0, 7]
    rules.resume()
    rules.clear("up")
    rules.clear("down")  # nothing was set
    assert [each.rate for each in rules.at(6).values()] == [1, 2, 7]


def test_the_next_look_is_at_the_first_end_of_anything():
    rules = Rules()
    assert rules.next_look(0) is None and not rules.depend_on_time
    rules.set("up", 1, 0)
    assert rules.next_look(0) is None and not rules.depend_on_time
    rules.set("up", 1, 0, until=50)
    rules.pause(0, until=40)
    assert rules.next_look(0) == 40 and rules.depend_on_time
    assert rules.at(39)["up"].why == "paused"
    assert rules.at(40)["up"].why == "set"
    assert rules.next_look(40) == 50
    assert rules.at(50)["up"].why == "none"


def test_a_clock_that_goes_back_asks_the_schedule_again():
    asked = []

    def schedule(now):
        asked.append(now)
        start = now // 100 * 100
        setting = Setting(now // 100, None)
        return Explanation(Limits(setting, setting, setting), start, start + 100)

    rules = Rules()
    rules.schedule(schedule, 250)
    assert [rules.at(now)["up"].rate for now in (250, 299, 300, 120, 199, 250)] == [
        2,
        2,
        3,
        1,
        1,
        2,
    ]
    assert asked == [250, 300, 120, 250]
