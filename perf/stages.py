"""Each stage's own speed on one core, and its share in a backup and a restore over HTTPS.

The stages are the engine's own functions on a sample of the work's data, so that a share is what
the run's bytes would take at that speed, in core seconds, beside the CPU seconds that the run took.
Start and end are what a run takes that moves next to nothing. What is left is no stage: Python
around each block and file, HTTP, file names.
The last line of each table says what the run was bound by.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perf import results, works
from perf.far_tools import FarTransfer
from perf.measured import Measured, measure
from perf.sample import sample
from perf.stage_speeds import Speed, speeds
from perf.tables import lines
from transfer.formats.stream import DEFAULT_BLOCK

MIB = 2**20
BUSY = 0.85  # of what there is: more is all of it, for what no sample sees


def configure(parser: argparse.ArgumentParser) -> None:
    results.configure(parser)
    add = parser.add_argument
    add("--only", action="append", choices=[work.name for work in works.WORKS], metavar="WORK",
        help="as of compare; may be repeated (default: image, tree)")  # fmt: skip
    add("--data", type=Path, metavar="DIR", help="as of compare")
    add("--sample", type=int, default=128, metavar="MIB", help="of each work (default: 128)")


def run(args: argparse.Namespace) -> int:
    with results.place(args) as top:
        document = results.head("stages", top) | {"works": {}}
        for work in works.chosen(args.only or ["image", "tree"]):
            source = works.made(work, args.quick, args.data or top / "data")
            found = list(_speeds(source, (2 if args.quick else args.sample) * MIB, top))
            print("", *lines(_speed_rows(work.name, found)), sep="\n")
            shares = []
            for step, measured, least in _runs(source, top):
                share = shared(step, measured, least, found, len(os.sched_getaffinity(0)))
                print("", *lines(_share_rows(work.name, share)), share.bound, sep="\n", flush=True)
                shares.append(share)
            document["works"][work.name] = _kept(found, shares)
            results.keep(args.json, document)
    return 0


def _speeds(source: Path, size: int, top: Path) -> Iterator[Speed]:
    place = top / "stages"
    place.mkdir()
    yield from speeds(sample(source, size), place)
    works.remove(place)


def _speed_rows(work: str, found: Sequence[Speed]) -> Iterator[list[str]]:
    yield [f"{work}: stages on one core", "", "where", "of a core", "us each"]
    for each in found:
        per = 1 if each.unit == "rows" else MIB
        kind = "plain" if each.unit == "new" else each.unit
        unit = "rows/s" if each.unit == "rows" else f"MiB/s {kind}"
        yield [
            each.name, f"{each.rate / per:.0f} {unit}", each.side,
            f"{each.cpu / max(each.wall, 1e-9):.0%}", f"{each.cpu / each.amount * per * 1e6:.0f}",
        ]  # fmt: skip


def _runs(source: Path, top: Path) -> Iterator[tuple[str, Measured, Measured]]:
    """(step, what it took, what it takes for a file of a few bytes)."""
    tool = FarTransfer(top / "transfer")
    (small := top / "small").write_bytes(b"next to nothing")
    least, whole = (_both(tool, each) for each in (small, source))
    for step, little, much in zip(("backup", "restore"), least, whole, strict=True):
        yield step, much, little


def _both(tool: FarTransfer, source: Path) -> list[Measured]:
    """A first backup, and a restore onto a new place."""
    tool.reset()
    try:
        works.warm(source)
        backup = measure(tool.backup(source), tool)
        target = tool.top / "restored"
        target.mkdir()
        os.sync()
        return [backup, measure(tool.restore(source, target), tool)]
    finally:
        tool.close()
        works.remove(tool.top)


class Part(NamedTuple):
    """Core seconds of one stage in a run, and the bytes or rows that it moved."""

    name: str
    side: str
    unit: str
    amount: int
    cpu: float
    wall: float


class Shares(NamedTuple):
    """Of one run; *parts* are the stages in their order, then what is left on either side."""

    step: str
    seconds: float
    cores: int
    cpu: float
    server_cpu: float
    parts: list[Part]
    bound: str


def shared(
    step: str, measured: Measured, least: Measured, found: Sequence[Speed], cores: int
) -> Shares:
    """*least* is of a run that moves nothing; *cores* are there for both sides."""
    amounts = _amounts(step, measured.said)
    parts = [
        Part(
            each.name, each.side, each.unit, amounts[each.unit],
            each.cpu / each.amount * amounts[each.unit],
            each.wall / each.amount * amounts[each.unit],
        )
        for each in found if step in each.of and each.amount
    ]  # fmt: skip
    served = measured.server_cpu or 0.0
    for side, start, cpu in (
        ("client", least.cpu, measured.cpu), ("server", least.server_cpu or 0.0, served),
    ):  # fmt: skip
        parts.append(Part(f"start and end of the {side}", side, "", 0, start, start))
        left = max(0.0, cpu - sum(_on(side, part) for part in parts))
        parts.append(Part(f"all else of the {side}", side, "", 0, left, left))
    bound = bottleneck(parts, measured.seconds, measured.cpu, served, cores)
    return Shares(step, measured.seconds, cores, measured.cpu, served, parts, bound)


def _on(side: str, part: Part) -> float:
    """Its core seconds there; of both ends, half."""
    return part.cpu if part.side == side else part.cpu / 2 if part.side == "both" else 0.0


def _amounts(step: str, said: dict[str, int]) -> dict[str, int]:
    if step == "restore":
        written = said["bytes_written"]
        return {"new": written, "plain": written, "sealed": said["bytes_received"], "rows": 0}
    new = min(said["bytes_read"], said["blocks_new"] * DEFAULT_BLOCK)
    return {"new": new, "plain": said["bytes_read"], "sealed": said["bytes_sent"],
            "rows": said["blocks_new"] + said["nodes_new"]}  # fmt: skip


def bottleneck(
    parts: Sequence[Part], seconds: float, cpu: float, server_cpu: float, cores: int
) -> str:
    """What would have to be faster, in one line."""
    busy = (cpu + server_cpu) / (seconds * cores)
    largest = max(parts, key=lambda part: part.cpu)
    share = f"{largest.name} takes {largest.cpu / (cpu + server_cpu):.0%} of it"
    if busy >= BUSY:
        return f"bound by CPU: {busy:.0%} of {cores} cores, and {share}"
    if server_cpu >= BUSY * seconds:
        return f"bound by the server: {server_cpu / seconds:.0%} of one core"
    waits = max(parts, key=lambda part: part.wall - part.cpu)
    waited = waits.wall - waits.cpu
    if waited >= (1 - busy) * seconds / 2:
        return f"bound by waiting for the disk: {waits.name} waits {waited:.1f} of {seconds:.1f} s"
    return f"bound by turns: {cores} cores are {busy:.0%} busy, no stage waits long; {share}"


def _share_rows(work: str, shares: Shares) -> Iterator[list[str]]:
    title = f"{work}, {shares.step}: {shares.seconds:.2f} s, CPU {shares.cpu:.2f} + "
    yield [f"{title}{shares.server_cpu:.2f} s", "moved", "core s", "of all CPU"]
    every = shares.cpu + shares.server_cpu
    for part in shares.parts:
        moved = f"{part.amount} rows" if part.unit == "rows" else f"{part.amount / MIB:.0f} MiB"
        yield [
            part.name, moved if part.unit else "", f"{part.cpu:.2f}", f"{part.cpu / every:.1%}",
        ]  # fmt: skip


def _kept(found: Sequence[Speed], shares: Sequence[Shares]) -> dict[str, Any]:
    runs = [
        {**each._asdict(), "parts": [part._asdict() for part in each.parts]} for each in shares
    ]  # fmt: skip
    return {"stages": [each._asdict() for each in found], "runs": runs}
