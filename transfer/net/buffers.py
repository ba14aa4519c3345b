"""Receive memory: one pool for all connections, with a share for each machine."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from transfer.net.pages import Pages

Waiter = asyncio.Future[None]


class ReceiveBuffers:
    """Lend at most *total* bytes at once, and at most *share* of them to one machine.

    A request waits here before its body is read, so that 1,000 bodies cost no more memory than
    the pool has. Requests are served in the order in which they came, with one exception: those
    of a machine that has its share are passed over until it gives some back. A large request at
    the head is not passed over: what is given back is kept until it fits. Beside what is lent,
    some pages are kept for the next (see pages.py).
    """

    def __init__(self, total: int, share: int) -> None:
        if not 0 < share <= total:
            raise ValueError(f"need 0 < share <= total, got {share} of {total}")
        self.total, self.share = total, share
        self.in_use = 0
        self._by_machine: Counter[bytes] = Counter()
        self._pages = Pages()
        self._queue: dict[Waiter, tuple[bytes, int]] = {}

    @property
    def waiting(self) -> int:
        """How many requests wait for their buffer."""
        return len(self._queue)

    @asynccontextmanager
    async def lease(self, machine: bytes, size: int) -> AsyncIterator[memoryview]:
        """A buffer of *size* bytes for as long as the block lasts; keep no views of it.

        Raises ValueError for a size beyond a machine's share: it would wait for ever.
        """
        async with self.room(machine, size):
            with self._pages.lent(size) as buffer:
                yield buffer

    @asynccontextmanager
    async def room(self, machine: bytes, size: int) -> AsyncIterator[None]:
        """As `lease`, for whoever takes the memory elsewhere."""
        if not 0 <= size <= self.share:
            raise ValueError(f"a buffer of {size} bytes is more than the share, {self.share}")
        await self._granted(machine, size)
        try:
            yield
        finally:
            self._give_back(machine, size)

    async def _granted(self, machine: bytes, size: int) -> None:
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._queue[waiter] = (machine, size)
        self._serve()
        try:
            await waiter
        except BaseException:
            if self._queue.pop(waiter, None) is None:
                self._give_back(machine, size)  # granted in the moment of the cancellation
            else:
                self._serve()  # it may have kept memory from those behind it
            raise

    def _give_back(self, machine: bytes, size: int) -> None:
        self.in_use -= size
        self._by_machine[machine] -= size
        if not self._by_machine[machine]:
            del self._by_machine[machine]
        self._serve()

    def _serve(self) -> None:
        # A machine that waits for its share waits with all its requests, else its small ones
        # would starve its large one.
        passed_over: set[bytes] = set()
        for waiter, (machine, size) in list(self._queue.items()):
            if waiter.done() or machine in passed_over:
                continue
            if self._by_machine[machine] + size > self.share:
                passed_over.add(machine)
            elif self.in_use + size > self.total:
                break
            else:
                del self._queue[waiter]
                self.in_use += size
                self._by_machine[machine] += size
                waiter.set_result(None)
