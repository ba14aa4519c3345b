"""An embedded vault: served on loopback by a process of its own, in a directory that goes with it.

Nothing of it is meant to stay, so it is not stopped but ended. It ends by itself when this process
is no more: then its standard input closes.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from transfer.errors import VaultUnavailable
from transfer.formats.credential import Credential, CredentialKind
from transfer.vault.registry import registry_of

_HOUR = 3600 * 10**9  # ns
_POLL = 0.1  # seconds
_PATIENCE = 10.0  # seconds that a process which was killed may take
_ROOT = str(Path(__file__).parents[2])
_LISTENING = re.compile(r"listening on (https://\S+)\n")


class EmbeddedVault:
    """A running server; *url* is where it listens."""

    def __init__(self, directory: Path, process: "subprocess.Popen[str]", log: Path) -> None:
        self.directory, self.url = directory, ""
        self._process, self._log = process, log

    @property
    def pid(self) -> int:
        return self._process.pid

    def credential(self) -> Credential:
        """For one more machine. It blocks for some milliseconds."""
        registry = registry_of(self.directory)
        return registry.make_credential(CredentialKind.REGISTER, None, _HOUR, self.url)

    async def watch(self) -> None:
        """Raise VaultUnavailable once the server has ended."""
        while self._process.poll() is None:
            await asyncio.sleep(_POLL)
        raise self._ended()

    async def ready(self) -> None:
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        found = _LISTENING.fullmatch(line)
        if found is None:
            self.kill()
            raise self._ended()
        self.url = found[1]

    def kill(self) -> None:
        """End it, whatever it does, and wait for that."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # only a process stuck in the kernel
            self._process.wait(_PATIENCE)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _ended(self) -> VaultUnavailable:
        words = self._log.read_text(errors="backslashreplace").strip()
        said = f": {words.splitlines()[-1][:500]}" if words else ""
        return VaultUnavailable(
            f"the embedded vault's server ended with status {self._process.returncode}{said}",
            "run again; if it happens twice, report it",
        )


@asynccontextmanager
async def embedded_vault(directory: Path, log: Path) -> AsyncIterator[EmbeddedVault]:
    """Serve the vault in *directory* for as long as the block lasts; *log* is what it says.

    Raises VaultUnavailable where that cannot be.
    """
    vault = EmbeddedVault(directory, _start(directory, log), log)
    try:
        await vault.ready()
        yield vault
    finally:
        vault.kill()


def _start(directory: Path, log: Path) -> "subprocess.Popen[str]":
    words = ["vault", "serve", str(directory), "--listen", "127.0.0.1:0", "--until-stdin-closes"]
    with log.open("w") as errors:
        return subprocess.Popen(
            # -P: a module in the current directory must never run in our name.
            [sys.executable, "-P", "-m", "transfer", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "PYTHONPATH": _ROOT},
            process_group=0,  # a terminal's Ctrl-C is for this process to decide on
        )  # fmt: skip
