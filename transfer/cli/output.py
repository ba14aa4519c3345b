"""What commands print: results on stdout, warnings on stderr, one object with --json."""

import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from transfer.errors import DamagedData

WARNINGS = 3
CLOSED_PIPE = 141  # as a shell says it of a program that SIGPIPE ended


@dataclass
class Outcome:
    """A command's end: *result* is the JSON object, *lines* what a person reads."""

    result: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    exit_code: int = 0
    notes: list[str] = field(default_factory=list)
    """Beside the result, on stderr."""


def printable(name: str | bytes) -> str:
    """*name* with control and undecodable bytes as \\xNN: nothing a terminal would obey."""
    text = name if isinstance(name, str) else name.decode(errors="surrogateescape")
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    try:
        raw = character.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half of a pair, which stands for no byte
        raw = character.encode(errors="surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)


def of_result(result: Any, lines: list[str], notes: list[str] | None = None) -> Outcome:
    """Outcome of a job: 65 if anything was damaged, 3 with warnings, else 0."""
    found = dataclasses.asdict(result)
    if found.get("damaged"):
        code = DamagedData.exit_code
    else:
        code = WARNINGS if found.get("warnings_total") else 0
    return Outcome(found, lines, code, notes or [])


def show(outcome: Outcome, as_json: bool, quiet: bool) -> int:
    try:
        _print(outcome, as_json, quiet)
        sys.stdout.flush()
    except BrokenPipeError:
        return CLOSED_PIPE
    return outcome.exit_code


def _print(outcome: Outcome, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps({"exit": outcome.exit_code, **outcome.result}))
    elif not quiet:
        for line in outcome.lines:
            print(line)
    if not quiet:
        for note in outcome.notes:
            print(f"transfer: {note}", file=sys.stderr)
    if not as_json:
        _warn(outcome.result)


def settle_stdout() -> None:
    """What cannot be printed must not fail once more when the program ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _warn(result: dict[str, Any]) -> None:
    for damaged in result.get("damaged", []):
        print(f"transfer: damaged: {printable(damaged)}", file=sys.stderr)
    warnings = result.get("warnings", [])
    for each in warnings:
        path, message = printable(each["path"]), printable(each["message"])
        print(f"transfer: {path}: {message} [{each['code']}]", file=sys.stderr)
    more = result.get("warnings_total", 0) - len(warnings)
    if more > 0:
        print(f"transfer: and {more} more warnings", file=sys.stderr)


def size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError
