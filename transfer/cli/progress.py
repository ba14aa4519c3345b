"""Show a run's progress on a terminal's stderr; nothing when it is piped."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from transfer.cli.output import size
from transfer.jobs.progress import Progress

_INTERVAL = 0.2


@asynccontextmanager
async def shown(args: argparse.Namespace) -> AsyncIterator[Progress]:
    """A Progress that is drawn while the block runs."""
    progress = Progress()
    if args.quiet or args.json or not sys.stderr.isatty():
        yield progress
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:
        task = asyncio.create_task(_draw(progress, status.update), name="progress")
        try:
            yield progress
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _draw(progress: Progress, update: object) -> None:
    started = time.monotonic()
    while True:
        seconds = max(time.monotonic() - started, 0.001)
        rate = size(int(progress.bytes_done / seconds))
        text = f"{progress.phase}: {size(progress.bytes_done)}, {rate}/s"
        if progress.bytes_total > progress.bytes_done > 0:
            left = (progress.bytes_total - progress.bytes_done) * seconds / progress.bytes_done
            text += f", {left:.0f} s left"
        assert callable(update)
        update(text)
        await asyncio.sleep(_INTERVAL)
