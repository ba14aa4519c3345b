"""Workers in threads, for hosts that must not start processes.

They keep the promises of a worker process but three: a function that holds the interpreter's lock
stalls everybody, one that crashes takes the process along, and one that runs cannot be ended, so
closing waits for it.
"""

import asyncio
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from transfer.errors import WorkerLost
from transfer.pipeline.worker_process import Workplace
from transfer.waiting import to_the_end


class ThreadWorker:
    """One thread with tools and lanes of its own."""

    lost = False

    def __init__(
        self, prepare: Callable[..., Any], arguments: tuple[Any, ...], lanes: int, slot_size: int
    ) -> None:
        self._memory = mmap.mmap(-1, lanes * slot_size)  # pages cost nothing until they are used
        view = memoryview(self._memory)
        self.slots = [view[n * slot_size : (n + 1) * slot_size] for n in range(lanes)]
        self.free = list(range(lanes))
        self._place = Workplace(self._memory, lanes, slot_size)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transfer-worker")
        self._thread.submit(self._place.prepare, prepare, arguments)
        self._running: set[asyncio.Future[Any]] = set()

    @property
    def spent(self) -> tuple[float, float]:
        return self._place.stopwatch.spent

    def submit(
        self, lane: int, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(self._thread, self._place.run, lane, function, args, kwargs)
        self._running.add(answer)
        answer.add_done_callback(self._running.discard)
        return answer

    def forget(self, lane: int) -> None:
        with suppress(RuntimeError):  # the pool was closed under the lease
            self._thread.submit(self._place.forget, lane)

    async def close(self) -> None:
        """Refuse what has not begun, and wait for what has."""
        self._place.fail(WorkerLost("its pool was closed"))
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._place.close)
        self._thread.shutdown(wait=False)
        # The thread does one after the other, so this is its last.
        await to_the_end(closing)
        if self._running:
            await to_the_end(asyncio.wait(self._running))
