"""What an incremental costs whose changes are known: seconds from the session to the commit.

    python -m perf.incremental [--runs N] [--case NAME]...

Each case is an idle qcow2 disk, backed up over HTTPS on loopback with its server as a
process of its own; the changes are written by qemu-io with a fixed seed before each run. Prints a
line a run and the medians, and the peak of memory of all processes of the run.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from perf.pss import Sampler
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell, end_all

MIB, GIB = 2**20, 2**30


class Case(NamedTuple):
    """*runs* writes of *length* bytes each, at random places of a disk of *size* bytes."""

    size: int
    filled: int
    runs: int
    length: int
    budget: float


CASES = {
    "4g": Case(4 * GIB, 3 * GIB, 41, 4096, 1.0),
    "1t-runs": Case(1024 * GIB, 0, 1024, 65536, 3.0),
    "1t-scattered": Case(1024 * GIB, 0, 16384, 4096, 15.0),
}


def write(disk: Path, commands: list[str]) -> None:
    subprocess.run(
        ["qemu-io", "-f", "qcow2", str(disk)], input="\n".join([*commands, ""]), text=True,
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def changes(case: Case, seed: int) -> list[str]:
    chosen = random.Random(seed)
    places = sorted(chosen.sample(range(case.size // case.length), case.runs))
    return [
        f"write -q -P {1 + (seed + at) % 255} {at * case.length} {case.length}" for at in places
    ]


def measured(name: str, runs: int, top: Path) -> list[float]:
    case, disk = CASES[name], top / f"{name}.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(disk), str(case.size)], check=True
    )
    chosen = random.Random(0)
    for at in range(0, case.filled, 64 * MIB):
        write(disk, [f"write -q -P {chosen.randrange(1, 256)} {at} 48M"])
    write(disk, changes(case, 0))
    shell, server = Shell(top / name, far=True, forks=False), Server(top / name / "vault").start()
    server.register(shell)
    shell("backup", "disk", f"qcow2:{disk}")
    taken = []
    for run in range(1, runs + 1):
        write(disk, changes(case, run))
        process = shell.start("backup", "disk", f"qcow2:{disk}")
        with Sampler(process.pid) as sampler:
            result = shell.finish(process)
        assert [each["why"] for each in result["disks"]] == [""], result["disks"]
        taken.append(result["seconds"])
        print(json.dumps({
            "case": name, "seconds": result["seconds"], "read": result["bytes_read"],
            "sent": result["bytes_sent"], "blocks": result["blocks_new"],
            "nodes": result["nodes_new"], "memory": sampler.peak,
        }), flush=True)  # fmt: skip
    server.end()
    return taken


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="perf.incremental", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--case", action="append", choices=CASES)
    args = parser.parse_args(words)
    try:
        with tempfile.TemporaryDirectory(prefix="transfer-incremental-") as place:
            for name in args.case or CASES:
                (Path(place) / name).mkdir()
                taken = measured(name, args.runs, Path(place))
                middle, budget = statistics.median(taken), CASES[name].budget
                spread = f"{min(taken):.2f} to {max(taken):.2f}"
                print(f"{name}: median {middle:.2f} s ({spread}), budget {budget:g} s", flush=True)
    finally:
        end_all()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
