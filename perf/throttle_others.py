"""Other limiters under the flows of Table 2: half ask for 64 KiB, half for 256 KiB, all hungry."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

from transfer.throttle.throttle import Throttle

if TYPE_CHECKING:
    from perf.throttle import Log, Row, Work


def rows(work: "Work", part: float) -> "Iterator[Row]":
    from perf.throttle import Row

    work = work._replace(seconds=max(0.5, work.seconds * part))
    yield from figures("transfer", work, asyncio.run(ours(work)))
    for period in (1.0, 0.1):
        log = asyncio.run(aiolimiters(work, period))
        yield from figures(f"aiolimiter, period {period:g} s", work, log)
    try:
        from s3transfer.bandwidth import LeakyBucket
    except ImportError:
        yield Row("-", "s3transfer is not installed: pip install '.[perf]'", "", "")
        return
    yield from figures("s3transfer, 8 threads", work, s3transfers(work, LeakyBucket))


def figures(name: str, work: "Work", logs: "list[Log]") -> "Iterator[Row]":
    from perf.throttle import Row, jain, worst

    log = sorted(entry for each in logs for entry in each)
    error = sum(size for _, size in log) / (work.rate * work.seconds) - 1
    sizes = [float(sum(size for _, size in each)) for each in logs]
    yield Row("-", f"{name}: error of the rate", f"{error:+.2%}", "")
    for window in (1.0, 0.1):
        yield Row("-", f"{name}: worst {window:g} s", worst(log, window, work.rate), "")
    yield Row("-", f"{name}: Jain", f"{jain(sizes):.4f}", "")


async def ours(work: "Work") -> "list[Log]":
    throttle = Throttle(up=work.rate)
    flows = [throttle.flow("up") for _ in range(work.flows)]

    async def take(index: int, size: int, log: "Log") -> None:
        while size:  # as our bodies do: slice by slice
            piece = min(size, flows[index].quantum)
            await flows[index].take(piece)
            log.append((time.monotonic_ns(), piece))
            size -= piece

    logs = await hungry(work, take)
    throttle.close()
    return logs


async def aiolimiters(work: "Work", period: float) -> "list[Log]":
    limiter = AsyncLimiter(work.rate * period, period)

    async def take(index: int, size: int, log: "Log") -> None:
        await limiter.acquire(size)
        log.append((time.monotonic_ns(), size))

    return await hungry(work, take)


async def hungry(work: "Work", take: Callable[[int, int, "Log"], object]) -> "list[Log]":
    logs: list[Log] = [[] for _ in range(work.flows)]

    async def one(index: int) -> None:
        while True:
            await take(index, work.sizes[index % len(work.sizes)], logs[index])  # type: ignore[misc]

    tasks = [asyncio.create_task(one(index)) for index in range(work.flows)]
    await asyncio.sleep(work.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return logs


def s3transfers(work: "Work", leaky_bucket: "Callable[[int], object]") -> "list[Log]":
    from s3transfer.bandwidth import RequestExceededException, RequestToken

    bucket, logs = leaky_bucket(work.rate), [list[tuple[int, int]]() for _ in range(work.flows)]
    until = time.monotonic() + work.seconds

    def one(index: int) -> None:
        size, token = work.sizes[index % len(work.sizes)], RequestToken()
        while time.monotonic() < until:
            try:
                bucket.consume(size, token)  # type: ignore[attr-defined]
                logs[index].append((time.monotonic_ns(), size))
            except RequestExceededException as exceeded:
                time.sleep(exceeded.retry_time)

    with ThreadPoolExecutor(work.flows) as pool:
        list(pool.map(one, range(work.flows)))
    return logs
