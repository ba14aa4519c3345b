"""What a command says: results on stdout, progress and errors on stderr, or one JSON object."""

import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from transfer.errors import DamagedData, TransferError

WARNINGS = 3
INTERRUPTED = 130


@dataclass
class Outcome:
    """A command's end: *result* is the JSON object, *lines* what a person reads."""

    result: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    exit_code: int = 0


def printable(name: str | bytes) -> str:
    """*name* with control and undecodable bytes as \\xNN: nothing a terminal would obey."""
    raw = os.fsencode(name) if isinstance(name, str) else name
    text = raw.decode(errors="surrogateescape")
    return "".join(
        c if c.isprintable() else "".join(f"\\x{b:02x}" for b in c.encode(errors="surrogateescape"))
        for c in text
    )


def of_result(result: Any, lines: list[str]) -> Outcome:
    """Outcome of a job: 65 if anything was damaged, 3 with warnings, else 0."""
    found = dataclasses.asdict(result)
    if found.get("damaged"):
        code = DamagedData.exit_code
    else:
        code = WARNINGS if found.get("warnings_total") else 0
    damage = [f"damaged: {printable(each)}" for each in found.get("damaged", [])]
    return Outcome(found, lines + damage, code)


def show(outcome: Outcome, as_json: bool, quiet: bool) -> int:
    if as_json:
        print(json.dumps({"exit": outcome.exit_code, **outcome.result}))
    elif not quiet:
        for line in outcome.lines:
            print(line)
    warnings = outcome.result.get("warnings", []) if not as_json else []
    for warning in warnings:
        path, message = printable(warning["path"]), warning["message"]
        print(f"transfer: {path}: {message} [{warning['code']}]", file=sys.stderr)
    sys.stdout.flush()
    return outcome.exit_code


def show_error(error: TransferError, as_json: bool) -> int:
    message, hint = printable(error.message), error.hint
    if as_json:
        described = {"code": error.code, "message": message, "hint": hint}
        print(json.dumps({"exit": error.exit_code, "error": described}))
    print(f"transfer: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
    return error.exit_code


def show_interrupted(as_json: bool) -> int:
    if as_json:
        described = {"code": "interrupted", "message": "interrupted", "hint": ""}
        print(json.dumps({"exit": INTERRUPTED, "error": described}))
    print("transfer: interrupted; what was sent stays in the vault", file=sys.stderr)
    return INTERRUPTED


def size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError
