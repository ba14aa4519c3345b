"""What a limit looks like on the wire: a backup and a restore through a relay that counts bytes.

    python -m perf.wire [--rate RATE]... [--connections N]... [--seconds N]

The relay stands between a machine and its vault, in a process of its own with small socket buffers,
and counts in bins of 50 ms. Printed as ratios to the limit, from the second second to the last but
half a second: the mean, and the worst windows of 1 s and of 250 ms; and the first second by itself.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import transfer
from perf.machine import machine
from perf.relay import BIN, Relay
from transfer.formats import credential
from transfer.jobs.keyring import Secret
from transfer.jobs.register import register
from transfer.policy.rates import parse_rate

WIDE = 0.05  # seconds of a bin in the figures
_FINE = round(WIDE / BIN)
PASSPHRASE = "a passphrase for nothing but figures"
_COMMAND = [sys.executable, "-m", "transfer", "vault"]
_RATES, _CONNECTIONS = ("512kbit", "5M", "50M"), (1, 16)


class Shape(NamedTuple):
    """Ratios to the limit."""

    first: float
    mean: float
    worst_second: float
    worst_quarter: float


def shape(bins: Counter[int], rate: int, began: float, ended: float) -> Shape:
    filled = [
        sum(bins[at] for at in range(first, first + _FINE))
        for first in range(int(began / BIN), int(ended / BIN), _FINE)
    ]
    while filled and not filled[0]:
        filled.pop(0)
    while filled and not filled[-1]:
        filled.pop()
    rest = filled[20:-10] or filled
    return Shape(
        sum(filled[:20]) / rate, sum(rest) / (len(rest) * WIDE * rate), _worst(rest, 20, rate),
        _worst(rest, 5, rate),
    )  # fmt: skip


def _worst(bins: list[int], width: int, rate: int) -> float:
    windows = (sum(bins[at : at + width]) for at in range(max(1, len(bins) - width + 1)))
    return max(windows) / (width * WIDE * rate)


async def measure(
    top: Path, rate: int, seconds: float, connections: int
) -> list[tuple[str, Shape]]:
    (source := top / "source").write_bytes(os.urandom(int(rate * seconds)))
    times = []
    with served(top) as port, Relay(port) as relay:
        await registered(top, relay.port)
        async with transfer.connect(
            state=top / "state", passphrase=PASSPHRASE, connections=connections
        ) as client:
            times.append(time.monotonic())
            async with client.backup("item", [source], up=rate) as up:
                await up.result()
            times.append(time.monotonic())
            async with client.restore("item", to=top / "back", down=rate) as down:
                await down.result()
            times.append(time.monotonic())
    counted = relay.counted
    return [
        ("up", shape(counted.up, rate, times[0], times[1])),
        ("down", shape(counted.down, rate, times[1], times[2])),
    ]


@contextmanager
def served(top: Path) -> Iterator[int]:
    """The port of a server in a process of its own, whose log of requests is *top*/log."""
    _vault("init", top / "vault")
    listen = ("--listen", "127.0.0.1:0", "--log-requests")
    command = [*_COMMAND, "serve", str(top / "vault"), *listen]
    with (
        (top / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline().rpartition(":")[2])
        finally:
            server.terminate()


def _vault(*words: object) -> None:
    subprocess.run([*_COMMAND, *map(str, words), "--quiet"], check=True)


async def registered(top: Path, port: int) -> None:
    url = f"https://127.0.0.1:{port}"
    _vault("credentials", top / "vault", "--out", top / "credential", "--url", url)
    made = credential.decode((top / "credential").read_bytes())
    await register(top / "state", made, Secret(lambda _: PASSPHRASE), "bench")


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
