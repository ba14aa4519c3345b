"""What a slow limit, or a long pause in the middle, costs: calls that failed, and bytes sent twice.

    python -m perf.patience [--rate RATE] [--size SIZE] [--pause SECONDS] [--connections N]

A backup of incompressible data, and its restore, each paused once half of it is done. The figures
are the server's own: what its log says of each call, and what it stores.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import transfer
from perf.wire import PASSPHRASE, registered, served
from transfer.jobs import control, machine_limits
from transfer.jobs.machine_limits import Override, Overrides
from transfer.jobs.state import StateDirectory
from transfer.policy.rates import parse_rate, parse_size

MIB = 2**20


class Cost(NamedTuple):
    """*failed* are calls that ended in any other way than well."""

    seconds: float
    calls: int
    failed: int
    carried: int


async def paused(state: StateDirectory, after: float, seconds: float) -> None:
    """From *after* seconds on."""
    if not seconds:
        return
    await asyncio.sleep(after)
    for rate in (Override(0), None):
        machine_limits.change(state, lambda _, pause=rate: Overrides(pause=pause))  # type: ignore[misc]
        await asyncio.to_thread(control.tell, state, "reload")
        await asyncio.sleep(seconds if rate else 0)


def calls(log: Path, path: str) -> Iterator[tuple[int, int, int]]:
    """(status, bytes received, bytes sent) of each of that call."""
    for line in log.read_text().splitlines():
        words = line.split()
        if len(words) > 4 and words[3] == path:
            yield int(words[4]), int(words[5]), int(words[6])


def cost(log: Path, path: str, began: float) -> Cost:
    found = list(calls(log, path))
    failed = sum(status != 200 for status, _, _ in found)
    carried = sum(max(received, sent) for _, received, sent in found)
    return Cost(time.monotonic() - began, len(found), failed, carried)


async def measure(
    top: Path, rate: int, size: int, pause: float, connections: int
) -> dict[str, Cost]:
    (source := top / "source").write_bytes(os.urandom(size))
    state, found = StateDirectory(top / "state"), {}
    with served(top) as port:
        await registered(top, port)
        async with transfer.connect(
            state=state.path, passphrase=PASSPHRASE, connections=connections
        ) as client:
            began, half = time.monotonic(), size / rate / 2
            async with client.backup("item", [source], up=rate) as up:
                await asyncio.gather(paused(state, half, pause), up.result())
            found["backup"] = cost(top / "log", "/v1/frames", began)
            began = time.monotonic()
            async with client.restore("item", to=top / "back", down=rate) as down:
                await asyncio.gather(paused(state, half, pause), down.result())
            found["restore"] = cost(top / "log", "/v1/fetch", began)
    assert (top / "back").read_bytes() == source.read_bytes()
    return found


def stored(top: Path) -> int:
    command = [sys.executable, "-m", "transfer", "vault", "stats", str(top / "vault"), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout)["bytes_stored"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", default="512kbit")
    parser.add_argument("--size", default="20M")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--connections", type=int, default=4)
    args = parser.parse_args()
    rate = parse_rate(args.rate)
    assert rate, f"{args.rate} is no limit"
    with tempfile.TemporaryDirectory(prefix="transfer-patience-") as name:
        work = measure(
            Path(name), rate, parse_size(args.size), args.pause, args.connections
        )  # fmt: skip
        found, kept = asyncio.run(work), stored(Path(name))
        print(
            f"stored {kept / MIB:.2f} MiB; {args.connections} connections, pause {args.pause:g} s"
        )
        for what, each in found.items():
            print(
                f"{what:8} {each.seconds:7.1f} s, {each.calls} calls, {each.failed} failed, "
                f"carried {each.carried / MIB:.2f} MiB"
            )


if __name__ == "__main__":
    main()
