"""`transfer` as a process of its own, as users and scripts run it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.forked import forked

ROOT = Path(__file__).parents[2]
PASSPHRASE = "correct horse battery staple"
_started: "list[subprocess.Popen[str]]" = []


@dataclass
class Shell:
    """Vault, state and passphrase stand in *top*; *user* runs it, with this *python*, in *code*.

    *far*: without --vault, for a machine that is registered with a server. *forks*: where what is
    run to its end need not start an interpreter, it is forked from this process.
    """

    top: Path
    python: str = sys.executable
    user: int | None = None
    code: Path = ROOT
    far: bool = False
    extra: list[str] = field(default_factory=list)
    forks: bool = True

    def __post_init__(self) -> None:
        (self.top / "passphrase").write_text(PASSPHRASE + "\n")

    def __call__(self, *words: object, expect: int = 0, **options: Any) -> dict[str, Any]:
        """Run to the end; the exit code must be as expected. Gives the JSON object."""
        if self._can_fork():
            return _answer(*forked(self._words(*words, **options)), expect)
        return self.finish(self.start(*words, **options), expect)

    def start(self, *words: object, **options: Any) -> "subprocess.Popen[str]":
        """The running process; *options* as in _words()."""
        command = [self.python, "-m", "transfer", *self._words(*words, **options)]
        rights = {} if self.user is None else {
            "user": self.user, "group": self.user, "extra_groups": [],
        }  # fmt: skip
        return spawn(command, stderr=subprocess.PIPE, cwd=self.code, **rights)

    def finish(self, process: "subprocess.Popen[str]", expect: int | None = 0) -> dict[str, Any]:
        with process:
            out, errors = process.communicate()
        return _answer(process.returncode, out, errors, expect)

    def _words(
        self, *words: object, vault: str = "vault", state: str = "state",
        passphrase: str = "passphrase", plain: bool = False,
    ) -> list[str]:  # fmt: skip
        """*plain*: without vault, state and passphrase."""
        agent = [] if plain else [
            "--state", self.top / state, "--passphrase-file", self.top / passphrase,
        ]  # fmt: skip
        if not (plain or self.far):
            agent += ["--vault", self.top / vault]
        return [str(word) for word in (*words, *agent, *self.extra, "--json")]

    def _can_fork(self) -> bool:
        """A process with threads must not; another interpreter or user cannot."""
        same = (self.python, self.user, self.code) == (sys.executable, None, ROOT)
        return self.forks and same and threading.active_count() == 1


def _answer(code: int, out: str, errors: str, expect: int | None) -> dict[str, Any]:
    assert "Traceback" not in errors, errors
    answer: dict[str, Any] = json.loads(out) if out else {}
    assert expect in (None, code), (code, answer, errors)
    return answer


def started() -> int:
    return len(_started)


def spawn(command: Sequence[object], **options: Any) -> subprocess.Popen[str]:
    """A process that does not outlive the test."""
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        text=True, **options,
    )  # fmt: skip
    _started.append(process)
    return process


def end_all(before: int = 0) -> None:
    """Kill what a test that failed has left running; not what was there *before* it."""
    while len(_started) > before:
        with _started.pop() as process:
            process.kill()
            if process.stdout and not process.stdout.closed:
                process.communicate()


def alive(pid: int) -> bool:
    """False also for a zombie: where nobody reaps orphans, that is all that is left of one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, tasks.read_text().split())
        except OSError:
            continue
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """False if it had ended already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
