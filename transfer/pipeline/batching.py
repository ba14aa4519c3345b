"""Ask together what many tasks ask at the same time: one call, one fsync, one trip to a worker."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

LINGER = 0.01  # seconds at most
T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


class Room:
    """A bound in bytes for what is under way. First come, first served; what is larger than the
    bound goes alone."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        return self._size - self._free

    async def take(self, size: int) -> None:
        size = min(size, self._size)
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at the same time
                self._free += size
            self._next()
            raise

    def give(self, size: int) -> None:
        self._free += min(size, self._size)
        self._next()

    def _next(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if size > self._free:
                    return
                self._free -= size
                turn.set_result(None)
            self._waiting.popleft()


class Window(Generic[T]):
    """At most *size* tasks of *group* at a time; who adds another one waits."""

    def __init__(self, group: asyncio.TaskGroup, size: int) -> None:
        self._group, self._free = group, asyncio.Semaphore(size)

    async def add(self, work: Coroutine[Any, Any, T]) -> None:
        try:
            await self._free.acquire()
        except BaseException:
            work.close()
            raise
        self._group.create_task(work).add_done_callback(lambda _: self._free.release())


class Batcher(Generic[Q, A]):
    """Run questions in the order in which they came, those that wait at the same time together.

    A batch holds at most *count* questions of together at most *limit* (or one that is larger), and
    at most *parallel* are under way. Questions of less than *least* cost less together: they wait
    until fewer than *few* are under way, and where many ask at a time and *few* is 1, a moment for
    more. They run in tasks of *group*: whoever asked and is cancelled takes no answer away from
    others. Where it may change, *parallel* is a function.
    """

    def __init__(
        self, group: asyncio.TaskGroup, run: Callable[[list[Q]], Awaitable[Sequence[A]]],
        size: Callable[[Q], int], *, limit: int, count: int, parallel: int | Callable[[], int] = 1,
        least: int = 0, few: int = 1,
    ) -> None:  # fmt: skip
        self._group, self._run, self._size = group, run, size
        self.limit, self._count, self._least, self._few = limit, count, least, few
        self._parallel = parallel if callable(parallel) else lambda: parallel
        self._active, self._pause = 0, 0.0
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []

    async def ask(self, question: Q) -> A:
        return await self.put(question)

    def put(self, question: Q) -> asyncio.Future[A]:
        """As `ask`, for whoever wants the answer later."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        self._begin()
        return answer

    def _begin(self) -> None:
        """As many as may be under way, which may be more than before."""
        most = min(self._parallel(), self._active + len(self._waiting))
        while self._active < most and self._is_worth_it(self._active):
            self._active += 1
            self._group.create_task(self._drain(), name="batcher")

    async def _drain(self) -> None:
        try:
            while self._active <= self._parallel() and self._is_worth_it(self._active - 1):
                if self._pause and not self._is_worth_it(1):
                    await asyncio.sleep(self._pause)
                await self._timed(self._take())
        finally:
            self._active -= 1

    def _is_worth_it(self, others: int) -> bool:
        """Whether what waits is to be a batch now, beside so many others."""
        if others < self._few or not self._least:
            return bool(self._waiting)
        size = 0
        for question, _ in self._waiting:
            size += self._size(question)
            if size >= self._least:
                return True
        return False

    def _take(self) -> list[tuple[Q, asyncio.Future[A]]]:
        size = number = 0
        for question, _ in self._waiting[: self._count]:
            size += self._size(question)
            if number and size > self.limit:
                break
            number += 1
        taken = self._waiting[:number]
        del self._waiting[:number]
        return [pair for pair in taken if not pair[1].done()]

    async def _timed(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        """The next small batch waits as long as this one takes, if many ask at a time."""
        began = time.monotonic()
        await self._answer(batch)
        if self._least:
            self._pause = min(LINGER, time.monotonic() - began) if len(batch) > 1 else 0.0

    async def _answer(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        if not batch:
            return
        try:
            answers = await self._run([question for question, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
