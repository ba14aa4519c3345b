"""Connections: a static number of them against `auto`, on paths with a rate, a delay and losses.

    python -m perf.concurrency [--path NAME]... [--connections N]... [--restore]
                               [--after S] [--for S] [--size MIB]

Bytes a second that a backup of random bytes brings to the vault, or with --restore a restore of
them from it, from S seconds after its start on; with `auto` also how many connections it had at the
end. The paths are made by `perf.path`: root, `ip` and /dev/net/tun are needed. Last comes what
`auto` brings of what the best number brings.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any

import transfer
from perf.machine import machine
from perf.path import FAR, Path, Shape, alone
from perf.wire import PASSPHRASE
from transfer.formats import credential
from transfer.jobs.keyring import Secret
from transfer.jobs.register import register
from transfer.library import Run
from transfer.net.client import RemoteVault

MIB = 2**20
PATHS = {
    "lan": Shape(40e6, 0.0003),
    "100ms": Shape(12e6, 0.05),
    "100ms-1%": Shape(12e6, 0.05, 0.01),
    "300ms-0.1%": Shape(12e6, 0.15, 0.001),
    "10Mbit": Shape(1.25e6, 0.015),
}
_NUMBERS = (1, 2, 4, 8, 16, 32, 64)
_COMMAND = [sys.executable, "-m", "transfer", "vault"]


@contextmanager
def served(top: File, path: Path) -> Iterator[None]:
    """A vault on the far side of *path*, and a machine that is registered with it."""
    vault, url = top / "vault", f"https://{FAR}:8443"
    subprocess.run([*_COMMAND, "init", str(vault), "--quiet"], check=True)
    command = [*path.enter, *_COMMAND, "serve", str(vault), "--listen", f"{FAR}:8443"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            server.stdout.readline()
            out = top / "credential"
            words = ["credentials", str(vault), "--out", str(out), "--url", url, "--quiet"]
            subprocess.run([*_COMMAND, *words], check=True)
            made = credential.decode(out.read_bytes())
            asyncio.run(register(top / "state", made, Secret(lambda _: PASSPHRASE), "bench"))
            yield
        finally:
            server.terminate()


async def goodput(
    top: File, source: File, connections: int | None, after: float, seconds: float, down: bool
) -> tuple[float, int]:
    """(bytes a second, connections at the end), of a run that does not come to its end."""
    async with transfer.connect(
        state=top / "state", passphrase=PASSPHRASE, connections=connections
    ) as client:
        vault = client._agent.vault
        assert isinstance(vault, RemoteVault)
        with contextlib.suppress(asyncio.CancelledError):
            run: Run[Any] = client.backup("item", [source], full=True)
            if down:
                run = client.restore("item", top / "back")
            async with run:
                await asyncio.wait({run._task}, timeout=after)
                began, before = time.monotonic(), _moved(vault)
                await asyncio.wait({run._task}, timeout=seconds)
                found = (_moved(vault) - before) / (time.monotonic() - began), vault.connections
                assert not run._task.done(), "the source is too small"
        return found


def _moved(vault: RemoteVault) -> int:
    traffic = vault.traffic
    return traffic.sent + traffic.received if traffic else 0


async def _filled(top: File, source: File) -> None:
    async with (
        transfer.connect(state=top / "state", passphrase=PASSPHRASE) as client,
        client.backup("item", [source]) as run,
    ):
        await run.result()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--path", action="append", choices=PATHS)
    parser.add_argument("--connections", action="append", type=int, metavar="N")
    parser.add_argument("--after", type=float, default=20.0, metavar="S")
    parser.add_argument("--for", dest="seconds", type=float, default=20.0, metavar="S")
    parser.add_argument("--restore", action="store_true")
    parser.add_argument("--size", type=int, default=900, metavar="MIB", help="of the source")
    args = parser.parse_args(argv)
    alone("perf.concurrency", sys.argv[1:] if argv is None else argv)
    numbers = args.connections or list(_NUMBERS)
    with tempfile.TemporaryDirectory(prefix="transfer-concurrency-") as name, Path() as path:
        source = File(name) / "source"
        print(machine(File(name)), flush=True)
        print(f"{'MB/s':<12}" + "".join(f"{n:>8}" for n in numbers) + f"{'auto':>16}{'of best':>9}")
        for each in args.path or PATHS:
            row = []
            print(f"{each:<12}", end="", flush=True)
            for number in [*numbers, None]:
                top = File(name) / f"{each}-{number}"
                top.mkdir()
                with source.open("wb") as file:
                    for _ in range(args.size):
                        file.write(os.urandom(MIB))
                path.is_now(Shape(1e9, 0.0))
                with served(top, path):
                    if args.restore:
                        asyncio.run(_filled(top, source))
                    path.is_now(PATHS[each])
                    found, had = asyncio.run(
                        goodput(top, source, number, args.after, args.seconds, args.restore)
                    )
                row.append(found)
                shown = f"{found / 1e6:.2f}" + ("" if number else f" ({had})")
                print(f"{shown:>{8 if number else 16}}", end="", flush=True)
                subprocess.run(["rm", "-rf", str(top)], check=True)
            print(f"{row[-1] / max(row):>9.0%}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
