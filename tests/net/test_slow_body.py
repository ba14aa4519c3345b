"""What a body has to bring at least: a byte now and then, and a rate over minutes."""

import pytest

from transfer.net.connections import SlowBody

MIB = 2**20


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_silence_is_cut(clock):
    rule = SlowBody(clock)
    assert rule.left() == 60
    clock.now = 59
    rule.received(1)
    assert rule.left() == 60
    clock.now = 119
    assert rule.left() == 0


@pytest.mark.parametrize(("each", "cut_at"), [(1, 300), (4095 * 30, 300), (4096 * 30, None)])
def test_the_floor_holds_over_each_window(clock, each, cut_at):
    rule = SlowBody(clock)
    for now in range(30, 3000, 30):
        clock.now = now
        rule.received(each)
        if rule.left() <= 0:
            break
    else:
        now = None
    assert now == cut_at


def test_a_fast_start_does_not_pay_for_a_slow_rest(clock):
    rule = SlowBody(clock)
    rule.received(100 * MIB)
    while rule.left() > 0:
        clock.now += 30
        rule.received(1)
    assert clock.now == 300


def test_who_has_brought_a_windows_worth_has_as_long_again(clock):
    rule = SlowBody(clock)
    clock.now = 290
    rule.received(300 * 4096)
    assert rule.left() == 60
