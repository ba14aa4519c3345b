"""One table of a timetable's file: its values, checked, with errors that say where."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from transfer.errors import UsageError
from transfer.policy.rates import PAUSED, parse_rate
from transfer.policy.timetable import FIELDS, Rates
from transfer.policy.timetable_clock import DAY

Zones = Callable[[str], tzinfo]
"""The zone of an IANA name, or of "local". Raises UsageError."""
# Who writes less than the least meant another unit; more than the most is no line of today.
LEAST_RATE, MOST_RATE = 1000, 2**40  # bytes a second
MAX_PRIORITY = 1000
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])")
_NAME = 64  # characters


@dataclass(frozen=True)
class Table:
    values: Mapping[str, Any]
    what: str
    """What an error calls it: rule 'office'."""
    file: str
    lines: Sequence[str]
    header: int | None
    """Index in *lines* of the table's header, where it is known."""

    def bad(self, key: str, problem: str, hint: str) -> UsageError:
        line = self._line(key)
        place = self.file if line is None else f"{self.file}:{line}"
        return UsageError(f"{place}: {self.what}: {problem}", hint)

    def only(self, *keys: str) -> None:
        for key in self.values:
            if key not in keys:
                raise self.bad(key, f"unknown key {key!r}", f"the keys are {', '.join(keys)}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if value is None:
            raise self.bad(key, f"{key} is missing", f'write {key} = "..."')
        if not isinstance(value, str):
            raise self.bad(key, f"{key} = {value} is no text", f'write it in quotes: {key} = "..."')
        return value

    def name(self) -> str:
        name = self.text("name")
        if not (0 < len(name) <= _NAME and name.isprintable() and name.strip() == name):
            raise self.bad("name", "this is no name", f"1 to {_NAME} printable characters")
        return name

    def days(self, key: str, default: str | None = "Mon-Sun") -> list[int]:
        """Numbers of weekdays, 0 for Monday: `Mon-Fri`, `Sat,Sun`, or a list of such texts."""
        value = self.values.get(key)
        items = value if isinstance(value, list) else self.text(key, default).split(",")
        days = {day for item in items for day in self._day_range(key, item)}
        if not days:
            raise self.bad(key, "it has no day, so it never applies", "leave days out for all")
        return sorted(days)

    def minute(self, key: str, default: str | None = None) -> int:
        """Minutes after midnight, up to 24:00."""
        text = self.text(key, default)
        found = _TIME.fullmatch(text)
        if found is None or text > "24:00":
            raise self.bad(key, f"{key} = {text!r} is no time", "write 08:00, or 24:00 for an end")
        return int(found[1]) * 60 + int(found[2])

    def window(self, start: str, end: str, required: bool = False) -> tuple[int, int]:
        opens = self.minute(start, None if required else "00:00")
        if opens == DAY:
            raise self.bad(start, "no day starts at 24:00", "the next one does, at 00:00")
        return opens, self.minute(end, None if required else "24:00")

    def rates(self, prefix: str = "") -> Rates:
        """The limits that are set, of up, down and total."""
        return {
            field: self.rate(prefix + field) for field in FIELDS if prefix + field in self.values
        }

    def rate(self, key: str) -> int | None:
        value = self.values[key]
        whole = isinstance(value, int) and not isinstance(value, bool)
        try:
            rate = parse_rate(str(value) if whole else self.text(key))
        except UsageError as error:
            raise self.bad(key, f"{key}: {error.message}", error.hint) from error
        self.check_rate(key, rate)
        return rate

    def check_rate(self, key: str, rate: int | None) -> None:
        if rate is None or rate == PAUSED or LEAST_RATE <= rate <= MOST_RATE:
            return
        few = rate < LEAST_RATE
        hint = "a bare number is bytes: K, M or kbit, Mbit; 0 pauses" if few else "off is no limit"
        raise self.bad(
            key, f"{key}: {rate} bytes a second is too {'little' if few else 'much'}", hint
        )

    def zone(self, zones: Zones) -> tuple[str, tzinfo]:
        name = self.text("zone", "local")
        try:
            return name, zones(name)
        except UsageError as error:
            raise self.bad("zone", error.message, error.hint) from error

    def priority(self) -> int:
        value = self.values.get("priority", 0)
        if type(value) is not int or abs(value) > MAX_PRIORITY:
            raise self.bad(
                "priority", f"priority = {value} is no priority",
                f"a number from -{MAX_PRIORITY} to {MAX_PRIORITY}, of which the highest wins",
            )  # fmt: skip
        return value

    def _day_range(self, key: str, text: object) -> Iterable[int]:
        names = text.strip().lower().split("-") if isinstance(text, str) else []
        if not 1 <= len(names) <= 2 or any(name not in DAYS for name in names):
            raise self.bad(key, f"{text!r} is no day", "write Mon-Fri, or Sat,Sun")
        first, last = DAYS.index(names[0]), DAYS.index(names[-1])
        return (day % 7 for day in range(first, first + (last - first) % 7 + 1))

    def _line(self, key: str) -> int | None:
        """The number of the line where *key* is set, or else of the table's header."""
        if self.header is None:
            return None
        assignment = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=")
        for index in range(self.header + 1, len(self.lines)):
            if self.lines[index].lstrip().startswith("["):
                break
            if assignment.match(self.lines[index]):
                return index + 1
        return self.header + 1
