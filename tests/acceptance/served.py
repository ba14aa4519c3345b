"""A vault behind `transfer vault serve`, in a process of its own, and machines that use it."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.shell import Shell, spawn


class Server:
    """Serves the vault in *directory*, which is made; what it logs is in the file *log*."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.log = directory, directory.with_name(f"{directory.name}.log")
        self.plain = Shell(directory.parent)
        self.port, self.url, self._credentials = 0, "", 0
        self._for_new: Path | None = None
        self.plain("vault", "init", directory, plain=True)

    def start(self) -> "Server":
        """Ready to take calls; where it was before, if it was anywhere."""
        assert self.starts("transfer"), self.log.read_text()[-2000:]
        return self

    def starts(self, *program: object) -> bool:
        """Whether this Python module, with its words, lives to take calls as `transfer` would."""
        command = [
            sys.executable, "-m", *program, "vault", "serve", self.directory,
            "--listen", f"127.0.0.1:{self.port}", "--log-requests",
        ]  # fmt: skip
        with self.log.open("a") as log:
            self.process = spawn(command, stderr=log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.startswith("listening on https://127.0.0.1:"):
            self.url = line.split()[-1]
            self.port = int(self.url.rpartition(":")[2])
        return bool(line)

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send the signal; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert "Traceback" not in self.log.read_text()
        return code

    @contextmanager
    def running(self) -> Iterator[None]:
        """Served within the block, and closed afterwards."""
        self.start()
        yield
        assert self.end(signal.SIGTERM) == 0

    def credential(self, *words: object) -> Path:
        """A new file, with these options of `transfer vault credentials`."""
        self._credentials += 1
        path = self.directory.with_name(f"credential-{self._credentials}.json")
        self.plain("vault", "credentials", self.directory, "--out", path, *words, plain=True)
        return path

    def register(
        self, shell: Shell, *words: object, name: str = "here", expect: int = 0, **options: Any
    ) -> dict[str, Any]:
        """Make the state that *options* name a registered machine. Without *words*, which are
        options of `transfer vault credentials`, new machines share a credential.
        """
        if words or self._for_new is None:
            path = self.credential(*words)
            self._for_new = self._for_new if words else path
        else:
            path = self._for_new
        if shell.user is not None:
            os.chown(path, shell.user, shell.user)
        return shell("register", path, "--name", name, expect=expect, **options)


def shell_at(top: Path, place: str, **options: Any) -> Shell:
    """A shell whose vault is "near", or "far": then it is registered with a server of its own."""
    shell = Shell(top, far=place == "far", **options)
    if shell.far:
        Server(top / "vault").start().register(shell)
    return shell
