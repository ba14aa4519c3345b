"""Completion scripts: commands, options, their choices, and files where a path stands."""

import argparse
from collections.abc import Iterator
from pathlib import Path


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    import shtab

    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    completion: str = shtab.complete(parser, shell=shell)
    return completion


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
