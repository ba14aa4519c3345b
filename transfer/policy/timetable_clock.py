"""Wall clocks of time zones: what the clock on the wall shows at an instant, and when it is set.

Instants are whole seconds since 1970 UTC; offsets of zones are whole seconds as well.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Generic, TypeVar

T = TypeVar("T")
DAY = 24 * 60  # minutes
WEEK = 7 * DAY
_THURSDAY = 3  # the day of the week of 1970-01-01; Monday is 0
# No clock of the tz database (2025b) is set twice within 95 hours, so none is missed by this step.
_STEP = 24 * 3600


def offset(zone: tzinfo, second: int) -> int:
    """What the zone's clock is ahead of UTC, in seconds. ValueError beyond the year 9999."""
    ahead = datetime.fromtimestamp(second, zone).utcoffset()
    return int(ahead.total_seconds()) if ahead is not None else 0


def wall_second(zone: tzinfo, second: int) -> int:
    """Seconds since Monday 00:00 on the zone's clock."""
    return (second + offset(zone, second) + _THURSDAY * DAY * 60) % (WEEK * 60)


def next_turn(zone: tzinfo, after: int, until: int) -> int | None:
    """The first instant in (after, until] at which the clock is set to another offset."""
    while after < until:
        ahead = min(after + _STEP, until)
        if offset(zone, ahead) != offset(zone, after):
            return _turn(zone, after, ahead)
        after = ahead
    return None


def last_turn(zone: tzinfo, after: int, until: int) -> int | None:
    """The last instant in (after, until] at which the clock is set to another offset."""
    while after < until:
        behind = max(after, until - _STEP)
        if offset(zone, behind) != offset(zone, until):
            return _turn(zone, behind, until)
        until = behind
    return None


def turns(zone: tzinfo, after: int, until: int) -> Iterator[int]:
    """All of them in (after, until], ascending."""
    while (turn := next_turn(zone, after, until)) is not None:
        yield turn
        after = turn


def _turn(zone: tzinfo, before: int, at: int) -> int:
    seconds = range(before, at + 1)
    was = offset(zone, before)
    return seconds[bisect_left(seconds, True, key=lambda second: offset(zone, second) != was)]


class Week(Generic[T]):
    """A value for every minute of a zone's wall week, as a function of the instant.

    The answer is that of the minute which the wall clock shows: hours that the clock skips do not
    happen, and both passes of an hour that it repeats have the same value. Edges are found within
    stretches of one offset, where wall clock and UTC run alike; each setting of the clock is an
    edge as well. So nothing here adds 24 hours, or turns a wall time into an instant.
    """

    def __init__(self, zone: tzinfo, minutes: Sequence[T]) -> None:
        """*minutes* holds one value for each minute from Monday 00:00."""
        self.zone = zone
        starts = [m for m in range(WEEK) if minutes[m] != minutes[m - 1]] or [0]
        self._values = [minutes[start] for start in starts]
        self._starts = [start * 60 for start in starts]

    def at(self, second: int) -> T:
        # Before the first start of the week, -1: the last one of the week before.
        return self._values[bisect_right(self._starts, wall_second(self.zone, second)) - 1]

    def next_edge(self, second: int) -> int | None:
        """The first instant after *second* where the value may change; None if it never does."""
        if len(self._starts) == 1:
            return None
        wall = wall_second(self.zone, second)
        index = bisect_right(self._starts, wall) % len(self._starts)
        edge = second + (self._starts[index] - wall) % (WEEK * 60)
        return next_turn(self.zone, second, edge) or edge

    def last_edge(self, second: int) -> int | None:
        """The last instant, up to *second*, where the value may have changed."""
        if len(self._starts) == 1:
            return None
        wall = wall_second(self.zone, second)
        edge = second - (wall - self._starts[bisect_right(self._starts, wall) - 1]) % (WEEK * 60)
        return last_turn(self.zone, edge, second) or edge
