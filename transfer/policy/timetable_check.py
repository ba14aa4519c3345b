"""What a person should know of a timetable: overlaps, gaps, shadows, and clocks that are set."""

from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta, tzinfo
from itertools import combinations
from typing import NamedTuple

from transfer.policy.timetable import FIELDS, SECOND, Rule, Timetable
from transfer.policy.timetable_clock import DAY, WEEK, offset, turns

_AHEAD = 2 * 366 * 24 * 3600  # seconds; how far the settings of clocks are looked at
_ALL = (1 << WEEK) - 1
_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WHEN = "%a %Y-%m-%d %H:%M"
_SHOWN = 5  # times of day in one line


class Finding(NamedTuple):
    code: str
    message: str
    rules: tuple[str, ...]
    is_warning: bool
    """Probably not what was meant; else it is good to know."""


def check(timetable: Timetable, now: int) -> list[Finding]:
    """*now*, in nanoseconds since 1970 UTC, is where the two years begin that are looked at."""
    second = now // SECOND
    zones = {rule.zone_name: rule.zone for rule in timetable.rules}
    weeks = _Weeks(timetable, zones, second)
    found = [*_overlaps(timetable.rules, weeks), *_shadowed(timetable, weeks), _gaps(weeks)]
    for name, zone in zones.items():
        there = [rule for rule in timetable.rules if rule.zone_name == name]
        for turn in turns(zone, second, second + _AHEAD):
            found += _clock_change(name, there, zone, turn)
    return found


