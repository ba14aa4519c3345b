"""Figures in a file: JSON, with all that they depend on at its head."""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf.machine import commit, machine


def configure(parser: argparse.ArgumentParser, where: bool = True) -> None:
    """The options of all that measures; *where*, if it needs room on a disk."""
    add = parser.add_argument
    add("--quick", action="store_true", help="little data: does it run at all? The figures lie")
    add("--json", type=Path, metavar="FILE", help="keep every single figure")
    if where:
        add("--top", type=Path, metavar="DIR",
            help="stores and restored data go to a new directory in DIR, and with it at the end "
            "(default: TMPDIR)")  # fmt: skip


@contextmanager
def place(args: argparse.Namespace) -> Iterator[Path]:
    """A new directory, gone at the end."""
    if args.top is not None:
        args.top.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="transfer-perf-", dir=args.top) as name:
        yield Path(name)


def head(command: str, top: Path) -> dict[str, Any]:
    """What stands above the figures; printed as well."""
    found = {
        "command": command,
        "machine": machine(top),
        "commit": commit(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(found["machine"], f"transfer at {found['commit']}, {found['when']}", sep="\n", flush=True)
    return found


def keep(path: Path | None, document: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=1) + "\n")
