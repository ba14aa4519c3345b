"""Where the passphrase comes from: a file, the environment's file, or a prompt on a terminal."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from transfer.errors import UsageError

MAX_FILE = 64 * 1024


def passphrase_from(args: argparse.Namespace) -> Callable[[bool], str]:
    """Ask with True for a new passphrase: it is then typed twice."""

    def passphrase(new: bool) -> str:
        given = args.passphrase_file or os.environ.get("TRANSFER_PASSPHRASE_FILE")
        if given:
            return read_secret(Path(given))
        return prompt(new)

    return passphrase


def recovery_key_from(args: argparse.Namespace) -> str | None:
    return read_secret(args.recovery_key_file) if args.recovery_key_file else None


def read_secret(path: Path) -> str:
    from transfer.crypto.wrap import normalise_passphrase

    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return normalise_passphrase(raw)


def prompt(new: bool, what: str = "passphrase") -> str:
    if not sys.stdin.isatty():
        raise UsageError(
            f"no {what}: there is no terminal to ask on",
            "use --passphrase-file FILE or TRANSFER_PASSPHRASE_FILE",
        )
    first = getpass.getpass(f"{'new ' if new else ''}{what}: ")
    if new and getpass.getpass("once more: ") != first:
        raise UsageError(f"the two {what}s differ")
    return first
