"""The timetable's law, written a second time and as plainly as possible."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

MINUTE = 60 * 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Naive(NamedTuple):
    """A rule as a person writes it: weekdays from 0, minutes after midnight."""

    name: str
    zone: tzinfo
    days: tuple[int, ...]
    start: int
    end: int
    rates: dict
    priority: int = 0

    def holds(self, local):
        """Whether the wall clock's *local* time is inside."""
        minute = local.hour * 60 + local.minute
        yesterday = (local.weekday() - 1) % 7
        if self.start < self.end:
            return local.weekday() in self.days and self.start <= minute < self.end
        started_today = local.weekday() in self.days and minute >= self.start
        return started_today or (yesterday in self.days and minute < self.end)


def setting(there, default, field):
    """(rate, rule's name) for *field*, given the rules that are *there*."""
    there = [r for r in there if field in r.rates]
    if not there:
        return default.get(field), None
    highest = max(r.priority for r in there)
    there = [r for r in there if r.priority == highest]
    best = min(there, key=lambda r: float("inf") if r.rates[field] is None else r.rates[field])
    return best.rates[field], best.name


def limits(rules, default, now):
    """What holds at *now*, nanoseconds since 1970 UTC."""
    utc = EPOCH + timedelta(microseconds=now // 1000)
    clocks = {r.zone: utc.astimezone(r.zone) for r in rules}
    there = [r for r in rules if r.holds(clocks[r.zone])]
    return tuple(setting(there, default, field) for field in ("up", "down", "total"))
