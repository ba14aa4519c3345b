"""Wait for what must not be left half done, or be left running unheard."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for *work* also when cancelled meanwhile, however often; then the cancellation goes on.

    For what is short and cannot be stopped, as a thread: whoever did not wait would close its files
    under it.
    """
    task = asyncio.ensure_future(work)
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        if not task.cancelled():
            task.exception()  # heard: nobody else will ask
        raise interrupted
    return task.result()


async def or_undone(work: Awaitable[T], undo: Callable[[T], Awaitable[object]]) -> T:
    """The result of *work*; if whoever would get it is cancelled meanwhile, *undo* gets it."""
    task = asyncio.ensure_future(work)
    try:
        return await to_the_end(task)
    except asyncio.CancelledError:
        if not task.cancelled() and task.exception() is None:
            await to_the_end(undo(task.result()))
        raise


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup that raises its first error alone; the group stays in the traceback."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise first_error(failures) from failures


def first_error(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first
