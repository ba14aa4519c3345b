"""Figures as lines of text: columns of programs, medians with their least and most."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

MIB = 2**20


class Figure(NamedTuple):
    """What one step of one run took; see `perf.measured.Measured`.

    *synced*: seconds until all that was written is on the disk as well. *stored* is in the store
    afterwards. *sent*: what the program says that it sent, or received in a restore; of one that
    says nothing, what its store grew by in a backup.
    """

    work: str
    tool: str
    step: str
    run: int
    seconds: float
    cpu: float
    server_cpu: float | None
    pss: int
    server_pss: int | None
    sent: int | None
    stored: int
    synced: float


def spread(values: Sequence[float], form: str) -> str:
    """median [least-most]; of a single value itself."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} [{least:{form}}-{most:{form}}]"


def lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right, each as wide as it must be."""
    every = list(rows)
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    for row in every:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "   ".join((f"{row[0]:<{widths[0]}}", *cells)).rstrip()


class Column(NamedTuple):
    """A kind of figure: its name, after which the step's comes, its unit, and where it is."""

    name: str
    unit: str
    form: str
    value: Callable[[Figure], float | None]


COLUMNS = (
    Column("", "s", ".2f", lambda figure: figure.seconds),
    Column("until synced: ", "s", ".2f", lambda figure: figure.synced),
    Column("CPU of ", "s", ".2f", lambda figure: figure.cpu),
    Column("server's CPU of ", "s", ".2f", lambda figure: figure.server_cpu),
    Column("memory of ", "MiB", ".0f", lambda figure: _mib(figure.pss)),
    Column("server's memory of ", "MiB", ".0f", lambda figure: _mib(figure.server_pss)),
    Column("sent in ", "MiB", ".1f", lambda figure: _mib(figure.sent)),
)
STORED = Column("stored after ", "MiB", ".1f", lambda figure: _mib(figure.stored))


def _mib(size: int | None) -> float | None:
    return None if size is None else size / MIB


def comparison(
    work: str, tools: Mapping[str, str], steps: Sequence[str], figures: Sequence[Figure]
) -> Iterator[str]:
    """A work's table, with the columns' heads by the *tools*' names.

    Behind each peer's figure is how many times ours it is.
    """
    of: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        if figure.work == work:
            of.setdefault((figure.tool, figure.step), []).append(figure)
    rows = [[work, *tools.values()]]
    wanted = [(column, step) for column in COLUMNS for step in steps]
    wanted.insert(2 * len(steps), (STORED, steps[0]))
    for column, step in wanted:
        every = [map(column.value, of.get((name, step), ())) for name in tools]
        values = [[value for value in each if value is not None] for each in every]
        if any(values):
            rows.append([f"{column.name}{step}, {column.unit}", *_cells(values, column.form)])
    yield from lines(rows)


def _cells(values: Sequence[Sequence[float]], form: str) -> Iterator[str]:
    """The first is ours."""
    ours = statistics.median(values[0]) if values[0] else 0.0
    for place, each in enumerate(values):
        cell = spread(each, form) if each else "-"
        if place:
            cell += f" {statistics.median(each) / ours:6.2f}x" if each and ours else " " * 8
        yield cell
