"""What a timetable says, for a terminal: what is in force, and a chart of the coming week."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta, tzinfo
from itertools import groupby
from string import ascii_letters

from transfer.cli.output import printable, size
from transfer.policy.rates import PAUSED
from transfer.policy.timetable import FIELDS, SECOND, Explanation, Limits, Setting, Timetable

_DAYS = 7
_CELL = 30 * 60  # seconds
_COLUMNS = 24 * 3600 // _CELL
_FREE, _SKIPPED, _MORE = ".", " ", "+"
_RED, _YELLOW, _GREEN = "\x1b[31m", "\x1b[33m", "\x1b[32m"
_PLAIN = "\x1b[0m"

Rates = tuple[int | None, ...]
Cells = dict[tuple[date, int], Limits]


def in_force(found: Explanation, zone: tzinfo) -> list[str]:
    """Each limit with the rule that set it, and from when until when."""
    lines = [f"{name:<6} {_setting(s)}" for name, s in zip(FIELDS, found.limits, strict=True)]
    lines.append(f"since  {when(found.since, zone) if found.since is not None else 'always'}")
    lines.append(f"until  {when(found.until, zone) if found.until is not None else 'changed'}")
    return lines


def when(instant: int, zone: tzinfo) -> str:
    """*instant*, nanoseconds since 1970 UTC, rounded up to a second, as *zone*'s clock has it."""
    local = datetime.fromtimestamp(-(-instant // SECOND), zone)
    return f"{local:%a %Y-%m-%d %H:%M:%S %Z}"


def rate_text(rate: int | None) -> str:
    if rate is None:
        return "no limit"
    return "paused" if rate == PAUSED else f"{size(rate)}/s"


def chart(
    timetable: Timetable, now: int, zone: tzinfo, colours: bool = False, width: int = 80
) -> list[str]:
    """Today and the six days after it on *zone*'s clock, from *now* on, and what the letters mean.

    A letter stands for half an hour; the lowest limit in it counts. An hour that the clock skips
    is blank, and one that it repeats is drawn once.
    """
    cells = _cells(timetable, now, zone)
    letters = _letters(cells.values())
    first = datetime.fromtimestamp(now // SECOND, zone).date()
    lines = [" " * 12 + "".join(f"{hour:02}    " for hour in range(0, 24, 3)) + "24"]
    for day in (first + timedelta(days=number) for number in range(_DAYS)):
        row = [cells.get((day, column)) for column in range(_COLUMNS)]
        drawn = "".join(_run([*run], letters, colours) for _, run in groupby(row, _rates))
        lines.append(f"{day:%a %d %b}  {drawn}".rstrip())
    return [*lines, "", *_legend(cells.values(), letters, width)]


def _cells(timetable: Timetable, now: int, zone: tzinfo) -> Cells:
    cells: Cells = {}
    end = now + (_DAYS + 1) * 24 * 3600 * SECOND
    changes = [*timetable.transitions(now, end)]
    for (since, limits), (until, _) in zip(changes, [*changes[1:], (end, None)], strict=True):
        second = since // SECOND
        while second * SECOND < until:
            local = datetime.fromtimestamp(second, zone)
            into = local.hour * 3600 + local.minute * 60 + local.second
            cell = (local.date(), into // _CELL)
            cells[cell] = min(cells.get(cell, limits), limits, key=_strictness)
            second += _CELL - into % _CELL
    return cells


def _strictness(limits: Limits) -> tuple[float, ...]:
    rates = [float("inf") if setting.rate is None else setting.rate for setting in limits]
    return min(rates), *rates


def _rates(limits: Limits | None) -> Rates | None:
    return None if limits is None else tuple(setting.rate for setting in limits)


def _letters(limits: Iterable[Limits]) -> Mapping[Rates, str]:
    found = dict.fromkeys(_rates(each) for each in limits)
    limited = [rates for rates in found if rates is not None and any(r is not None for r in rates)]
    letters = ascii_letters.ljust(len(limited), _MORE)
    return {(None,) * len(FIELDS): _FREE, **dict(zip(limited, letters, strict=False))}


def _run(limits: list[Limits | None], letters: Mapping[Rates, str], colours: bool) -> str:
    rates = _rates(limits[0])
    if rates is None:
        return _SKIPPED * len(limits)
    text = letters[rates] * len(limits)
    colour = _RED if PAUSED in rates else _GREEN if letters[rates] == _FREE else _YELLOW
    return f"{colour}{text}{_PLAIN}" if colours else text


def _legend(limits: Iterable[Limits], letters: Mapping[Rates, str], width: int) -> list[str]:
    names: dict[Rates | None, dict[str, None]] = {}
    for each in limits:
        rules = [setting.rule for setting in each if setting.rule is not None]
        names.setdefault(_rates(each), {}).update(dict.fromkeys(rules))
    lines = []
    for rates, letter in letters.items():
        if rates in names:
            said = f"{letter}  {_meaning(rates)}"
            rules_said = ", ".join(map(printable, names[rates]))
            lines.append(_cut(f"{said:<40}  {rules_said}".rstrip(), width))
    return lines


def _meaning(rates: Rates) -> str:
    limits = zip(FIELDS, rates, strict=True)
    said = [f"{name} {rate_text(rate)}" for name, rate in limits if rate is not None]
    return ", ".join(said) or "no limit"


def _setting(setting: Setting) -> str:
    by = "the default" if setting.rule is None else f"rule {printable(setting.rule)!r}"
    return f"{rate_text(setting.rate):<12} {by}"


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 3]}..."
