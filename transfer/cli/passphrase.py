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
    return read_text(args.recovery_key_file) if args.recovery_key_file else None


def read_secret(path: Path) -> str:
    """The passphrase in a file. Raises UsageError, which names the file and never its content."""
    from transfer.crypto.wrap import normalise_passphrase

    raw = _read(path)
    try:
        normalise_passphrase(raw)
        return raw.decode()
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from None


def read_text(path: Path) -> str:
    try:
        return _read(path).decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8", "is it the right file?") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "name a file that can be read") from error
    if len(raw) > MAX_FILE:
        raise UsageError(f"{path} is too long for a passphrase or key", "is it the right file?")
    return raw


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
