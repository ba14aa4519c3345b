"""The same programs with their stores behind HTTPS, on loopback: TLS on both, one server each."""

import os
import shutil
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from pathlib import Path

from perf.tools import Restic, Tool, Transfer

_PATIENCE = 30.0  # seconds for a server to start


class Served(Tool):
    """A tool with a server of its own, which lives from `reset` to `close`."""

    server: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def serve(self) -> list[str]:
        """The server's command; it listens on `port`."""

    def start(self) -> None:
        self.port = _free_port()
        self.server = subprocess.Popen(
            self.serve(), env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for(self.port)

    def close(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait()
            self.server = None


class FarTransfer(Transfer, Served):
    """`transfer vault serve`, with a machine that registered as any does."""

    def _command(self, *words: str) -> list[str]:
        places = ("--state", self.top / "state", "--passphrase-file", self.secret)
        return [sys.executable, "-m", "transfer", *words, *map(str, places), "--quiet"]

    def _vault(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "transfer", "vault", *words, "--quiet"]

    def serve(self) -> list[str]:
        return self._vault("serve", str(self.store), "--listen", f"127.0.0.1:{self.port}")

    def reset(self) -> None:
        super().reset()
        credential = str(self.top / "credential")
        self._run(self._vault("init", str(self.store)))
        self.start()
        self._run(self._vault("credentials", str(self.store), "--out", credential))
        self._run(self._command("register", credential, "--name", "bench"))

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, check=True, env=self.environment, stdout=subprocess.DEVNULL)


class FarRestic(Restic, Served):
    """Debian's restic and rclone: `rclone serve restic` with TLS, defaults throughout."""

    def _command(self, *words: str) -> list[str]:
        places = ("--repo", f"rest:https://127.0.0.1:{self.port}/", "--password-file", self.secret)
        certificate = ("--cacert", self.top / "certificate")
        return ["restic", *words, *map(str, (*places, *certificate)), "--quiet"]

    def serve(self) -> list[str]:
        pair = ("--cert", str(self.top / "certificate"), "--key", str(self.top / "key"))
        address = ("--addr", f"127.0.0.1:{self.port}")
        return ["rclone", "serve", "restic", *address, *pair, str(self.store)]

    def reset(self) -> None:
        Tool.reset(self)
        self.store.mkdir()
        _make_certificate(self.top)
        self.start()
        subprocess.run(self._command("init"), check=True, env=self.environment)


def _make_certificate(top: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", top / "key", "-out", top / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for(port: int) -> None:
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def cpu_of(pid: int) -> float:
    """Seconds that the process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def available(top: Path) -> list[Tool]:
    tools: list[Tool] = [FarTransfer(top / "transfer")]
    if shutil.which("restic") and shutil.which("rclone") and shutil.which("openssl"):
        tools.append(FarRestic(top / "restic"))
    else:
        print("restic, rclone and openssl are not all installed: transfer is measured alone")
    return tools
