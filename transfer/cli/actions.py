"""Commands with actions, as `transfer vault ACTION`: one table says what each of them is."""

import argparse
import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from transfer.cli import options, output


class Action(NamedTuple):
    """*module* of transfer.cli has *run*, or else `run_NAME`, which does it; imported only then."""

    module: str
    summary: str
    more: str
    options: Callable[[argparse.ArgumentParser], None]
    run: str = ""


def configure(parser: argparse.ArgumentParser, actions: Mapping[str, Action]) -> None:
    options.add_common(parser)
    subparsers = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, help=", ".join(actions)
    )
    for name, action in actions.items():
        description = f"{action.summary[0].upper()}{action.summary[1:]}.\n\n{action.more}"
        sub = subparsers.add_parser(name, help=action.summary, description=description)
        action.options(sub)
        options.add_common(sub)


def run(args: argparse.Namespace, actions: Mapping[str, Action]) -> output.Outcome:
    action = actions[args.action]
    module = importlib.import_module(f"transfer.cli.{action.module}")
    outcome: output.Outcome = getattr(module, action.run or f"run_{args.action}")(args)
    return outcome
