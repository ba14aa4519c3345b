"""What went wrong, as an exit code and words: what, where, and what to do.

Whatever ends a command ends here; what is no error of ours is a bug, and shows its traceback.
"""

import json
import sys
from contextlib import suppress
from typing import Any

from transfer import __version__
from transfer.cli.output import printable
from transfer.errors import (
    AccessError,
    IntegrityError,
    LockHeld,
    NoSpace,
    TransientError,
    UsageError,
)
from transfer.jobs.failures import BUG, ours

INTERRUPTED = 130
_MAX_CAUSES = 10  # one may be its own
# What to do where the error itself does not say it better; the first that fits.
_HINTS = {
    LockHeld: "wait until that process has ended, or with --give-up-after TIME",
    NoSpace: "make room, then run the same command again",
    TransientError: "run the same command again later",
    IntegrityError: "`transfer vault verify DIR` says what else is damaged",
    AccessError: "show another passphrase or recovery key",
    UsageError: "`transfer COMMAND --help` shows how",
}


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
    for _ in range(_MAX_CAUSES if verbose else 0):
        if cause is None:
            break
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
