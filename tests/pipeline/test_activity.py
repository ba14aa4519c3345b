"""A run waits for the vault when its workers have nothing to do, or no room for what they did."""

import pytest

from transfer.pipeline.activity import Activity


class Hands:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Hands()


@pytest.fixture
def activity(clock):
    return Activity(2, clock)


def test_a_run_that_asks_nothing_waits_for_nothing(activity, clock):
    clock.now += 5
    assert (activity.asked, activity.far) == (0, 0)


def test_calls_count_each_for_itself_and_a_wait_for_all_of_them_once(activity, clock):
    with activity.asking(), activity.asking():
        clock.now += 3
    clock.now += 1
    assert (activity.asked, activity.far) == (6, 3)


def test_while_workers_work_nobody_waits_for_the_vault(activity, clock):
    with activity.asking():
        activity.works(2)
        clock.now += 2
        activity.works(-1)
        clock.now += 4  # one of two has nothing to do
        activity.works(-1)
    assert (activity.asked, activity.far) == (6, 2)


def test_who_has_no_room_waits_for_the_vault_whoever_works(activity, clock):
    activity.works(2)
    with activity.asking():
        with activity.held():
            clock.now += 2
        clock.now += 3
    assert activity.far == 2


def test_more_calls_than_workers_are_no_more_than_all_of_them(activity, clock):
    activity.works(6)
    with activity.asking():
        clock.now += 2
    assert activity.far == 0


def test_what_goes_on_counts_up_to_now(activity, clock):
    with activity.asking():
        clock.now += 2
        assert activity.far == 2
        clock.now += 2
        assert activity.asked == 4
