"""A path between two network namespaces, with a rate, a delay and losses that real TCP sees.

    python -m perf.path

Two TUN devices, one in the namespace in which it starts (NEAR) and one in a namespace of its own
(FAR), and between them this process, which holds every packet for as long as the path would, and
drops what its queue has no room for. TCP on both sides is reno, which any namespace may choose.
Lines of `rate delay loss` in its input, in bytes a second, seconds one way and a share, hold from
then on. It prints `ready`, and ends with its input. Needs root, `ip` and /dev/net/tun. A processor
carries some 30,000 packets a second.
"""

import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path as File
from typing import NamedTuple, Self

NEAR, FAR = "10.99.0.1", "10.99.0.2"
_TUNSETIFF, _TUN, _NO_INFO = 0x400454CA, 1, 0x1000
_NEWNET = 0x40000000
_QUEUE = 0.1  # seconds of the rate that wait in a router
_LEAST_QUEUE = 30_000  # bytes


class Shape(NamedTuple):
    rate: float
    delay: float
    loss: float = 0.0

    def __str__(self) -> str:
        return f"{self.rate} {self.delay} {self.loss}"


class Way:
    """One direction: packets from one device to the other."""

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0

    def take(self, shape: Shape) -> None:
        """What has come; some of it is lost, and what the queue does not hold."""
        now = time.monotonic()
        while True:
            try:
                packet = os.read(self.source, 65_536)
            except BlockingIOError:
                return
            waits = max(0.0, self._free_at - now)
            queue = max(_QUEUE, _LEAST_QUEUE / shape.rate)
            if waits > queue or random.random() < shape.loss:
                continue
            self._free_at = now + waits + len(packet) / shape.rate
            self._under_way.append((self._free_at + shape.delay, packet))

    def give(self) -> float | None:
        """Hand on what is due; the moment of the next."""
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            os.write(self.target, self._under_way.popleft()[1])
        return self._under_way[0][0] if self._under_way else None


def _device(name: str) -> int:
    made = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(made, _TUNSETIFF, struct.pack("16sH22s", name.encode(), _TUN | _NO_INFO, b""))
    return made


def _up(name: str, address: str, peer: str) -> None:
    File("/proc/sys/net/ipv4/tcp_congestion_control").write_text("reno")
    for words in (
        ("addr", "add", address, "peer", peer, "dev", name),
        ("link", "set", name, "mtu", "1500", "txqueuelen", "2000", "up"),
        ("link", "set", "lo", "up"),
    ):
        subprocess.run(["ip", *words], check=True)


def main() -> int:
    near = _device("near0")
    _up("near0", NEAR, FAR)
    if ctypes.CDLL(None, use_errno=True).unshare(_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    far = _device("far0")
    _up("far0", FAR, NEAR)
    ways = [Way(near, far), Way(far, near)]
    print("ready", flush=True)
    shape, due = Shape(1e9, 0.0), None
    while True:
        wait = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([near, far, 0], [], [], wait)
        if 0 in readable:
            line = os.read(0, 1000).decode()
            if not line:
                return 0
            shape = Shape(*map(float, line.splitlines()[-1].split()))
        for way in ways:
            if way.source in readable:
                way.take(shape)
        due = min((at for way in ways if (at := way.give()) is not None), default=None)


class Path:
    """That process; *enter* is what a command begins with that runs on the far side."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "perf.path"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "no path: it needs root, ip and tun"
        self.enter = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def is_now(self, shape: Shape) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{shape}\n".encode())
        self._process.stdin.flush()


def alone(module: str, words: list[str]) -> None:
    """Run *module* again in a network namespace of its own, if it is not in one."""
    if os.environ.get("PERF_ALONE") != "1":
        os.environ["PERF_ALONE"] = "1"
        os.execvp("unshare", ["unshare", "-n", sys.executable, "-m", module, *words])


if __name__ == "__main__":
    raise SystemExit(main())
