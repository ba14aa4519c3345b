"""The same programs with their stores behind HTTPS, on loopback: TLS on both, one server each."""

import os
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from pathlib import Path

from perf.tools import Restic, Tool, Transfer
from transfer.jobs.memory import with_children

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
        return self._agent(*words, "--state", str(self.top / "state"))

    def _vault(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "transfer", "vault", *words, "--quiet"]

    def serve(self) -> list[str]:
        return self._vault("serve", str(self.store), "--listen", f"127.0.0.1:{self.port}")

    def reset(self) -> None:
        super().reset()
        credential = str(self.top / "credential")
        self.run(self._vault("init", str(self.store)))
        self.start()
        self.run(self._vault("credentials", str(self.store), "--out", credential))
        self.run(self._command("register", credential, "--name", "bench"))


class FarRestic(Restic, Served):
    """Debian's restic and rclone: `rclone serve restic` with TLS, defaults throughout."""

    package, needs = "apt install restic rclone openssl", ("restic", "rclone", "openssl")

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
        self.run(self._command("init"))


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
    """Seconds that the process and its living children have computed so far."""
    return sum(map(_cpu, with_children(pid)))


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
