"""Draw what compare or scale kept with --json, as PNG. Needs matplotlib, of the extra `perf`."""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.machine import Lacking
from perf.scale import Cost, by_step
from perf.tables import Figure

MIB = 2**20


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the JSON of compare or scale")
    add("--out", type=Path, required=True, metavar="PNG", help="the picture")


def run(args: argparse.Namespace) -> int:
    document = json.loads(args.file.read_text())
    drawn = DRAWN.get(document["command"])
    if drawn is None:
        raise Lacking(f"{args.file} is of {document['command']}: nothing is drawn of that")
    try:
        import matplotlib
    except ImportError as error:
        raise Lacking("matplotlib is missing (pip install transfer[perf])") from error
    matplotlib.use("Agg")
    figure = drawn(document)
    figure.text(0.01, 0.01, f"{document['machine']}; {document['commit']}", fontsize=6)
    figure.savefig(args.out)
    return 0


def comparison(document: dict[str, Any]) -> Any:
    """Seconds of each step, side by side: a picture a work, medians with their least and most."""
    from matplotlib import pyplot

    figures = [Figure(**each) for each in document["took"]]
    every = list(dict.fromkeys(each.work for each in figures))
    picture, axes = pyplot.subplots(
        1, len(every), figsize=(5 * len(every), 3.8), dpi=120, squeeze=False
    )
    for work, axis in zip(every, axes[0], strict=True):
        _bars(axis, work, [each for each in figures if each.work == work], document["heads"])
    axes[0][0].set_ylabel("seconds")
    picture.tight_layout(rect=(0, 0.03, 1, 1))
    return picture


def _bars(axis: Any, work: str, figures: Sequence[Figure], heads: dict[str, str]) -> None:
    steps = list(dict.fromkeys(each.step for each in figures))
    tools = list(dict.fromkeys(each.tool for each in figures))
    width = 0.8 / len(tools)
    for place, tool in enumerate(tools):
        for at, step in enumerate(steps):
            values = [each.seconds for each in figures if (each.tool, each.step) == (tool, step)]
            if values:
                middle = statistics.median(values)
                axis.bar(
                    at + (place - (len(tools) - 1) / 2) * width, middle, width, color=f"C{place}",
                    yerr=[[middle - min(values)], [max(values) - middle]], error_kw={"lw": 0.8},
                )  # fmt: skip
        axis.bar(0, 0, color=f"C{place}", label=heads[tool])
    axis.set_xticks(range(len(steps)), [step.replace(", ", ",\n") for step in steps], fontsize=7)
    axis.set_title(work)
    axis.margins(y=0.3)  # for the legend
    axis.legend(fontsize=7, loc="upper right", ncols=len(tools))


COSTS = {"seconds": 1, "cpu": 1, "pss": MIB, "metadata": MIB}
LABELS = {"seconds": "s", "cpu": "CPU s", "pss": "Pss, MiB", "metadata": "metadata, MiB"}


def growth(document: dict[str, Any]) -> Any:
    """Each cost against size, both logarithmic: a row of pictures a series, a line a step."""
    from matplotlib import pyplot

    costs = [Cost(**each) for each in document["costs"]]
    series = list(dict.fromkeys(each.series for each in costs))
    picture, axes = pyplot.subplots(
        len(series), len(COSTS), figsize=(12, 2.6 * len(series)), dpi=120, squeeze=False
    )
    for name, row in zip(series, axes, strict=True):
        steps = by_step([each for each in costs if each.series == name])
        for (what, unit), axis in zip(COSTS.items(), row, strict=True):
            for (_, step), every in steps.items():
                values = [getattr(each, what) / unit for each in every]
                axis.loglog([each.size for each in every], values, marker=".", label=step)
            low, high = axis.get_ylim()
            axis.set_ylim(low / 3, high * 3)  # a flat line is to look flat
            axis.minorticks_off()
            axis.set_xlabel(every[0].unit)
            axis.set_ylabel(LABELS[what])
        row[0].legend(fontsize=7)
    picture.tight_layout(rect=(0, 0.03, 1, 1))
    return picture


DRAWN = {"compare": comparison, "scale": growth}
