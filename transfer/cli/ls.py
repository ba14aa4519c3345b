"""List the entries of ITEM[@POINT], or those below PATH."""

import argparse
import dataclasses
import stat
from typing import Any

from transfer.cli import options, output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("item", metavar="ITEM[@POINT]")
    parser.add_argument("path", metavar="PATH", nargs="?", default="")
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs import points as job

    path = options.as_bytes(args.path)
    found = options.run_agent(args, lambda agent: job.list_entries(agent, args.item, path))
    lines = [
        f"{each.type:<9} {stat.filemode(each.mode)[1:]} {each.size:>14}  "
        f"{output.printable(each.path)}"
        for each in found
    ]
    return output.Outcome({"entries": [_row(dataclasses.asdict(each)) for each in found]}, lines)


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    """The raw path only where text cannot say it."""
    return {key: value for key, value in entry.items() if value is not None}
