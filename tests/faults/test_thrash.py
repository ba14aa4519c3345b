"""Some of the thrashing in CI; `python -m tests.faults.thrash` does it for as long as one likes."""

import pytest

from tests.faults.thrash import Thrashing


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_restore_never_lies_and_no_point_is_lost_whoever_is_killed(work):
    counts = Thrashing(work, seed=1, machines=3).run(40)
    assert counts["killed run"] and counts["killed worker"] and counts["killed server"]
