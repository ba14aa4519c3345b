"""Time, stored bytes and memory of transfer beside restic, on an image, on noise and on a tree.

    python -m perf.bench [--far] [--runs N] [--only NAME]... [--quick] [--json FILE]

Everything happens below TMPDIR, which needs some 20 GB, and is gone at the end. The order of the
programs rotates from run to run. Before each command the source is read once, so that all find it
in the page cache, and what others wrote is synced. Times are those of whole commands, start-up
included; memory is the largest sum of Pss of a command's processes, sampled every 100 ms. With
--far each program's store is behind HTTPS on loopback: `transfer vault serve`, and restic's with
`rclone serve restic`; CPU seconds and memory are then those of both sides.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from perf import data, far_tools
from perf.far_tools import Served, cpu_of
from perf.pss import Sampler
from perf.tools import Tool, available

GIB, MIB = 2**30, 2**20
STEPS = ("first backup", "unchanged", "unchanged, all read", "restore")


class Work(NamedTuple):
    """Something to back up; *size* is of the full benchmark, *quick* of a try."""

    name: str
    make: Callable[[Path, int], Path]
    size: int
    quick: int
    unit: str


class Measured(NamedTuple):
    """Times in seconds, memory in bytes; those of a server are 0 where there is none."""

    seconds: float
    pss: int
    cpu: float = 0.0
    server_cpu: float = 0.0
    server_pss: int = 0


WORKS = (
    Work("image", data.image, 4 * GIB, 16 * MIB, "bytes"),
    Work("incompressible", data.incompressible, 2 * GIB, 8 * MIB, "bytes"),
    Work("tree", data.many_files, 100_000, 200, "files"),
)


def measure(command: list[str], tool: Tool) -> Measured:
    """Raises CalledProcessError with what the command said, if it fails."""
    server = tool.server.pid if isinstance(tool, Served) and tool.server else None
    before = cpu_of(server) if server else 0.0
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=tool.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=errors,
        )  # fmt: skip
        with Sampler(process.pid) as sampler, Sampler(server or 0) as serving:
            # What the command's own processes took is counted with it once it has waited for them.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, stderr=errors.read())
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(
        seconds, sampler.peak, cpu, cpu_of(server) - before if server else 0.0, serving.peak
    )


def warm(source: Path) -> None:
    files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(MIB):
                pass
    os.sync()


def one_run(tool: Tool, source: Path) -> Iterator[tuple[str, Measured, int]]:
    """(step, what it took, bytes in the store after it); the store is new, and left behind."""
    tool.reset()
    target = tool.top / "restored"
    target.mkdir()
    commands = (
        tool.backup(source), tool.backup(source), tool.backup(source, everything=True),
        tool.restore(target),
    )  # fmt: skip
    for step, command in zip(STEPS, commands, strict=True):
        warm(source)
        yield step, measure(command, tool), tool.stored()
    assert any(target.iterdir()), f"{tool.name} restored nothing"


Results = dict[tuple[str, str, str], list[Measured]]


def compare(
    works: list[Work], tools: list[Tool], runs: int, quick: bool, top: Path
) -> tuple[Results, dict[tuple[str, str], list[int]]]:
    """What each step took, by (work, tool, step); and bytes stored by the first backup."""
    took: Results = {}
    stored: dict[tuple[str, str], list[int]] = {}
    for work in works:
        source = work.make(top / work.name, work.quick if quick else work.size)
        for run in range(runs):
            for tool in tools[run % len(tools) :] + tools[: run % len(tools)]:
                for step, measured, size in one_run(tool, source):
                    took.setdefault((work.name, tool.name, step), []).append(measured)
                    if step == STEPS[0]:
                        stored.setdefault((work.name, tool.name), []).append(size)
                tool.close()
                shutil.rmtree(tool.top)
        shutil.rmtree(source) if source.is_dir() else source.unlink()
    return took, stored


def spread(values: list[float], form: str) -> str:
    """median [least-most]"""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} [{least:{form}}-{most:{form}}]"


def table(
    works: list[Work], tools: list[Tool], took: Results, stored: dict[tuple[str, str], list[int]]
) -> Iterator[str]:
    names = [tool.name for tool in tools]
    for work in works:
        yield ""
        yield _row(work.name, names, "restic / transfer" if len(names) > 1 else "")
        for step in STEPS:
            seconds = [[m.seconds for m in took[work.name, name, step]] for name in names]
            yield _row(f"{step}, s", [spread(each, ".2f") for each in seconds], _ratio(seconds))
        sizes = [[size / MIB for size in stored[work.name, name]] for name in names]
        yield _row("stored, MiB", [spread(each, ".1f") for each in sizes], _ratio(sizes))
        for step in STEPS:
            peaks = [[m.pss / MIB for m in took[work.name, name, step]] for name in names]
            yield _row(f"memory of {step}, MiB", [spread(each, ".0f") for each in peaks], "")
        yield from _both_sides(work.name, names, took)


def _both_sides(work: str, names: list[str], took: Results) -> Iterator[str]:
    """CPU of client and server, and the server's memory."""
    for step in STEPS:
        many = [took[work, name, step] for name in names]
        cells = [
            f"{statistics.median(m.cpu for m in each):.2f} + "
            f"{statistics.median(m.server_cpu for m in each):.2f}"
            for each in many
        ]
        totals = [[m.cpu + m.server_cpu for m in each] for each in many]
        yield _row(f"CPU of {step}, s", cells, _ratio(totals))
    if any(m.server_pss for name in names for m in took[work, name, STEPS[0]]):
        peaks = [
            [max(took[work, name, step][run].server_pss for step in STEPS) / MIB
             for run in range(len(took[work, name, STEPS[0]]))]
            for name in names
        ]  # fmt: skip
        yield _row("memory of the server, MiB", [spread(each, ".0f") for each in peaks], "")


def _row(name: str, cells: list[str], last: str) -> str:
    return f"{name:<36}" + "".join(f"{cell:>24}" for cell in cells) + f"{last:>20}"


def _ratio(values: list[list[float]]) -> str:
    if len(values) < 2 or not statistics.median(values[0]):
        return ""
    return f"{statistics.median(values[1]) / statistics.median(values[0]):.2f}"


def machine(top: Path) -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, "
        f"Linux {platform.release()}, {file_system(top)}, Python {platform.python_version()}"
    )


def file_system(top: Path) -> str:
    """The type of the file system that holds *top*."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(len(place), kind) for place, kind in mounts if top.resolve().is_relative_to(place)]
    return max(holding)[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--far", action="store_true", help="stores behind HTTPS, on loopback")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--only", action="append", choices=[work.name for work in WORKS])
    parser.add_argument("--quick", action="store_true", help="little data: does it run at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every single figure")
    args = parser.parse_args(argv)
    works = [work for work in WORKS if args.only is None or work.name in args.only]
    with tempfile.TemporaryDirectory(prefix="transfer-bench-") as name:
        top = Path(name)
        tools = far_tools.available(top) if args.far else available(top)
        print(machine(top))
        print("; ".join(tool.version() for tool in tools))
        for work in works:
            print(f"{work.name}: {work.quick if args.quick else work.size} {work.unit}")
        print(f"{args.runs} runs, order rotated; median [least-most]", flush=True)
        took, stored = compare(works, tools, args.runs, args.quick, top)
    print("\n".join(table(works, tools, took, stored)))
    if args.json:
        figures = [[*key, *measured] for key, many in took.items() for measured in many]
        args.json.write_text(json.dumps({"took": figures, "stored": [*map(list, stored.items())]}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
