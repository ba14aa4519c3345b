"""The throttle's targets T1 to T7, measured on this machine beside other limiters.

    python -m perf.throttle [--quick] [--plot FILE.png] [--json FILE]

Everything runs in this process and over loopback. The other limiters get the same flows in the
same run: aiolimiter, which we depend on for requests, and s3transfer's, if it is installed. The
plot, of a change of the timetable and a pause as a receiver sees them, needs matplotlib. Both are
in the extra `perf`. The figures are of interest on a quiet machine only.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import uvloop

from perf import throttle_others, throttle_plot, throttle_wire
from transfer.policy.token_bucket import SECOND, Hold, TokenBucket
from transfer.throttle.flow import Flow
from transfer.throttle.throttle import Throttle

MB = 10**6
Log = list[tuple[int, int]]
"""Of (ns, bytes), in their order."""


class Row(NamedTuple):
    target: str
    what: str
    figure: str
    asked: str


class Work(NamedTuple):
    """*flows* that are always hungry, and ask for *sizes* in turns."""

    rate: int
    flows: int
    sizes: Sequence[int]
    seconds: float


TABLE_2 = Work(10 * MB, 8, (64 * 1024, 256 * 1024), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description="The throttle's targets, measured.")
    parser.add_argument("--quick", action="store_true", help="see that it runs; the figures lie")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="rate against time, as PNG")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # what the command runs on
    part = 0.05 if args.quick else 1.0
    rows = [*ours(part), *throttle_others.rows(TABLE_2, part)]
    for row in rows:
        print(f"{row.target:4} {row.what:58} {row.figure:>22}   {row.asked}")
    if args.json:
        args.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))
    if args.plot:
        throttle_plot.draw(args.plot, part)


def ours(part: float) -> Iterator[Row]:
    for rate, flows, sizes, seconds in (
        (64_000, 4, (64 * 1024,), 60), (10 * MB, 8, TABLE_2.sizes, 20),
        (125 * MB, 64, (256 * 1024, 2**20), 20), (1000 * MB, 4, TABLE_2.sizes, 10),
    ):  # fmt: skip
        yield from long_run(Work(rate, flows, sizes, seconds * part))
    yield from throttle_wire.rows(part)
    yield from changes()
    yield from fairness(Work(10 * MB, 64, (4096, 16384, 65536, 262144), 4 * part), (1,))
    yield from fairness(Work(10 * MB, 64, (16384,), 16 * part), (1, 2, 4, 8))
    yield from costs()


def long_run(work: Work) -> Iterator[Row]:
    """T1, T2, T4 from the log of the bucket itself; T7 without one, which would cost as well."""
    with logged() as log:
        began, ended = asyncio.run(hungry(work, (1,)))
    log[:] = [(at, size) for at, size in log if at <= ended]  # then all are cancelled
    what = f"{work.rate / MB:g} MB/s, {work.flows} flows, {work.seconds:g} s"
    error = sum(size for _, size in log) / (work.rate * (ended - began) / SECOND) - 1
    yield Row("T1", f"{what}: error of the rate", f"{error:+.3%}", "within 0.5 %")
    yield Row("T2", f"{what}: intervals beyond the bound", str(beyond(log, work.rate)), "0")
    for window, asked in ((1.0, 1.02), (0.1, 1.10)):
        figure = worst(log, window, work.rate)
        yield Row("T3", f"{what}: worst {window:g} s of grants", figure, f"at most {asked:.2f}")
    cpu = time.process_time()
    first, last = asyncio.run(hungry(work, (1,)))
    cpu = (time.process_time() - cpu) / ((last - first) / SECOND)
    yield Row("T7", f"{what}: of a core", f"{cpu:.1%}", "at most 3 % at 125 MB/s")


@contextmanager
def logged() -> Iterator[Log]:
    """What all buckets grant, at the moments at which they do."""
    log: Log = []
    take = TokenBucket.take

    def noted(bucket: TokenBucket, amount: int, now: int, hold: Hold | None = None) -> None:
        take(bucket, amount, now, hold)
        log.append((now, amount))

    TokenBucket.take = noted  # type: ignore[method-assign, assignment]
    try:
        yield log
    finally:
        TokenBucket.take = take  # type: ignore[method-assign]


async def hungry(work: Work, weights: Sequence[int]) -> tuple[int, int]:
    """When it began and ended."""
    throttle = Throttle(up=work.rate)
    began = time.monotonic_ns()
    flows = [throttle.flow("up", weight=weights[i % len(weights)]) for i in range(work.flows)]
    _, ended = await until(work, flows)
    throttle.close()
    return began, ended


async def until(work: Work, flows: Sequence[Flow]) -> tuple[list[int], int]:
    """The bytes that each flow got, slice by slice as a body does, and when it ended."""
    got = [0] * len(flows)

    async def one(index: int) -> None:
        flow = flows[index]
        while True:
            left = work.sizes[index % len(work.sizes)]
            while left:
                piece = min(left, flow.quantum)
                await flow.take(piece)
                got[index] += piece
                left -= piece

    tasks = [asyncio.create_task(one(index)) for index in range(len(flows))]
    await asyncio.sleep(work.seconds)
    ended = time.monotonic_ns()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return got, ended


def beyond(log: Log, rate: int) -> int:
    """Grants that end an interval with more than its integral and one burst; exact."""
    full = TokenBucket(rate, 0).burst * SECOND
    found, gone, at, least = 0, 0, log[0][0], full
    for now, size in log:
        gone -= (now - at) * rate
        at, least = now, min(least, gone + full)
        gone += size * SECOND
        found += gone > least
    return found


def worst(log: Log, window: float, rate: int) -> str:
    """The most of any window that begins at a grant, as a ratio to the rate."""
    if not log or log[-1][0] - log[0][0] < window * SECOND:
        return "too short"
    most, total, first = 0, 0, 0
    for now, size in log:
        total += size
        while log[first][0] <= now - window * SECOND:
            total -= log[first][1]
            first += 1
        most = max(most, total)
    return f"{most / (rate * window):.3f}"


def changes() -> Iterator[Row]:
    for old, new in ((10 * MB, MB), (MB, 50 * MB), (1000 * MB, 64_000)):
        with logged() as log:
            at = asyncio.run(changed(old, new))
        first = sum(size for now, size in log if at < now <= at + SECOND // 20)
        what = f"{old / MB:g} to {new / MB:g} MB/s: first 50 ms, ideal {new / 20 / 1000:g} kB"
        yield Row("T5", what, f"{first / 1000:.1f} kB", "ideal and a burst")
        after = next((now for now, _ in log if now > at), at)
        yield Row("T5", "    first grant after it", f"{(after - at) / MB:.2f} ms", "")


async def changed(old: int, new: int) -> int:
    """When it changed."""
    throttle = Throttle()
    throttle.set("up", old)
    flow = throttle.flow("up")

    async def one() -> None:
        while True:
            await flow.take(flow.quantum)

    tasks = [asyncio.create_task(one()) for _ in range(8)]
    await asyncio.sleep(0.3)
    throttle.set("up", new)
    at = time.monotonic_ns()
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    throttle.close()
    return at


def jain(values: Sequence[float]) -> float:
    return sum(values) ** 2 / (len(values) * sum(each * each for each in values) or 1)


def fairness(work: Work, weights: Sequence[int]) -> Iterator[Row]:
    async def scenario() -> list[float]:
        throttle = Throttle(up=work.rate)
        each = [weights[index % len(weights)] for index in range(work.flows)]
        flows = [throttle.flow("up", weight=weight) for weight in each]
        got, _ = await until(work, flows)
        throttle.close()
        return [size / weight for size, weight in zip(got, each, strict=True)]

    what = f"{work.flows} flows, weights {weights}"
    yield Row("T6", f"{what}: Jain", f"{jain(asyncio.run(scenario())):.5f}", "at least 0.999")


def costs() -> Iterator[Row]:
    bucket = TokenBucket(10**12, 0)
    clock = iter(range(10**9, 10**12, 10**5))
    yield Row("T7", "a try", each(lambda: bucket.take(1, next(clock)), 20_000), "at most 500 ns")
    for what, rate, asked in (
        ("an uncontended grant", 10**12, "1 us"), ("without a limit", None, "50 ns"),
    ):  # fmt: skip
        yield Row("T7", what, asyncio.run(acquiring(rate)), f"at most {asked}")


def each(function: Callable[[], object], count: int) -> str:
    began = time.perf_counter_ns()
    for _ in range(count):
        function()
    return f"{(time.perf_counter_ns() - began) / count:.0f} ns"


async def acquiring(rate: int | None) -> str:
    """Less what the same loop takes around a coroutine that does nothing."""
    throttle, count = Throttle(up=rate), 20_000
    take = throttle.flow("up").take

    async def nothing(amount: int) -> None:
        pass

    took = []
    for function in (nothing, take):
        began = time.perf_counter_ns()
        for _ in range(count):
            await function(1)
        took.append(time.perf_counter_ns() - began)
    throttle.close()
    return f"{(took[1] - took[0]) / count:.0f} ns"


if __name__ == "__main__":
    main()
