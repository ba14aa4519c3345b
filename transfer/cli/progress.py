"""Show a run's progress on stderr: bars on a terminal, with --verbose a line for each phase.

A thread of its own samples and draws: a terminal that does not take more, as after Ctrl-S, must
not stop the run.
"""

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transfer.cli.output import size
from transfer.jobs.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_INTERVAL = 0.2  # seconds between two pictures


@contextmanager
def shown(args: argparse.Namespace) -> Iterator[Progress]:
    """A Progress that is drawn while the block runs; the terminal is as before afterwards."""
    progress = Progress()
    if args.quiet or not (args.verbose or sys.stderr.isatty()):
        yield progress
        return
    done = threading.Event()
    drawing = threading.Thread(
        target=_draw, args=(progress, done, args.verbose), name="progress", daemon=True
    )
    drawing.start()
    try:
        yield progress
    finally:
        done.set()
        drawing.join()


def _draw(progress: Progress, done: threading.Event, verbose: bool) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    said = 0
    try:
        with _bars(console) as bars:
            task = bars.add_task("", total=None, numbers="")
            while True:
                last = done.wait(_INTERVAL)
                if verbose:
                    said = _say(console, progress, said, last)
                _update(bars, task, progress)
                if last:
                    return
    except OSError:
        pass  # nobody sees it any more, and the run goes on


def _bars(console: "Console") -> "Bars":
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars

    return Bars(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
        TextColumn("{task.fields[numbers]}", markup=False), console=console, transient=True,
        auto_refresh=False, disable=not console.is_terminal,
    )  # fmt: skip


def _update(bars: "Bars", task: "TaskID", progress: Progress) -> None:
    total = progress.bytes_total if progress.bytes_total > progress.bytes_done else None
    bars.update(
        task, description=progress.phase, completed=progress.bytes_done, total=total,
        numbers=numbers(progress, bars.tasks[0].speed, bars.tasks[0].time_remaining),
        refresh=True,
    )  # fmt: skip


def numbers(progress: Progress, speed: float | None, left: float | None) -> str:
    """The numbers beside the bar; *speed* in bytes a second, *left* in seconds."""
    known = progress.bytes_total > progress.bytes_done
    of = f" of {size(progress.bytes_total)}" if known else ""
    parts = [f"{size(progress.bytes_done)}{of}"]
    if progress.bytes_sent:
        parts.append(f"{size(progress.bytes_sent)} sent")
    if speed:
        parts.append(f"{size(int(speed))}/s")
    if known and left is not None:
        parts.append(f"{_time(left)} left")
    parts.append(f"{progress.files_done} files")
    return ", ".join(parts)


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _say(console: "Console", progress: Progress, said: int, last: bool) -> int:
    """Name the phases that began since, and at the end what was done; how many are said."""
    lines = progress.phases[said:]
    if last:
        lines = [*lines, f"done: {numbers(progress, None, None)}"]
    for line in lines:
        console.print(f"transfer: {line}", markup=False, highlight=False, soft_wrap=True)
    return len(progress.phases)
