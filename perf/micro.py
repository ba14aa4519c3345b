"""Parts of the engine in tight loops: codecs, the limiter, the catalog.

Each loop is warmed up, then run seven times; printed are the median of operations a second and
their spread. Everything runs in this process.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from perf import micro_catalog, micro_codecs, micro_limiter, results
from perf.micro_loop import Loop
from perf.tables import lines

TIMES = 7


class Rate(NamedTuple):
    """*unit* a second, of each time."""

    name: str
    unit: str
    rates: list[float]


def configure(parser: argparse.ArgumentParser) -> None:
    results.configure(parser)
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART",
        help=f"{', '.join(PARTS)}; may be repeated",
    )  # fmt: skip


PARTS: dict[str, Callable[[Path, bool], Iterator[Loop]]] = {
    "codecs": micro_codecs.loops,
    "limiter": micro_limiter.loops,
    "catalog": micro_catalog.loops,
}


def run(args: argparse.Namespace) -> int:
    with results.place(args) as top:
        document = results.head("micro", top)
        rates = list(measured(args.only or list(PARTS), top, args.quick))
        print("", *lines(_rows(rates)), sep="\n")
    document["rates"] = [rate._asdict() for rate in rates]
    results.keep(args.json, document)
    return 0


def measured(parts: list[str], top: Path, quick: bool) -> Iterator[Rate]:
    for part in parts:
        (place := top / part).mkdir()
        for loop in PARTS[part](place, quick):
            loop.work()
            yield Rate(loop.name, loop.unit, [once(loop) for _ in range(TIMES)])


def once(loop: Loop) -> float:
    began = time.perf_counter()
    count = loop.work()
    return count / (time.perf_counter() - began)


def _rows(rates: list[Rate]) -> Iterator[list[str]]:
    yield ["", "a second", "least", "most", "of", "each, us"]
    for name, unit, every in rates:
        middle = statistics.median(every)
        numbers = (f"{each:,.0f}" for each in (middle, min(every), max(every)))
        yield [name, *numbers, unit, f"{1e6 / middle:.2f}"]
