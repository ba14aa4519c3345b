"""What a limit looks like on the wire: a backup and a restore through a relay that counts bytes.

    python -m perf.wire [--rate RATE]... [--connections N]... [--seconds N]

The relay stands between a machine and its vault, has small socket buffers, and counts in bins of
50 ms. Printed as ratios to the limit, from the second second to the last but half a second: the
mean, and the worst windows of 1 s and of 250 ms; and the first second by itself.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import transfer
from perf.bench import machine
from transfer.formats import credential
from transfer.jobs.keyring import Secret
from transfer.jobs.register import register
from transfer.policy.rates import parse_rate

BIN = 0.05  # seconds
_SMALL = 16 * 1024
_PASSPHRASE = "a passphrase for nothing but figures"
_COMMAND = [sys.executable, "-m", "transfer", "vault"]
_RATES, _CONNECTIONS = ("512kbit", "5M", "50M"), (1, 16)


class Shape(NamedTuple):
    """Ratios to the limit."""

    first: float
    mean: float
    worst_second: float
    worst_quarter: float


class Relay:
    """Between a machine and the vault at *port*: `up` and `down` have the bytes of each bin."""

    def __init__(self, port: int) -> None:
        self._to, self.port = port, 0
        self.up: Counter[int] = Counter()
        self.down: Counter[int] = Counter()

    async def start(self) -> "Relay":
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)
        listener.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=_SMALL)
        self.port = listener.getsockname()[1]
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond = socket.socket()
        beyond.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        beyond.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)
        beyond.setblocking(False)
        await asyncio.get_running_loop().sock_connect(beyond, ("127.0.0.1", self._to))
        from_vault, to_vault = await asyncio.open_connection(sock=beyond, limit=_SMALL)
        with suppress(asyncio.CancelledError):  # the measurement is over
            await asyncio.gather(
                _pump(reader, to_vault, self.up), _pump(from_vault, writer, self.down),
                return_exceptions=True,
            )  # fmt: skip


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bins: Counter[int]
) -> None:
    writer.transport.set_write_buffer_limits(_SMALL)
    try:
        while data := await reader.read(_SMALL // 2):
            bins[int(time.monotonic() / BIN)] += len(data)
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def shape(bins: Counter[int], rate: int, began: float, ended: float) -> Shape:
    filled = [bins[number] for number in range(int(began / BIN), int(ended / BIN))]
    while filled and not filled[0]:
        filled.pop(0)
    while filled and not filled[-1]:
        filled.pop()
    rest = filled[20:-10] or filled
    return Shape(
        sum(filled[:20]) / rate, sum(rest) / (len(rest) * BIN * rate), _worst(rest, 20, rate),
        _worst(rest, 5, rate),
    )  # fmt: skip


def _worst(bins: list[int], width: int, rate: int) -> float:
    windows = (sum(bins[at : at + width]) for at in range(max(1, len(bins) - width + 1)))
    return max(windows) / (width * BIN * rate)


async def measure(
    top: Path, rate: int, seconds: float, connections: int
) -> list[tuple[str, Shape]]:
    (source := top / "source").write_bytes(os.urandom(int(rate * seconds)))
    with _served(top) as port:
        relay = await Relay(port).start()
        await _registered(top, relay.port)
        found = []
        async with transfer.connect(
            state=top / "state", passphrase=_PASSPHRASE, connections=connections
        ) as client:
            began = time.monotonic()
            async with client.backup("item", [source], up=rate) as run:
                await run.result()
            found.append(("up", shape(relay.up, rate, began, time.monotonic())))
            began = time.monotonic()
            async with client.restore("item", to=top / "back", down=rate) as run:
                await run.result()
            found.append(("down", shape(relay.down, rate, began, time.monotonic())))
    return found


@contextmanager
def _served(top: Path) -> Iterator[int]:
    """The port of a server in a process of its own: it shall not wait for the relay's loop."""
    _vault("init", top / "vault")
    command = [*_COMMAND, "serve", str(top / "vault"), "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline().rpartition(":")[2])
    finally:
        server.terminate()
        server.wait()


def _vault(*words: object) -> None:
    subprocess.run([*_COMMAND, *map(str, words), "--quiet"], check=True)


async def _registered(top: Path, port: int) -> None:
    url = f"https://127.0.0.1:{port}"
    _vault("credentials", top / "vault", "--out", top / "credential", "--url", url)
    made = credential.decode((top / "credential").read_bytes())
    await register(top / "state", made, Secret(lambda _: _PASSPHRASE), "bench")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", action="append", metavar="RATE")
    parser.add_argument("--connections", action="append", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each transfer, about")
    args = parser.parse_args(argv)
    head = f"{'':<24}{'first second':>14}{'mean':>10}{'worst 1 s':>12}{'worst 250 ms':>14}"
    with tempfile.TemporaryDirectory(prefix="transfer-wire-") as name:
        print(machine(Path(name)), head, sep="\n", flush=True)
        for number, text in enumerate(args.rate or _RATES):
            for connections in args.connections or _CONNECTIONS:
                top = Path(name) / f"{number}-{connections}"
                top.mkdir()
                rate = parse_rate(text)
                assert rate, f"{text} is no limit"
                for direction, found in asyncio.run(measure(top, rate, args.seconds, connections)):
                    row = f"{text} {direction}, {connections} connections"
                    print(
                        f"{row:<24}{found.first:>14.3f}{found.mean:>10.4f}"
                        f"{found.worst_second:>12.3f}{found.worst_quarter:>14.3f}", flush=True,
                    )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