class _Weeks:
    """Rules as sets of minutes of a week, one bit each, in the wall time of any of the zones.

    What two zones' clocks are apart differs in the year: *apart* has all of the coming two.
    """

    def __init__(self, timetable: Timetable, zones: dict[str, tzinfo], second: int) -> None:
        self.rules = timetable.rules
        self._masks = {rule.name: _mask(rule) for rule in self.rules}
        moments = [second]
        if len(zones) > 1:
            for zone in zones.values():
                moments += turns(zone, second, second + _AHEAD)
        offsets = [{name: offset(zone, at) // 60 for name, zone in zones.items()} for at in moments]
        self.apart = [*map(dict, dict.fromkeys(tuple(_relative(each)) for each in offsets))]

    def of(self, rule: Rule, beside: Rule, apart: dict[str, int]) -> int:
        """The minutes of *rule* on the wall clock of *beside*."""
        return _rotated(self._masks[rule.name], apart[beside.zone_name] - apart[rule.zone_name])

    def common(self, rule: Rule, other: Rule) -> int:
        """The minutes that both ever have, on the wall clock of *rule*."""
        minutes = 0
        for shift in {apart[rule.zone_name] - apart[other.zone_name] for apart in self.apart}:
            minutes |= self._masks[rule.name] & _rotated(self._masks[other.name], shift)
        return minutes


def _relative(offsets: dict[str, int]) -> Iterator[tuple[str, int]]:
    first = next(iter(offsets.values()), 0)
    return ((name, minutes - first) for name, minutes in offsets.items())


def _rotated(mask: int, minutes: int) -> int:
    mask <<= minutes % WEEK
    return (mask | mask >> WEEK) & _ALL


def _mask(rule: Rule) -> int:
    mask = 0
    for span in rule.spans:
        for start, end in span.parts():
            mask |= (1 << end) - (1 << start)
    return mask


def _overlaps(rules: Sequence[Rule], weeks: _Weeks) -> Iterator[Finding]:
    for one, other in combinations(rules, 2):
        fields = [field for field in FIELDS if field in one.rates and field in other.rates]
        if one.priority != other.priority or not fields:
            continue
        if common := weeks.common(one, other):
            message = (
                f"{one.name!r} and {other.name!r} both set {', '.join(fields)} with priority "
                f"{one.priority}, so the lower limit holds: {_spans(common)} ({one.zone_name})"
            )
            yield Finding("overlap", message, (one.name, other.name), True)


def _shadowed(timetable: Timetable, weeks: _Weeks) -> Iterator[Finding]:
    orders = {field: timetable.order(field) for field in FIELDS}
    for rule in timetable.rules:
        winners: list[str] = []
        if all(_covered(rule, orders[field], weeks, winners) for field in rule.rates):
            by = ", ".join(repr(name) for name in dict.fromkeys(winners))
            message = f"{rule.name!r} never has an effect: it always gives way to {by}"
            yield Finding("shadowed", message, (rule.name, *dict.fromkeys(winners)), True)


def _covered(rule: Rule, order: Sequence[Rule], weeks: _Weeks, winners: list[str]) -> bool:
    """Whether rules before it in *order* leave it no minute; they are added to *winners*."""
    for apart in weeks.apart:
        left = weeks.of(rule, rule, apart)
        for better in order[: order.index(rule)]:
            mask = weeks.of(better, rule, apart)
            if left & mask:
                winners.append(better.name)
            left &= ~mask
            if not left:
                break
        if left:
            return False
    return True


def _gaps(weeks: _Weeks) -> Finding:
    if not weeks.rules:
        return Finding("gap", "there is no rule: the default always holds", (), False)
    covered, first = 0, weeks.rules[0]
    for rule in weeks.rules:
        covered |= weeks.of(rule, first, weeks.apart[0])
    gap = _ALL & ~covered
    if not gap:
        return Finding("no-gap", "at any time there is a rule", (), False)
    message = f"outside all rules the default holds: {_spans(gap)} ({first.zone_name})"
    return Finding("gap", message, (), False)


def _spans(mask: int) -> str:
    """The runs of bits, as a person reads them."""
    if mask == _ALL:
        return "always"
    before = _rotated(mask, 1)
    starts, ends = [*_bits(mask & ~before)], [*_bits(before & ~mask)]
    if ends[0] < starts[0]:  # the last run goes on over the end of the week
        ends = [*ends[1:], ends[0]]
    days: dict[str, list[int]] = {}
    for start, end in zip(starts, ends, strict=True):
        days.setdefault(_times(start, end), []).append(start // DAY)
    shown = [f"{_days(there)} {times}" for times, there in days.items()]
    more = [f"and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return ", ".join(shown[:_SHOWN] + more)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


def _times(start: int, end: int) -> str:
    until = start % DAY + (end - start) % WEEK
    if until <= DAY:
        return f"{_clock(start % DAY)}-{_clock(until)}"
    return f"{_clock(start % DAY)} to {_NAMES[end // DAY]} {_clock(end % DAY)}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _days(days: Sequence[int]) -> str:
    """Mon-Fri for what is adjacent and more than two, else Mon,Tue."""
    if len(days) > 2 and days[-1] - days[0] == len(days) - 1:
        return f"{_NAMES[days[0]]}-{_NAMES[days[-1]]}"
    return ",".join(_NAMES[day] for day in days)


def _clock_change(
    zone_name: str, rules: Sequence[Rule], zone: tzinfo, turn: int
) -> Iterator[Finding]:
    jump = timedelta(seconds=offset(zone, turn) - offset(zone, turn - 1))
    after = datetime.fromtimestamp(turn, zone).replace(tzinfo=None)
    before = after - jump
    way = "forward" if jump > timedelta() else "back"
    message = f"{zone_name}: clocks go {way} from {before:{_WHEN}} to {after:{_WHEN}}"
    yield Finding("clock-change", message, (), False)
    explain = _skipped if jump > timedelta() else _repeated
    for rule in rules:
        for problem in explain(rule, min(before, after), abs(jump)):
            code = "skipped-time" if jump > timedelta() else "repeated-time"
            yield Finding(code, f"{rule.name!r} {problem}", (rule.name,), False)


def _skipped(rule: Rule, first: datetime, jump: timedelta) -> Iterator[str]:
    """What is said of windows with an edge in [first, first + jump), which does not exist."""
    for span in rule.spans:
        start, end = _next(first, span.start), _next(first, span.end)
        if start + timedelta(minutes=span.end - span.start) <= first + jump:
            yield f"does not apply once: {start:{_WHEN}} to {end:%H:%M} does not exist"
        elif start < first + jump:
            yield f"starts at {first + jump:{_WHEN}}: {start:%H:%M} does not exist then"
        elif first < end < first + jump:
            yield f"ends as the clock is set: {end:{_WHEN}} does not exist"


def _repeated(rule: Rule, first: datetime, jump: timedelta) -> Iterator[str]:
    """What is said of windows with an edge in (first, first + jump), which comes twice."""
    for span in rule.spans:
        edges = (("starts", _next(first, span.start)), ("ends", _next(first, span.end)))
        does = [word for word, edge in edges if first < edge < first + jump]
        if does:
            twice = f"{first:{_WHEN}} to {first + jump:%H:%M} comes twice"
            yield f"{' and '.join(does)} twice: {twice}"


def _next(first: datetime, minute: int) -> datetime:
    """The next wall time from *first* on that is so many minutes after Monday 00:00."""
    monday = datetime.combine(first.date() - timedelta(first.weekday()), time())
    return first + (monday + timedelta(minutes=minute) - first) % timedelta(minutes=WEEK)
