"""`transfer` in a process that is forked from this one, which spares the start of an interpreter.

New keyrings open quickly there, with the least work that readers accept; and so they do for
programs that open them later.
"""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NoReturn

# All that commands import when they need it: here once, for all that are forked.
import transfer.cli.running
import transfer.jobs.backup
import transfer.jobs.points
import transfer.jobs.register
import transfer.jobs.restore
import transfer.vault.open  # noqa: F401
from transfer.cli.main import main
from transfer.crypto import wrap
from transfer.formats import keyring


def forked(words: list[str], program: Callable[[list[str]], int] = main) -> tuple[int, str, str]:
    """(exit code, stdout, stderr), once nothing that it started has its stderr any more."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as out:
        child = os.fork()
        if child == 0:
            _become(program, words, out.fileno(), writing)
        os.close(writing)
        try:
            with os.fdopen(reading, "rb") as errors:
                said = errors.read().decode()
        except BaseException:  # the test took too long
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        return status, out.read().decode(), said


def _become(
    program: Callable[[list[str]], int], words: list[str], out: int, errors: int
) -> NoReturn:
    """*program* with *words*, to the end of this process."""
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(errors, 2)
        os.close(errors)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        wrap.MEMORY, wrap.PASSES = keyring.MIN_MEMORY, 1
        code = program(words)
    except SystemExit as end:
        code = end.code  # type: ignore[assignment]
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
