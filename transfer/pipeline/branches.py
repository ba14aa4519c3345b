"""Room for the directories of a tree that are at work side by side.

Each wants a place. Where none is free it is walked in that of its parent, which does nothing else
meanwhile, so the width of a tree takes no memory.

A place is for a directory of which little is held. One that holds more wants room for that as well,
and keeps it while directories in it are walked that may want some too. Then it lends its own to one
of them at a time, as that does to one of those in it: so each comes to its end, whoever waits for
whom, and what is held at most is as many times the depth of a tree as there is room.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Permits:
    """For so many at a time."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.waiting: deque[asyncio.Future[Permits]] = deque()

    def leave(self) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():  # it may wait for other room as well
                turn.set_result(self)
                return
        self.free += 1


class Branches:
    """Of *group*: *most* places, and room for so many *large* ones."""

    def __init__(self, group: asyncio.TaskGroup, most: int, large: int = 0) -> None:
        self._group, self._places = group, asyncio.Semaphore(most)
        self._large, self._one_more = Permits(large), Permits(1)

    async def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of its own: no recursion, however deep. It has ended if it had no place."""
        if self._places.locked():
            task = self._group.create_task(work)
            await asyncio.wait([task])
            return task
        await self._places.acquire()
        task = self._group.create_task(work)
        task.add_done_callback(lambda _: self._places.release())
        return task

    def _rooms(self, lent: Permits | None) -> tuple[Permits, Permits]:
        return self._large, lent or self._one_more

    def is_free(self, lent: Permits | None) -> bool:
        """Whether a large one need not wait."""
        return any(room.free for room in self._rooms(lent))

    @asynccontextmanager
    async def large(self, lent: Permits | None) -> AsyncGenerator[Permits, None]:
        """Room for a large one, which the one that it is in may have *lent*; what it lends."""
        room = await _entered(*self._rooms(lent))
        try:
            yield Permits(1)
        finally:
            room.leave()


async def _entered(*rooms: Permits) -> Permits:
    """The first of them that is free."""
    for room in rooms:
        if room.free:
            room.free -= 1
            return room
    turn: asyncio.Future[Permits] = asyncio.get_running_loop().create_future()
    for room in rooms:
        room.waiting.append(turn)
    try:
        return await turn
    except asyncio.CancelledError:
        if turn.done() and not turn.cancelled():  # it came at the same time
            turn.result().leave()
        raise
