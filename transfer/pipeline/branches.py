"""Room for the directories of a tree that are at work side by side.

Each wants a place. Where none is free it is walked in that of its parent, which does nothing else
meanwhile, so neither depth nor width of a tree takes memory.

A place is for a directory of which little is held. One that holds more wants room for that as well,
and keeps it while directories in it are walked that may want some too. Where there is none, one
directory at a time goes on without: *alone*, with all that is in it, one after the other, and none
of these wants anything. So it comes to its end, whoever waits for whom, and then another one may.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Branches:
    """Of *group*: *most* places, and room for so many *large* ones."""

    def __init__(self, group: asyncio.TaskGroup, most: int, large: int = 0) -> None:
        self._group = group
        self._places, self._large = asyncio.Semaphore(most), asyncio.Semaphore(large)
        self._alone = asyncio.Lock()

    async def start(self, work: Coroutine[Any, Any, T], alone: bool = False) -> asyncio.Task[T]:
        """A task of its own: no recursion, however deep. It has ended if it had no place."""
        if alone or self._places.locked():
            task = self._group.create_task(work)
            await asyncio.wait([task])
            return task
        await self._places.acquire()
        task = self._group.create_task(work)
        task.add_done_callback(lambda _: self._places.release())
        return task

    def has_room(self, alone: bool) -> bool:
        """Whether a large one would have to wait."""
        return alone or not self._large.locked()

    @asynccontextmanager
    async def large(self, alone: bool) -> AsyncGenerator[bool, None]:
        """Room for a large one; whether what is in it is to be walked *alone*."""
        if alone:
            yield True
        elif self._large.locked():
            async with self._alone:
                yield True
        else:
            async with self._large:
                yield False
