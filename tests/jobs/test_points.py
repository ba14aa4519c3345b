"""Times as RFC 3339 has them, whatever a clock once said."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.jobs.points import rfc3339


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (1_600_000_000_999_999_999, "2020-09-13T12:26:40Z"),
        (2**63 - 1, "2262-04-11T23:47:16Z"),
        (-(2**63), "1677-09-21T00:12:43Z"),
        (10**30, "9999-12-31T23:59:59Z"),
        (-(10**30), "0001-01-01T00:00:00Z"),
        (-62_000_000_000 * 10**9, "0005-04-19T09:46:40Z"),
    ],
)
def test_times_are_whole_seconds_in_utc(ns, text):
    assert rfc3339(ns) == text


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_time_of_a_point_is_one_that_others_can_read(ns):
    read = datetime.fromisoformat(rfc3339(ns))
    assert read.tzinfo == UTC
    assert read.timestamp() == ns // 10**9
