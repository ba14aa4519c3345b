"""Where the passphrase comes from: a file, the environment's file, or a prompt on a terminal."""

import argparse
import getpass
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transfer.errors import UsageError
from transfer.jobs.secret_files import read_secret, read_text


def passphrase_from(args: argparse.Namespace) -> Callable[[bool], str]:
    """Ask with True for a new passphrase: it is then typed twice."""

    def passphrase(new: bool) -> str:
        given = args.passphrase_file or os.environ.get("TRANSFER_PASSPHRASE_FILE")
        if given:
            return read_secret(Path(given))
        return prompt(new)

    return passphrase


def recovery_key_from(args: argparse.Namespace) -> str | None:
    return read_text(args.recovery_key_file) if args.recovery_key_file else None


def prompt(new: bool, what: str = "passphrase") -> str:
    if not sys.stdin.isatty():
        raise UsageError(
            f"no {what}: there is no terminal to ask on",
            "use --passphrase-file FILE or TRANSFER_PASSPHRASE_FILE",
        )
    with _interruptible():
        first = getpass.getpass(f"{'new ' if new else ''}{what}: ")
        if new and getpass.getpass("once more: ") != first:
            raise UsageError(f"the two {what}s differ", "run again")
    return first


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let signals raise KeyboardInterrupt: the event loop, which stops a run on them, waits for
    this answer, and the terminal's echo must come back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
