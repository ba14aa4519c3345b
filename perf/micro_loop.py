"""A tight loop."""

from collections.abc import Callable
from typing import NamedTuple


class Loop(NamedTuple):
    """*work* does something often, and says how often; *unit* is what it does."""

    name: str
    unit: str
    work: Callable[[], int]


def often(name: str, unit: str, count: int, function: Callable[[], object]) -> Loop:
    """*count* times *function*."""

    def work() -> int:
        for _ in range(count):
            function()
        return count

    return Loop(name, unit, work)
