"""No more requests than the rate can feed, in their order, and nobody is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.policy.admission_gate import LEAST_SHARE, AdmissionGate, most_active


@pytest.mark.parametrize(
    ("rate", "block_size", "patience", "most"),
    [
        (None, 2**20, 60, None),
        (0, 2**20, 60, 0),
        (1, 2**20, 60, 1),
        (64_000, 2**20, 60, 1),  # 512 kbit/s: a second request would starve both
        (5 * 2**20, 2**20, 60, 150),
        (64_000, 64 * 2**10, 60, 3),
        (4 * LEAST_SHARE, 1, 60, 4),
    ],
)
def test_each_request_has_enough_for_its_block_in_half_the_time(rate, block_size, patience, most):
    assert most_active(rate, block_size, patience) == most


steps = st.one_of(
    st.tuples(st.just("ask"), st.none()),
    st.tuples(st.just("leave"), st.integers(0, 99)),
    st.tuples(st.just("rate"), st.sampled_from([None, 0, 1, 64_000, 10**6])),
)


@given(st.lists(steps, max_size=60))
def test_whoever_asks_comes_in_as_soon_as_there_is_room_and_in_order(steps):
    gate, asked, inside = AdmissionGate(64_000), [], []
    for step, argument in steps:
        if step == "ask":
            asked.append(gate.ask())
        elif step == "rate":
            gate.set_rate(argument)
        elif everyone := [*asked, *inside]:
            gone = everyone[argument % len(everyone)]
            gate.leave(gone)
            (asked if gone in asked else inside).remove(gone)
        before = len(inside)
        admitted = gate.admit()
        assert admitted == asked[: len(admitted)]
        asked, inside = asked[len(admitted) :], inside + admitted
        assert (gate.active, gate.waiting) == (len(inside), len(asked))
        # Nobody came in beyond the bound, and nobody waits below it.
        assert gate.most is None or len(inside) <= max(gate.most, before)
        assert not asked or (gate.most is not None and len(inside) >= gate.most)
