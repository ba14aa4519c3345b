"""The `transfer` command: one module per subcommand; errors become exit codes."""

import argparse
import importlib
import sys
from typing import NoReturn, Protocol

from transfer import __version__
from transfer.cli import output
from transfer.errors import TransferError, UsageError


class Command(Protocol):
    """What each module of a command offers; its docstring is the help text."""

    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> output.Outcome: ...


COMMANDS = {
    "backup": "make a recovery point of directories, files or devices",
    "restore": "give a recovery point back",
    "verify": "open everything below a recovery point, and write nothing",
    "points": "list recovery points",
    "ls": "list what is in a recovery point",
    "status": "this machine, its vault, and the last point of each item",
    "key": "the keyring: status, passphrase, recovery key, rotation",
    "register": "begin a domain of this machine's own in a vault",
    "vault": "make, check and mend a vault",
}


class Parser(argparse.ArgumentParser):
    """Usage errors end with 64, as all that a person must change does."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UsageError.exit_code, f"{self.prog}: {message}\n")


def make_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the *chosen* command's module is imported, or all of them for None."""
    parser = Parser(prog="transfer", description="Backups that only their owner can read.")
    parser.add_argument("--version", action="version", version=f"transfer {__version__}")
    parser.add_argument(
        "--print-completion", choices=("bash", "zsh", "tcsh"), metavar="SHELL",
        help="print a completion script for bash, zsh or tcsh",
    )  # fmt: skip
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command")
    for name, summary in COMMANDS.items():
        command = load(name) if chosen in (None, name) else None
        description = command.__doc__ if command else None
        sub = subparsers.add_parser(name, help=summary, description=description)
        if command is not None:
            command.configure(sub)
    return parser


def load(name: str) -> Command:
    command: Command = importlib.import_module(f"transfer.cli.{name}")
    return command


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    # The first word that is a command: only its module is imported.
    chosen = next((word for word in words if word in COMMANDS), "")
    wants_completion = any(word.startswith("--print-completion") for word in words)
    parser = make_parser(None if wants_completion else chosen)
    args = parser.parse_args(words)
    if args.print_completion:
        import shtab

        print(shtab.complete(parser, shell=args.print_completion))
        return 0
    if args.command is None:
        parser.error("which COMMAND? `transfer --help` lists them")
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        outcome = load(args.command).run(args)
    except TransferError as error:  # anything else is a bug: let its traceback show
        return output.show_error(error, args.json)
    except KeyboardInterrupt:
        return output.show_interrupted(args.json)
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    return output.show(outcome, args.json, args.quiet)


if __name__ == "__main__":
    sys.exit(main())
