"""The programs that are compared: each as its users run it, with its defaults, on this machine."""

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Tool(ABC):
    """One program, and where in *top* its store is."""

    name: str

    def __init__(self, top: Path) -> None:
        self.top = top
        self.store = top / f"{self.name}-store"
        self.secret = top / "passphrase"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.top)}

    def reset(self) -> None:
        """An empty store: the next backup is a first one."""
        shutil.rmtree(self.top, ignore_errors=True)
        self.top.mkdir()
        self.secret.write_text("correct horse battery staple\n")

    def close(self) -> None:  # noqa: B027 - only those with a server have something to do
        """Nothing of it runs any more."""

    def stored(self) -> int:
        """Bytes in the store, catalogs and indexes with it."""
        return sum(path.stat().st_size for path in self.store.rglob("*") if path.is_file())

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def backup(self, source: Path, *, everything: bool = False) -> list[str]:
        """The command; *everything* is read again, whatever it knows to be unchanged."""

    @abstractmethod
    def restore(self, target: Path) -> list[str]: ...


class Transfer(Tool):
    name = "transfer"

    def _command(self, *words: str) -> list[str]:
        places = ("--vault", self.store, "--state", self.top / "state")
        secret = ("--passphrase-file", self.secret)
        return [sys.executable, "-m", "transfer", *words, *map(str, (*places, *secret)), "--quiet"]

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": str(ROOT)}

    def version(self) -> str:
        return _output(sys.executable, "-m", "transfer", "--version")

    def backup(self, source: Path, *, everything: bool = False) -> list[str]:
        return self._command("backup", "item", str(source), *(["--full"] if everything else []))

    def restore(self, target: Path) -> list[str]:
        return self._command("restore", "item", "--to", str(target))


class Restic(Tool):
    """Debian's restic with a local repository, defaults throughout."""

    name = "restic"

    def _command(self, *words: str) -> list[str]:
        places = ("--repo", self.store, "--password-file", self.secret)
        return ["restic", *words, *map(str, places), "--quiet"]

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "RESTIC_CACHE_DIR": str(self.top / "cache")}

    def reset(self) -> None:
        super().reset()
        subprocess.run(self._command("init"), check=True, env=self.environment)

    def version(self) -> str:
        return _output("restic", "version").split(" compiled")[0]

    def backup(self, source: Path, *, everything: bool = False) -> list[str]:
        return self._command("backup", str(source), *(["--force"] if everything else []))

    def restore(self, target: Path) -> list[str]:
        return self._command("restore", "latest", "--target", str(target))


def _output(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()


def available(top: Path) -> list[Tool]:
    tools: list[Tool] = [Transfer(top / "transfer")]
    if shutil.which("restic"):
        tools.append(Restic(top / "restic"))
    else:
        print("restic is not installed (Debian: apt install restic): transfer is measured alone")
    return tools
