"""Cost against size: files of a tree, the size of a sparse disk, points of an item.

Each step is a whole `transfer` command with a vault in a directory. Metadata is all of the store
but packs of data: pages, nodes, the catalog, records. Below each table is how the costs grow, as
exponents of the size: 1 is in proportion, 0 is flat.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from perf import fit, results, works
from perf.measured import measure
from perf.scale_series import SERIES, Series
from perf.tables import lines
from perf.tools import Transfer

MIB = 2**20


class Cost(NamedTuple):
    """Of one step at one size; sizes in bytes. *metadata* is what the store has afterwards."""

    series: str
    unit: str
    size: int
    step: str
    seconds: float
    cpu: float
    pss: int
    metadata: int


def configure(parser: argparse.ArgumentParser) -> None:
    results.configure(parser)
    add = parser.add_argument
    add("--only", action="append", choices=SERIES, metavar="SERIES",
        help=f"{', '.join(SERIES)}; may be repeated")  # fmt: skip
    add("--most", type=int, metavar="N",
        help="leave out sizes above N, but for the two least of a series: files, points, or GiB "
        "of images")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    with results.place(args) as top:
        document = results.head("scale", top)
        costs: list[Cost] = []
        for name in args.only or SERIES:
            (place := top / name).mkdir()
            series = SERIES[name](place)
            found = list(measured(series, chosen(series, args.most, args.quick)))
            works.remove(place)
            print("", *table(found), sep="\n", flush=True)
            costs += found
            document["costs"] = [cost._asdict() for cost in costs]
            document["growth"] = dict(grown(costs))
            results.keep(args.json, document)
    return 0


def chosen(series: Series, most: int | None, quick: bool) -> list[int]:
    sizes = list(series.quick if quick else series.sizes)
    return sizes[:2] + [size for size in sizes[2:] if most is None or size <= most]


def measured(series: Series, sizes: Sequence[int]) -> Iterator[Cost]:
    """What was restored stays: ext4 makes a file the slower, the more were removed just before."""
    for size in sizes:
        series.grow(size)
        tool = Transfer(series.top / f"transfer-{size}")
        tool.reset()
        target = tool.top / "restored"
        target.mkdir()
        series.prepare(tool, size)
        for step, command in series.commands(tool, target):
            os.sync()
            took = measure(command, tool)
            yield Cost(
                series.name, series.unit, size, step, took.seconds, took.cpu, took.pss,
                metadata(tool),
            )  # fmt: skip


def metadata(tool: Transfer) -> int:
    """Bytes of the store that are in no pack of data."""
    data = tool.store.glob("packs/*/data/*/*")
    return tool.stored() - sum(path.stat().st_size for path in data)


def by_step(costs: Sequence[Cost]) -> dict[tuple[str, str], list[Cost]]:
    found: dict[tuple[str, str], list[Cost]] = {}
    for cost in costs:
        found.setdefault((cost.series, cost.step), []).append(cost)
    return found


def grown(costs: Sequence[Cost]) -> Iterator[tuple[str, str]]:
    """How each cost of each step grows, by "SERIES, STEP"."""
    for (series, step), every in by_step(costs).items():
        sizes = [cost.size for cost in every]
        columns = {
            "time": [cost.seconds for cost in every],
            "CPU": [cost.cpu for cost in every],
            "memory": [float(cost.pss) for cost in every],
            "metadata": [float(cost.metadata) for cost in every],
        }
        text = "; ".join(fit.said(what, sizes, column) for what, column in columns.items())
        yield f"{series}, {step}", text


def table(costs: Sequence[Cost]) -> Iterator[str]:
    """Of one series."""
    rows = [[costs[0].series, "step", "s", "CPU s", "Pss, MiB", "metadata, MiB"]]
    rows += [
        [
            f"{cost.size:,} {cost.unit}", cost.step, f"{cost.seconds:.2f}", f"{cost.cpu:.2f}",
            f"{cost.pss / MIB:.0f}", f"{cost.metadata / MIB:.2f}",
        ]
        for cost in costs
    ]  # fmt: skip
    yield from lines(rows)
    yield from (f"{name}: {text}" for name, text in grown(costs))
