"""The `transfer` command: one module per subcommand; errors become exit codes."""

import argparse
import importlib
import keyword
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from transfer import __version__
from transfer.cli import failures, options, output
from transfer.errors import UsageError


class Command(Protocol):
    """What each module of a command offers; its docstring is the help text."""

    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> output.Outcome: ...


COMMANDS = {
    "try": "back up, restore and compare a directory, with a vault that goes afterwards",
    "backup": "make a recovery point of directories, files or devices",
    "restore": "give a recovery point back",
    "verify": "open everything below a recovery point, and write nothing",
    "points": "list recovery points",
    "ls": "list what is in a recovery point",
    "status": "this machine, its vault, and the last point of each item",
    "key": "the keyring: status, passphrase, recovery key, rotation",
    "sources": "how changes of a PATH are known, and what is left of that",
    "throttle": "limits by the time of day: show, set, pause, check and foretell",
    "register": "make this machine known to a vault",
    "vault": "make, serve, check and mend a vault, and say who may use it",
}


class Parser(argparse.ArgumentParser):
    """Usage errors are errors like all others: 64, and an object with --json."""

    _inside = False

    def __init__(self, **settings: Any) -> None:
        # A shortened option would mean another one as soon as a longer name is added.
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"`{self.prog} --help` shows how")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Options may stand between a command's arguments: `restore ITEM --to DIR PATH...`."""
        if self._inside or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def make_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the *chosen* command's module is imported, or all of them for None."""
    parser = Parser(
        prog="transfer", description="Backups that only their owner can read.",
        epilog="`transfer COMMAND --help` says more, with examples.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"transfer {__version__}")
    parser.add_argument(
        "--print-completion", choices=("bash", "zsh", "tcsh"), metavar="SHELL",
        help="print a completion script for bash, zsh or tcsh",
    )  # fmt: skip
    options.add_common(parser, default=False)
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command")
    for name, summary in COMMANDS.items():
        command = load(name) if chosen in (None, name) else None
        description = command.__doc__ if command else None
        sub = subparsers.add_parser(name, help=summary, description=description)
        if command is not None:
            command.configure(sub)
    return parser


def load(name: str) -> Command:
    # `try` is no name that a module's name in an import could be.
    module = f"{name}_" if keyword.iskeyword(name) else name
    command: Command = importlib.import_module(f"transfer.cli.{module}")
    return command


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    # Names of files need not be text of the terminal's encoding.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options_given = words[: words.index("--")] if "--" in words else words
    as_json, verbose = ("--json" in options_given), ("--verbose" in options_given)
    try:
        return _run(words)
    except (Exception, KeyboardInterrupt) as error:
        return failures.show(error, as_json, verbose)
    finally:
        output.settle_stdout()


def _run(words: list[str]) -> int:
    # The first word that is a command: only its module is imported.
    chosen = next((word for word in words if word in COMMANDS), "")
    wants_completion = any(word.startswith("--print-completion") for word in words)
    parser = make_parser(None if wants_completion else chosen)
    args = parser.parse_args(words)
    if args.print_completion:
        from transfer.cli.completion import script

        print(script(parser, args.print_completion))
        return 0
    if args.command is None:
        raise UsageError("which COMMAND?", "`transfer --help` lists them")
    outcome = load(args.command).run(args)
    return output.show(outcome, args.json, args.quiet)


if __name__ == "__main__":
    sys.exit(main())
