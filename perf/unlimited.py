"""What the throttle costs where nothing is limited: a backup and a restore with it and without.

    python -m perf.unlimited [--pairs N] [--size SIZE]

The same client with its flows and with flows that do nothing, in the order A B B A, each time with
other data. Printed is how much longer it took with the throttle: the median, and every pair.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transfer
from perf.machine import machine
from perf.wire import PASSPHRASE, registered, served
from transfer.policy.rates import parse_size
from transfer.policy.token_bucket import MAX_QUANTUM
from transfer.throttle.throttle import Throttle


class NoFlow:
    quantum, limited, waited = MAX_QUANTUM, False, 0.0

    async def take(self, amount: int) -> None: ...
    async def spent(self, amount: int) -> None: ...
    def charge(self, amount: int) -> None: ...


@contextmanager
def without_throttle(wanted: bool) -> Iterator[None]:
    flow = Throttle.flow
    if wanted:
        Throttle.flow = lambda *_: NoFlow()  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Throttle.flow = flow  # type: ignore[method-assign]


async def once(top: Path, size: int, without: bool) -> tuple[float, float]:
    """Seconds of a backup and of its restore."""
    (source := top / "source").write_bytes(os.urandom(size))
    os.sync()
    with without_throttle(without):
        async with transfer.connect(state=top / "state", passphrase=PASSPHRASE) as client:
            times = [time.perf_counter()]
            async with client.backup("item", [source]) as up:
                await up.result()
            times.append(time.perf_counter())
            async with client.restore("item", to=top / "back") as down:
                await down.result()
            times.append(time.perf_counter())
    (top / "back").unlink()
    return times[1] - times[0], times[2] - times[1]


async def pair(top: Path, size: int, number: int) -> tuple[float, float]:
    """How many times as long with the throttle."""
    with served(top) as port:
        await registered(top, port)
        await once(top, size, False)  # so that the first of them is not the one that warms up
        first = bool(number % 2)
        runs = [
            (each, await once(top, size, each)) for each in (first, not first, not first, first)
        ]
    sums = {
        which: [sum(times) for times in zip(*(t for each, t in runs if each == which), strict=True)]
        for which in (False, True)
    }
    return sums[False][0] / sums[True][0], sums[False][1] / sums[True][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--size", default="256M")
    args = parser.parse_args()
    found = []
    for number in range(args.pairs):
        with tempfile.TemporaryDirectory(prefix="transfer-unlimited-") as name:
            if not number:
                print(machine(Path(name)))
            found.append(asyncio.run(pair(Path(name), parse_size(args.size), number)))
    for what, ratios in zip(("backup", "restore"), zip(*found, strict=True), strict=True):
        every = " ".join(f"{ratio - 1:+.1%}" for ratio in ratios)
        print(f"{what:8} {statistics.median(ratios) - 1:+.1%}   ({every})")


if __name__ == "__main__":
    main()
