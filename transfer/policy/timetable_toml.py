"""timetable.toml: rules, the default, and two other ways to write rules.

[default]                     # what no rule sets; without it, nothing is limited
up = "20M"

[[rule]]
name = "office"
days = "Mon-Fri"              # or ["Mon", "Wed-Fri"]; without it, every day
start = "08:00"               # without start and end, the whole day
end = "18:00"                 # up to the start or before it: on the next day
up = "2M"                     # RATE, or off, or 0 for a pause; likewise down, and total for both
zone = "Europe/Berlin"        # without it, the machine's own
priority = 10                 # the highest wins, then the lower limit; without it, 0

[azure]                       # work hours as Azure Backup has them
work_days = "Mon-Fri"
work_start = "09:00"
work_end = "18:00"
work_up = "512kbit"           # also work_down, work_total, other_down, other_total
other_up = "off"

[rclone]                      # the text of rclone's --bwlimit
timetable = "08:00,512k 12:00,10M:off Mon-20:00,off"
"""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from transfer.errors import UsageError
from transfer.policy.timetable import FIELDS, Rates, Rule, Timetable, windows
from transfer.policy.timetable_forms import azure_rules, rclone_rules
from transfer.policy.timetable_table import Table, Zones

MAX_BYTES = 64 * 1024
MAX_RULES = 256
# A key of many parts costs the parser the square of their number: 30 s for 64 KiB of `a.a.a`.
_MAX_LINE = 4096
_TABLES = ("default", "rule", "azure", "rclone")
_HEADER = re.compile(r"\s*\[\[?\s*([A-Za-z]+)\s*\]\]?\s*(?:#.*)?")


def parse(content: bytes, file: str, zones: Zones) -> Timetable:
    """Raises UsageError that names *file*, the line where it is known, and the rule."""
    text = _text(content, file)
    document = _document(text, file)
    for key in document:
        if key not in _TABLES:
            raise UsageError(
                f"{file}: unknown key {key!r}", "it has [[rule]], [default], [azure] and [rclone]"
            )
    rules: list[Rule] = []
    default: Rates = {}
    for kind, table in _tables(document, file, text.split("\n")):
        if kind == "default":
            table.only(*FIELDS)
            default = table.rates()
        else:
            rules += _RULES[kind](table, zones)
            _check_names(rules, table)
    if len(rules) > MAX_RULES:
        raise UsageError(f"{file}: {len(rules)} rules are too many", f"at most {MAX_RULES}")
    return Timetable(rules, default)


def _text(content: bytes, file: str) -> str:
    if len(content) > MAX_BYTES:
        raise UsageError(f"{file}: too long for a timetable", f"at most {MAX_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{file}:{line}: this is not UTF-8", "save the file as UTF-8") from error
    for number, line_text in enumerate(text.split("\n"), 1):
        if len(line_text) > _MAX_LINE:
            raise UsageError(f"{file}:{number}: too long a line", f"at most {_MAX_LINE} characters")
    return text


def _document(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(f"{text}\n")  # it names no line where a text ends without one
    except (ValueError, RecursionError) as error:
        found = re.fullmatch(r"(.*) \(at line ([0-9]+), column [0-9]+\)", str(error), re.DOTALL)
        place, problem = (f"{file}:{found[2]}", found[1]) if found else (file, str(error))
        hint = 'texts and times stand in quotes: start = "08:00"'
        raise UsageError(f"{place}: this is not TOML: {problem}", hint) from error


def _tables(document: dict[str, Any], file: str, lines: list[str]) -> Iterator[tuple[str, Table]]:
    for kind, found in document.items():
        tables = found if isinstance(found, list) else [found]
        if isinstance(found, list) != (kind == "rule") or not all(
            isinstance(t, dict) for t in tables
        ):
            header = "[[rule]]" if kind == "rule" else f"[{kind}]"
            raise UsageError(
                f"{file}: {kind} is no table", f"write {header}, and its keys below it"
            )
        headers = [i for i, line in enumerate(lines) if _is_header(line, kind)]
        known = len(headers) == len(tables)  # else they are written in some way of their own
        for index, values in enumerate(tables):
            what = _called(values, index + 1) if kind == "rule" else f"[{kind}]"
            yield kind, Table(values, what, file, lines, headers[index] if known else None)


def _is_header(line: str, kind: str) -> bool:
    found = _HEADER.fullmatch(line.rstrip("\r"))
    return found is not None and found[1] == kind


def _called(values: dict[str, Any], number: int) -> str:
    name = values.get("name")
    return f"rule {name!r}" if isinstance(name, str) and len(name) < 100 else f"rule {number}"


def _plain_rule(table: Table, zones: Zones) -> list[Rule]:
    table.only("name", "days", "start", "end", *FIELDS, "zone", "priority")
    name, days = table.name(), table.days("days")
    start, end = table.window("start", "end")
    zone_name, zone = table.zone(zones)
    rates = table.rates()
    if not rates:
        raise table.bad("name", "it sets no limit, so it never applies", 'write up = "2M"')
    return [Rule(name, zone, windows(days, start, end), rates, table.priority(), zone_name)]


def _check_names(rules: list[Rule], table: Table) -> None:
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise table.bad("name", "another rule has this name", "give each rule its own")


_RULES = {"rule": _plain_rule, "azure": azure_rules, "rclone": rclone_rules}
