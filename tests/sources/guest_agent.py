"""A guest agent as a script: it answers what it is told to, and freezes whoever it is given."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class ScriptedAgent:
    """Serves one client after the other. *frozen* is called with whether the guest is frozen now.

    *answers*: what it says to a command instead of its own answer; None is silence, and bytes are
    sent as they are. *delays*: seconds that a command takes. What a client did not wait for, the
    next one hears first, as over the serial port that the agent talks through.
    """

    def __init__(
        self, path: Path, frozen: Callable[[bool], object] = lambda is_frozen: None, count: int = 2
    ) -> None:
        self.path, self._tell, self._count = path, frozen, count
        self.answers: dict[str, dict[str, Any] | Iterable[bytes] | None] = {}
        self.delays: dict[str, float] = {}
        self._unheard = b""
        self.asked: list[tuple[float, str]] = []
        self.is_frozen = False
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def commands(self) -> list[str]:
        return [name for _, name in self.asked if "sync" not in name]

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        self.path.unlink()

    def settled(self, is_frozen: bool = False, seconds: float = 10.0) -> bool:
        until = time.monotonic() + seconds
        while self.is_frozen != is_frozen and time.monotonic() < until:
            time.sleep(0.01)
        return self.is_frozen == is_frozen

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client, client.makefile("rb") as lines:
                try:
                    client.sendall(self._unheard)
                    self._unheard = b""
                    for line in lines:
                        self._hear(client, line)
                except OSError:
                    continue

    def _hear(self, client: socket.socket, line: bytes) -> None:
        said = json.loads(line.strip(b"\xff\n"))
        name = said["execute"]
        self.asked.append((time.monotonic(), name))
        answer = self.answers.get(name, {})
        time.sleep(self.delays.get(name, 0))
        if isinstance(answer, dict):
            start = b"\xff" if name == "guest-sync-delimited" else b""
            said = answer or self._answer(name, said)
            answer = [start + json.dumps(said).encode() + b"\n"]
        for data in answer or ():
            self._unheard = data
            client.sendall(data)
            self._unheard = b""

    def _answer(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        if name == "guest-sync-delimited":
            return {"return": said["arguments"]["id"]}
        before = self.is_frozen
        if name == "guest-fsfreeze-freeze" and before:
            return {"error": {"class": "GenericError", "desc": "it is frozen already"}}
        self.is_frozen = name == "guest-fsfreeze-freeze"
        if before != self.is_frozen:
            self._tell(self.is_frozen)
        return {"return": self._count if before or self.is_frozen else 0}
