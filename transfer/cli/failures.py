"""What went wrong, as an exit code and words: what, where, and what to do.

Whatever ends a command ends here. What the system says of its own state (a full disk, no
permission) is translated; what is left is a bug, and shows its traceback.
"""

import errno
import json
import os
import sys
from contextlib import suppress
from typing import Any

from transfer import __version__
from transfer.cli.output import printable
from transfer.errors import (
    AccessError,
    DamagedData,
    IntegrityError,
    LockHeld,
    NoSpace,
    TransferError,
    TransientError,
    UsageError,
)

BUG = 70
INTERRUPTED = 130
# What to do where the error itself does not say it better; the first that fits.
_HINTS = {
    LockHeld: "wait until that process has ended; a backup waits with --give-up-after TIME",
    NoSpace: "make room, then run the same command again",
    TransientError: "run the same command again later",
    IntegrityError: "`transfer vault verify DIR` says what else is damaged",
    AccessError: "show another passphrase or recovery key",
    UsageError: "`transfer COMMAND --help` shows how",
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_PASSING = {
    errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY,
    errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT,
}  # fmt: skip
# How SQLite names what the system told it; see https://sqlite.org/rescode.html
_DATABASE = {
    "SQLITE_FULL": errno.ENOSPC, "SQLITE_READONLY": errno.EROFS, "SQLITE_CANTOPEN": errno.EACCES,
    "SQLITE_IOERR": errno.EIO, "SQLITE_BUSY": errno.EBUSY, "SQLITE_NOMEM": errno.ENOMEM,
}  # fmt: skip
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def ours(error: BaseException) -> TransferError | None:
    """The error that tells what *error* means for whoever ran the command; None for a bug."""
    if isinstance(error, TransferError):
        return None if error.exit_code == BUG else error
    if isinstance(error, MemoryError):
        return TransientError("there is not enough memory", "fewer --workers need less")
    if isinstance(error, OSError):
        named = isinstance(error.filename, str | bytes)
        where = f"{os.fsdecode(error.filename)}: " if named else ""
        return _of_system(error.errno, f"{where}{error.strerror}")
    return _of_database(error)


def _of_system(number: int | None, message: str) -> TransferError | None:
    if number in _FULL:
        return NoSpace(message)
    if number in _FORBIDDEN:
        return UsageError(message, "run as a user who may")
    return TransientError(message, "see to it, then run again") if number in _PASSING else None


def _of_database(error: BaseException) -> TransferError | None:
    """SQLAlchemy keeps the database's own error in `orig`."""
    original = getattr(error, "orig", error)
    name = getattr(original, "sqlite_errorname", "")
    message = f"the vault's catalog: {original}"
    if name.startswith(_DAMAGED):
        return DamagedData(message, "run: transfer vault rebuild DIR")
    for start, number in _DATABASE.items():
        if name.startswith(start):
            return _of_system(number, message)
    return None


def show(error: BaseException, as_json: bool, verbose: bool = False) -> int:
    """Print it, on stderr and with *as_json* as the one object on stdout; the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return _print(INTERRUPTED, "interrupted", "interrupted", "", as_json)
    known = ours(error)
    if known is None:
        return _show_bug(error, as_json)
    hint = known.hint or next(hint for kind, hint in _HINTS.items() if isinstance(known, kind))
    code = _print(known.exit_code, known.code, known.message, hint, as_json)
    cause = (known if known is error else error).__cause__
    while verbose and cause is not None:
        _say(f"  because of {type(cause).__name__}: {printable(str(cause))}")
        cause = cause.__cause__
    return code


def _show_bug(error: BaseException, as_json: bool) -> int:
    import platform
    import traceback

    _say("".join(traceback.format_exception(error)).rstrip())
    version = f"transfer {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return _print(
        BUG, "bug", f"{type(error).__name__}: {error}",
        "this is a bug in transfer: please report it in the project's issue tracker, "
        f"with the traceback and: {version}",
        as_json,
    )  # fmt: skip


def _print(exit_code: int, code: str, message: str, hint: str, as_json: bool) -> int:
    described = {"code": code, "message": printable(message), "hint": printable(hint)}
    if as_json:
        _print_object({"exit": exit_code, "error": described})
    _say(f"transfer: {described['message']}")
    if hint:
        _say(f"  {described['hint']}")
    return exit_code


def _print_object(found: dict[str, Any]) -> None:
    with suppress(OSError):  # stdout itself may be what failed; stderr still says so
        print(json.dumps(found), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
