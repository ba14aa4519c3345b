"""Tuning: while a run goes on, what it waits for decides how many connections it has, and how hard
it compresses.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from transfer.jobs.meter import Meter
from transfer.net.client import RemoteVault
from transfer.net.transport import Transport
from transfer.policy.bottleneck import limited_by
from transfer.policy.compression import Compression
from transfer.policy.concurrency import Concurrency, Epoch, epoch_length, settling
from transfer.vault.base import Vault

Level = Callable[[], int | None]
_LOOK = 0.5  # seconds between two looks at the compression
_SECOND = 1.0
_MANY = 0.05  # of the calls: so many break only where there are too many connections


@asynccontextmanager
async def tuned(vault: Vault, meter: Meter, compresses: bool) -> AsyncIterator[Level]:
    """Within the block; yields what gives the level of compression, None for the chosen one.

    Nothing is there to tune with a vault that is near. Of several runs over the same connections
    the first decides how many there are.
    """
    compression = Compression()
    if not isinstance(vault, RemoteVault):
        yield lambda: None
        return
    transport, work = vault.transport, [_look(vault.transport)]
    steers = not transport.is_steered
    if steers:
        transport.is_steered = True
        work.append(_steer(transport, meter))
    if compresses:
        work.append(_compress(compression, meter))
    tasks = {asyncio.create_task(each) for each in work}
    try:
        yield lambda: compression.level if compresses else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if steers:
            transport.is_steered = False


async def _look(transport: Transport) -> None:
    while True:
        await asyncio.sleep(_SECOND)
        transport.look()


async def _compress(compression: Compression, meter: Meter) -> None:
    before = meter.spent()
    while True:
        await asyncio.sleep(_LOOK)
        now = meter.spent()
        between = now.since(before)
        compression.seen(between, limited_by(between, short=0))
        before = now


async def _steer(transport: Transport, meter: Meter) -> None:
    control = Concurrency(transport.connections)
    while True:
        trip = transport.round_trip
        await asyncio.sleep(settling(trip))
        began, spent, moved = time.monotonic(), meter.spent(), _moved(transport)
        calls, failures, refusals = _trouble(transport)
        await asyncio.sleep(epoch_length(trip) - settling(trip))
        more, failed, refused = _trouble(transport)
        epoch = Epoch(
            time.monotonic() - began, _moved(transport) - moved,
            limited_by(meter.spent().since(spent), meter.reads, short=0),
            refused > refusals or failed - failures > 1 + _MANY * (more - calls),
        )  # fmt: skip
        if (number := control.seen(epoch)) != transport.connections:
            transport.connections = number


def _moved(transport: Transport) -> int:
    """Bytes in both directions; of a run all but a little go in one."""
    traffic = transport.traffic
    return traffic.sent + traffic.received if traffic else 0


def _trouble(transport: Transport) -> tuple[int, int, int]:
    trouble = transport.trouble
    return trouble.calls, trouble.failures, trouble.refusals
