"""The timetable: which limits hold at an instant, and until when. A pure function of UTC.

A rule has weekly windows on the wall clock of its zone. For `up`, `down` and `total` each, the
rule of the highest priority that sets it holds; among equals the lower limit, then the rule that
stands first. What no rule sets is the default's. Rates are bytes a second, None is no limit and 0
is a pause; instants are nanoseconds since 1970 UTC, as time.time_ns() gives them.

>>> from datetime import timezone
>>> office = Rule("office", timezone.utc, windows(range(5), 8 * 60, 18 * 60), {"up": 1000})
>>> table = Timetable([office])
>>> table.limits(0).up  # 1970-01-01 00:00, a Thursday
Setting(rate=None, rule=None)
>>> table.next_change(0) == 8 * 3600 * SECOND
True
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import NamedTuple

from transfer.policy.timetable_clock import DAY, WEEK, Week

SECOND = 10**9  # nanoseconds
FIELDS = ("up", "down", "total")
Rates = Mapping[str, int | None]
"""From names in FIELDS to rates."""
# If nothing changes for so long, nothing ever will: whatever has won all the time is there for all
# of the week, and what could beat it would have been there in one of three weeks. Clocks skip a
# time of day now and then, and Apia once skipped a day, but no clock skips one in three weeks.
_HORIZON = 3 * WEEK * 60


class Span(NamedTuple):
    """Minutes since Monday 00:00: start in the week, end after it, up to a week later."""

    start: int
    end: int

    def parts(self) -> Iterator[tuple[int, int]]:
        """The same without a window that runs into the next week."""
        yield self.start, min(self.end, WEEK)
        if self.end > WEEK:
            yield 0, self.end - WEEK


@dataclass(frozen=True)
class Rule:
    name: str
    zone: tzinfo
    spans: tuple[Span, ...]
    rates: Rates
    priority: int = 0
    zone_name: str = "UTC"


class Setting(NamedTuple):
    """A rate, and the name of the rule that set it; None for the default."""

    rate: int | None
    rule: str | None


class Limits(NamedTuple):
    up: Setting
    down: Setting
    total: Setting
    """What both directions may use together."""


class Explanation(NamedTuple):
    """*limits* hold from *since* up to, not including, *until*; None: they always did or will."""

    limits: Limits
    since: int | None
    until: int | None


def windows(days: Iterable[int], start: int, end: int) -> tuple[Span, ...]:
    """[start, end) on each of *days*, 0 for Monday, in minutes after midnight.

    A window that ends at its start or before it ends on the next day, and belongs to the first.
    """
    length = (end - start) % DAY or DAY
    return tuple(Span(day * DAY + start, day * DAY + start + length) for day in sorted(set(days)))


class Timetable:
    """Rules, and the limits where no rule sets one. Immutable."""

    def __init__(self, rules: Sequence[Rule] = (), default: Rates | None = None) -> None:
        self.rules, self.default = tuple(rules), dict(default or {})
        self._settings = [
            [Setting(rule.rates[field], rule.name) for rule in self.order(field)]
            + [Setting(self.default.get(field), None)]
            for field in FIELDS
        ]
        names = {rule.zone_name: rule.zone for rule in self.rules}
        orders = [self.order(field) for field in FIELDS]
        self._weeks = [
            Week(zone, [*zip(*(_painted(order, name) for order in orders), strict=True)])
            for name, zone in names.items()
        ]

    def order(self, field: str) -> list[Rule]:
        """The rules that set *field*, those that win first."""
        setting = [rule for rule in self.rules if field in rule.rates]
        return sorted(setting, key=lambda rule: (-rule.priority, _height(rule.rates[field])))

    def limits(self, now: int) -> Limits:
        return self._limits(self._ranks(now // SECOND))

    def next_change(self, now: int) -> int | None:
        """The first instant after *now* at which `limits` differs; None if it never will."""
        at, ranks = now // SECOND, self._ranks(now // SECOND)
        until = at + _HORIZON
        while (edge := self._next_edge(at)) is not None and edge <= until:
            if self._ranks(edge) != ranks:
                return edge * SECOND
            at = edge
        return None

    def last_change(self, now: int) -> int | None:
        """The last instant up to *now* before which `limits` differed; None if it never did."""
        at, ranks = now // SECOND, self._ranks(now // SECOND)
        since = at - _HORIZON
        while (edge := self._last_edge(at)) is not None and edge >= since:
            if self._ranks(edge - 1) != ranks:
                return edge * SECOND
            at = edge - 1
        return None

    def explain(self, now: int) -> Explanation:
        return Explanation(self.limits(now), self.last_change(now), self.next_change(now))

    def transitions(self, start: int, end: int) -> Iterator[tuple[int, Limits]]:
        """What holds at *start*, and then each change before *end*, with its instant."""
        at: int | None = start
        while at is not None and at < end:
            yield at, self.limits(at)
            at = self.next_change(at)

    def _ranks(self, second: int) -> tuple[int, ...]:
        found = [tuple(len(settings) - 1 for settings in self._settings)]
        found += (week.at(second) for week in self._weeks)
        return tuple(map(min, zip(*found, strict=True)))

    def _limits(self, ranks: tuple[int, ...]) -> Limits:
        return Limits(
            *(settings[rank] for settings, rank in zip(self._settings, ranks, strict=True))
        )

    def _next_edge(self, second: int) -> int | None:
        edges = [week.next_edge(second) for week in self._weeks]
        return min((edge for edge in edges if edge is not None), default=None)

    def _last_edge(self, second: int) -> int | None:
        edges = [week.last_edge(second) for week in self._weeks]
        return max((edge for edge in edges if edge is not None), default=None)


def _height(rate: int | None) -> float:
    return float("inf") if rate is None else rate


def _painted(ordered: Sequence[Rule], zone_name: str) -> list[int]:
    """For each minute of that zone's week, the place in *ordered* of the first rule there."""
    minutes = [len(ordered)] * WEEK
    for rank, rule in reversed([*enumerate(ordered)]):  # the better over the worse
        for span in rule.spans if rule.zone_name == zone_name else ():
            for start, end in span.parts():
                minutes[start:end] = [rank] * (end - start)
    return minutes
