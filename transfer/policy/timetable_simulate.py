"""When a number of bytes would have gone through, if nothing but the timetable held them back."""

from dataclasses import dataclass

from transfer.policy.timetable import SECOND, Limits, Timetable

# Nobody waits for longer; and it bounds the work for a rate that would take ages.
MAX_YEARS = 20
_MAX = MAX_YEARS * 366 * 24 * 3600 * SECOND


@dataclass(frozen=True)
class Forecast:
    done: int | None = None
    """Nanoseconds since 1970 UTC; None if that is not known, or not within MAX_YEARS."""
    unlimited: int | None = None
    """Likewise: since when nothing limits it, so that what is left takes what the line takes."""
    forever: bool = False
    """No more of it will ever go through."""
    left: int = 0
    """Bytes, rounded up, that have not gone then."""
    paused: int = 0
    """Nanoseconds spent in pauses that end."""


def rate_of(limits: Limits, direction: str, line: int | None = None) -> int | None:
    """Bytes a second for one *direction*, `up` or `down`, while the other has nothing to do.

    *line* is what the line itself carries; None where that is not known.
    """
    settings = (getattr(limits, direction).rate, limits.total.rate, line)
    return min((rate for rate in settings if rate is not None), default=None)


def simulate(
    timetable: Timetable, size: int, start: int, direction: str, line: int | None = None
) -> Forecast:
    """*size* bytes from *start* on. Exact: bytes are counted in billionths; rounded up to 1 ns."""
    left, paused, end = size * SECOND, 0, start + _MAX
    at = start
    while left > 0:
        rate = rate_of(timetable.limits(at), direction, line)
        if rate is None:
            return Forecast(unlimited=at, left=-(-left // SECOND), paused=paused)
        change = timetable.next_change(at)
        until = end if change is None else min(change, end)
        if rate * (until - at) >= left:
            at, left = at + -(-left // rate), 0
            break
        left -= rate * (until - at)
        paused += 0 if rate else until - at
        if not rate and (change is None or paused == end - start):
            return Forecast(forever=True, left=-(-left // SECOND))
        if until == end:
            return Forecast(left=-(-left // SECOND), paused=paused)
        at = until
    return Forecast(done=at, paused=paused)
