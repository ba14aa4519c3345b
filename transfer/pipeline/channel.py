"""A bounded queue that ends (asyncio.Queue can, too, but only from Python 3.13)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar, cast

T = TypeVar("T")
_END = object()


class Channel(Generic[T]):
    """Carry items between stages; iteration stops once every sender has closed.

    The bound is the backpressure: when the next stage is slow, `send` waits. Any number of
    receivers may iterate; each item goes to one of them, in the order in which it was sent.
    """

    def __init__(self, size: int, senders: int = 1) -> None:
        # asyncio.Queue takes 0 for "no bound"; a channel without one is a memory leak in waiting.
        if size < 1 or senders < 1:
            raise ValueError(f"need a size and senders of at least 1, got {size} and {senders}")
        self._queue: asyncio.Queue[object] = asyncio.Queue(size)
        self._senders = senders

    async def send(self, item: T) -> None:
        if not self._senders:
            raise ValueError("send on a closed channel")
        await self._queue.put(item)

    async def close(self) -> None:
        """One sender is done; the last one waits until the end fits behind its items."""
        self._senders -= 1
        if self._senders == 0:
            await self._queue.put(_END)

    async def __aiter__(self) -> AsyncIterator[T]:
        while (item := await self._queue.get()) is not _END:
            yield cast(T, item)
        self._queue.put_nowait(_END)  # for the next receiver; there is room now
