"""Measure transfer: beside its peers, stage by stage, against size, and part by part.

Nothing else shall run on the machine. Each command prints a table, and keeps all of its figures
with --json; `plot` draws them. With --quick it takes seconds, and the figures mean nothing.
"""

import argparse
import sys
from typing import Protocol

from perf import compare, micro, plot, scale, stages
from perf.machine import Lacking


class Command(Protocol):
    """A module; its docstring is the help text, the first line of it the short one."""

    __doc__: str | None

    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


COMMANDS: dict[str, Command] = {
    "compare": compare,
    "stages": stages,
    "scale": scale,
    "micro": micro,
    "plot": plot,
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, command in COMMANDS.items():
        text = command.__doc__ or ""
        command.configure(
            commands.add_parser(
                name, help=text.split("\n", 1)[0], description=text,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )  # fmt: skip
    return parser


def main(words: list[str] | None = None) -> int:
    args = make_parser().parse_args(words)
    try:
        return COMMANDS[args.command].run(args)
    except Lacking as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
