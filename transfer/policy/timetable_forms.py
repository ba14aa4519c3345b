"""Two other ways to write rules: work hours as Azure Backup has them, and rclone's timetable."""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from transfer.policy.timetable import FIELDS, Rates, Rule, Span, windows
from transfer.policy.timetable_clock import DAY, WEEK
from transfer.policy.timetable_table import DAYS, Table, Zones

# As rclone's documentation has it: a bare number is KiB, B is bytes; K, M, G, T, P are powers of
# 1024 whether or not `i` or `iB` follows, in any case of letters.
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,9})?)(?:([kmgtp])(?:ib?)?|(b))?", re.IGNORECASE)
_POWER = {"": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_ENTRY = re.compile(r"(?:([A-Za-z]+)-)?([01][0-9]|2[0-3]):([0-5][0-9]),([^,]+)")
_CLOCK = re.compile("[0-9]{2}:[0-9]{2}")
_FULL_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def azure_rules(table: Table, zones: Zones) -> list[Rule]:
    """Work days, work hours, the rates within them, and the rates at all other times."""
    rates = [f"{when}_{field}" for when in ("work", "other") for field in FIELDS]
    table.only("work_days", "work_start", "work_end", *rates, "zone", "priority")
    zone_name, zone = table.zone(zones)
    start, end = table.window("work_start", "work_end", required=True)
    work = windows(table.days("work_days", "Mon-Fri"), start, end)
    rules = [
        Rule(f"azure {when}", zone, spans, table.rates(f"{when}_"), table.priority(), zone_name)
        for when, spans in (("work", work), ("other", _outside(work)))
    ]
    setting = [rule for rule in rules if rule.rates]
    if not setting:
        raise table.bad("work_up", "it sets no limit", 'write work_up = "2M", other_up = "off"')
    if not setting[-1].spans:
        raise table.bad("work_days", "no other times are left for other_ rates", "leave them out")
    return setting


def rclone_rules(table: Table, zones: Zones) -> list[Rule]:
    """`08:00,512k 12:00,10M:off Mon-20:00,off`: each entry holds until the next one in the week.

    The one that is latest in the week goes on over its end, where rclone takes the one that stands
    last in the text. Where two have the same time, the one that stands last counts, as there.
    0 is rclone's word for no limit. A pair is upload:download.
    """
    table.only("timetable", "zone", "priority")
    zone_name, zone = table.zone(zones)
    entries = table.text("timetable").split()
    # rclone reads a time alone as a pair, of KiB up and KiB down; nobody means that.
    if len(entries) == 1 and "," not in entries[0] and not _CLOCK.fullmatch(entries[0]):
        rates = _pair(table, entries[0], entries[0])
        return [Rule("rclone", zone, (Span(0, WEEK),), rates, table.priority(), zone_name)]
    if not entries:
        raise table.bad("timetable", "it has no entry", "write 08:00,512k 18:00,off")
    began: dict[int, int] = {}  # from a minute of the week to the entry that begins there
    limits = []
    for index, entry in enumerate(entries):
        starts, rates = _entry(table, entry)
        began.update(dict.fromkeys(starts, index))
        limits.append(rates)
    return [
        Rule(f"rclone {entries[index]}", zone, spans, limits[index], table.priority(), zone_name)
        for index, spans in enumerate(_until_next(table, began, entries))
    ]


def _outside(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The rest of the week, for spans that do not overlap."""
    following = [*spans[1:], *spans[:1]]
    gaps = (Span(a.end % WEEK, a.end % WEEK + (b.start - a.end) % WEEK)
            for a, b in zip(spans, following, strict=True))  # fmt: skip
    return tuple(gap for gap in gaps if gap.end > gap.start)


def _until_next(
    table: Table, began: dict[int, int], entries: Sequence[str]
) -> Iterable[tuple[Span, ...]]:
    starts = sorted(began)
    spans: list[list[Span]] = [[] for _ in entries]
    for start, after in zip(starts, [*starts[1:], *starts[:1]], strict=True):
        spans[began[start]].append(Span(start, start + ((after - start) % WEEK or WEEK)))
    for entry, found in zip(entries, spans, strict=True):
        if not found:
            raise table.bad(
                "timetable", f"{entry!r} never applies", "a later entry has its times: leave it out"
            )
        yield tuple(found)


def _entry(table: Table, entry: str) -> tuple[list[int], Rates]:
    """The minutes of the week at which the entry begins, and its rates."""
    found = _ENTRY.fullmatch(entry)
    day = (found[1] or "").lower() if found else "?"
    if found is None or (day and day not in DAYS and day not in _FULL_DAYS):
        raise table.bad(
            "timetable", f"{entry!r} is no entry of rclone's timetable",
            "write 08:00,512k or Mon-08:00,10M:off, with one space between entries",
        )  # fmt: skip
    days = [DAYS.index(day[:3])] if day else range(7)
    minute = int(found[2]) * 60 + int(found[3])
    return [number * DAY + minute for number in days], _pair(table, found[4], entry)


def _pair(table: Table, text: str, entry: str) -> Rates:
    up, colon, down = text.partition(":")
    return {
        "up": _size(table, up, entry),
        "down": _size(table, down if colon else up, entry),
    }


def _size(table: Table, text: str, entry: str) -> int | None:
    if text.lower() == "off":
        return None
    found = _SIZE.fullmatch(text)
    if found is None:
        raise table.bad(
            "timetable", f"{text!r} in {entry!r} is no bandwidth of rclone's",
            "write 512k, 10M or off: bytes a second; a bare number is KiB",
        )  # fmt: skip
    factor = 1 if found[3] else 1024 ** _POWER[(found[2] or "").upper()]
    rate = int(Fraction(found[1]) * factor)
    table.check_rate("timetable", rate)
    return rate or None
