"""A TCP proxy between a machine and its vault that does harm once, where it is told."""

import socket
import threading
import time
from contextlib import suppress
from typing import NamedTuple, Self

KINDS = ("cut", "stall", "corrupt", "delay", "close", "reset")
STALL = 2.0  # seconds
DELAY = 0.05


class Harm(NamedTuple):
    """After *at* bytes in the direction *way*: "up" is to the vault."""

    kind: str
    way: str
    at: int


class Proxy:
    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._all: set[socket.socket] = set()
        self.expect(None)

    def expect(self, harm: Harm | None) -> None:
        """Count from here on; *harm* is done once."""
        with self._lock:
            self.seen = {"up": 0, "down": 0}
            self._harm, self.done = harm, False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:  # closed
                return
            self._all |= {near, far}
            for source, target, way in ((near, far, "up"), (far, near, "down")):
                given = (source, target, way)
                threading.Thread(target=self._pass_on, args=given, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with suppress(OSError):
            while data := source.recv(16 * 1024):
                data = self._harmed(data, way, source)
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._all -= {source}
        source.close()

    def _harmed(self, data: bytes, way: str, source: socket.socket) -> bytes:
        with self._lock:
            at = self.seen[way]
            self.seen[way] += len(data)
            harm = self._harm
            if harm is None or harm.way != way or self.seen[way] <= harm.at:
                return data
            if harm.kind == "delay":  # from here on, and not once
                self.done = True
            elif self.done:
                return data
            self.done = True
        match harm.kind:
            case "delay":
                time.sleep(DELAY)
            case "stall":
                time.sleep(STALL)
            case "corrupt":
                place = max(0, min(len(data) - 1, harm.at - at))
                return data[:place] + bytes((data[place] ^ 0x40,)) + data[place + 1 :]
            case "cut":
                self._cut()
            case "close":
                raise ConnectionResetError
            case "reset":
                linger = (1).to_bytes(4, "little") + bytes(4)
                source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                raise ConnectionResetError
        return data

    def _cut(self) -> None:
        for each in list(self._all):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
