"""Rate against time as a receiver sees it: a rule of the timetable begins, a pause, and its end."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from perf.throttle_wire import pair, receive, send
from transfer.policy.timetable import Explanation, Limits, Setting
from transfer.policy.token_bucket import SECOND
from transfer.throttle.throttle import Throttle

if TYPE_CHECKING:
    from perf.throttle import Log

MB = 10**6
DAY, NIGHT = 2 * MB, 8 * MB
CHANGE, PAUSE, RESUME, END = 4, 8, 10, 13  # seconds after the start
BIN = SECOND // 20


def draw(path: Path, part: float) -> None:
    """Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    log, began = asyncio.run(received(max(part, 0.1)))
    bins = [0] * (1 + max((at - began) // BIN for at, _ in log))
    for at, size in log:
        bins[(at - began) // BIN] += size
    figure, axes = pyplot.subplots(figsize=(9, 3.2), dpi=120)
    times = [index * BIN / SECOND for index in range(len(bins))]
    axes.step(times, [each * SECOND / BIN / MB for each in bins], where="post", label="received")
    scale = max(part, 0.1)
    limits = [(0, DAY), (CHANGE, NIGHT), (PAUSE, 0), (RESUME, NIGHT), (END, NIGHT)]
    axes.step(
        [at * scale for at, _ in limits], [rate / MB for _, rate in limits],
        where="post", linestyle="--", color="black", linewidth=1, label="limit",
    )  # fmt: skip
    axes.set(xlabel="seconds", ylabel="MB/s in each 50 ms", ylim=(0, None), xlim=(0, END * scale))
    axes.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(path)


async def received(scale: float) -> "tuple[Log, int]":
    """What arrived over four connections, and when it began."""
    throttle, log = Throttle(), list[tuple[int, int]]()
    change = time.time_ns() + int(CHANGE * scale * SECOND)

    def schedule(utc: int) -> Explanation:
        late = utc >= change
        setting, none = (
            Setting(NIGHT if late else DAY, "night" if late else "day"),
            Setting(None, None),
        )
        limits = Limits(setting, none, none)
        return Explanation(limits, change if late else None, None if late else change)

    throttle.set_schedule(schedule)
    began = time.monotonic_ns()
    tasks = []
    for _ in range(4):
        ours, theirs = pair()
        tasks.append(asyncio.create_task(send(throttle.flow("up"), ours)))
        tasks.append(asyncio.create_task(receive(theirs, log)))
    await asyncio.sleep(PAUSE * scale)
    throttle.pause()
    await asyncio.sleep((RESUME - PAUSE) * scale)
    throttle.resume()
    await asyncio.sleep((END - RESUME) * scale)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    throttle.close()
    return log, began
