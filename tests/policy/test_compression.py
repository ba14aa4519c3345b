"""A slow line buys a higher level; busy processors get the usual one back."""

import pytest

from transfer.policy.bottleneck import Seconds
from transfer.policy.compression import LEVELS, USUAL, Compression

IDLE, HALF, BUSY = (Seconds(1, 4, computing=each) for each in (1, 2.6, 3.8))


def test_it_begins_with_the_usual_level():
    assert Compression().level == USUAL == 3


@pytest.mark.parametrize("cause", ["network", "throttle"])
def test_a_slow_line_buys_one_level_after_the_other_and_no_more_than_there_are(cause):
    compression = Compression()
    assert [compression.seen(IDLE, cause) for _ in range(5)] == [*LEVELS[1:], 9, 9]


def test_processors_without_time_to_spare_buy_nothing_and_keep_what_they_have():
    compression = Compression()
    assert compression.seen(HALF, "network") == USUAL
    compression.seen(IDLE, "network")
    assert compression.seen(HALF, "network") == LEVELS[1]
    assert compression.seen(BUSY, "network") == USUAL


@pytest.mark.parametrize("cause", ["cpu", "source", "vault", None])
def test_nothing_else_buys_a_level(cause):
    assert Compression().seen(IDLE, cause) == USUAL


def test_processors_that_hold_the_run_back_get_their_level_back_but_no_less():
    compression = Compression()
    for _ in range(3):
        compression.seen(IDLE, "network")
    assert [compression.seen(IDLE, "cpu") for _ in range(4)] == [LEVELS[2], LEVELS[1], 3, 3]


def test_a_look_at_no_time_at_all_changes_nothing():
    assert Compression().seen(Seconds(), "network") == USUAL
