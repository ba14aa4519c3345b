"""When a number of bytes would have gone through, if nothing but the timetable held them back."""

from dataclasses import dataclass

from transfer.policy.timetable import SECOND, Limits, Timetable

# Nobody waits for longer; and it bounds the work for a rate that would take ages.
MAX_YEARS = 20
_MAX = MAX_YEARS * 366 * 24 * 3600 * SECOND


@dataclass(frozen=True)
class Forecast:
    done: int | None
    """Nanoseconds since 1970 UTC; None if it is not done within MAX_YEARS."""
    left: int
    """Bytes, rounded up, that have not gone then."""
    paused: int
    """Nanoseconds spent in pauses."""
    forever: bool
    """No more of it will ever go through."""


def rate_of(limits: Limits, direction: str, line: int | None = None) -> int | None:
    """Bytes a second for one *direction*, `up` or `down`, while the other has nothing to do.

    *line* is what the line itself carries; None where that is not known.
    """
    settings = (getattr(limits, direction).rate, limits.total.rate, line)
    return min((rate for rate in settings if rate is not None), default=None)


def simulate(
    timetable: Timetable, size: int, start: int, direction: str, line: int | None = None
) -> Forecast:
    """*size* bytes from *start* on. Exact: bytes are counted in billionths; rounded up to 1 ns.

    Where neither the timetable nor *line* limits anything, the rest takes no time at all.
    """
    left, paused, end = size * SECOND, 0, start + _MAX
    at: int = start
    while left > 0:
        rate = rate_of(timetable.limits(at), direction, line)
        if rate is None:
            break
        change = timetable.next_change(at)
        until = end if change is None else min(change, end)
        if rate * (until - at) >= left:
            at, left = at + -(-left // rate), 0
            break
        left -= rate * (until - at)
        paused += 0 if rate else until - at
        forever = not rate and (change is None or paused == end - start)
        if forever or until == end:
            return Forecast(None, -(-left // SECOND), paused, forever)
        at = until
    return Forecast(at, 0, paused, False)
