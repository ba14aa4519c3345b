"""The programs that are compared: each as its users run it, with its defaults, on this machine."""

import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from perf.machine import ROOT


class Tool(ABC):
    """One program, and where in *top* its store is.

    *loses* is what a restore of it may bring back otherwise than it was, in the words of
    `tests.acceptance.compare`; *note* is what the reader of its figures must know.
    """

    name: str
    package = ""
    """Debian's, or where it is from."""
    needs: tuple[str, ...] = ()
    """Commands without which it cannot be measured."""
    loses: frozenset[str] = frozenset()
    note = ""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.store = top / f"{self.name}-store"
        self.secret = top / "passphrase"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.top)}

    @classmethod
    def missing(cls) -> list[str]:
        return [name for name in cls.needs if shutil.which(name) is None]

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

    def said(self, out: str) -> dict[str, int]:
        """What a command's *out*put says of the bytes that it moved; most say nothing."""
        return {}

    def run(self, command: Sequence[str]) -> str:
        """Of a command that is not measured; its output."""
        return subprocess.run(
            command, check=True, env=self.environment, capture_output=True, text=True
        ).stdout

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def backup(self, source: Path, *, everything: bool = False) -> list[str] | None:
        """The command; *everything* is read again, whatever it knows to be unchanged.

        None for what the program does not have.
        """

    @abstractmethod
    def restore(self, source: Path, target: Path) -> list[str]:
        """The command that puts what was backed up from *source* below the new *target*."""

    def restored(self, source: Path, target: Path) -> Path:
        """Where *source* stands then."""
        return target / source.name


class Transfer(Tool):
    """*extra* goes to `transfer backup`; such a variant has a name of its own."""

    name = "transfer"

    def __init__(self, top: Path, name: str = "transfer", extra: Sequence[str] = ()) -> None:
        self.name, self.extra = name, list(extra)
        super().__init__(top)

    def _command(self, *words: str) -> list[str]:
        places = ("--vault", self.store, "--state", self.top / "state")
        return self._agent(*words, *map(str, places))

    def _agent(self, *words: str) -> list[str]:
        secret = ("--passphrase-file", str(self.secret))
        return [sys.executable, "-m", "transfer", *words, *secret, "--quiet", "--json"]

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": str(ROOT)}

    def version(self) -> str:
        said = output(sys.executable, "-m", "transfer", "--version")
        return f"{said} {' '.join(self.extra)}".strip()

    def said(self, out: str) -> dict[str, int]:
        figures = json.loads(out)
        return {name: figure for name, figure in figures.items() if isinstance(figure, int)}

    def backup(self, source: Path, *, everything: bool = False) -> list[str]:
        full = ["--full"] if everything else []
        return self._command("backup", "item", str(source), *full, *self.extra)

    def restore(self, source: Path, target: Path) -> list[str]:
        return self._command("restore", "item", "--to", str(target))

    def points(self) -> list[str]:
        """The command that lists all points of the item."""
        return self._command("points", "item")


class Absolute(Tool):
    """It restores to whole paths below the target."""

    def restored(self, source: Path, target: Path) -> Path:
        return target / source.relative_to("/")


class Restic(Absolute):
    """Debian's restic with a local repository, defaults throughout."""

    name, package = "restic", "apt install restic"
    needs: tuple[str, ...] = ("restic",)
    loses = frozenset({"sparse"})

    def _command(self, *words: str) -> list[str]:
        places = ("--repo", self.store, "--password-file", self.secret)
        return ["restic", *words, *map(str, places), "--quiet"]

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "RESTIC_CACHE_DIR": str(self.top / "cache")}

    def reset(self) -> None:
        super().reset()
        self.run(self._command("init"))

    def version(self) -> str:
        return output("restic", "version").split(" compiled")[0]

    def backup(self, source: Path, *, everything: bool = False) -> list[str]:
        return self._command("backup", str(source), *(["--force"] if everything else []))

    def restore(self, source: Path, target: Path) -> list[str]:
        return self._command("restore", "latest", "--target", str(target))


def output(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
