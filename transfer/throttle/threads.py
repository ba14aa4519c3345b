"""The throttle for threads that block: the same flows, the same bound, another way to wait."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from transfer.throttle.flow import Flow
from transfer.throttle.throttle import Throttle

T = TypeVar("T")


class BlockingFlow:
    """*flow* for any thread but that of *loop*, which runs the throttle."""

    def __init__(self, flow: Flow, loop: asyncio.AbstractEventLoop) -> None:
        self._flow, self._loop = flow, loop

    @property
    def quantum(self) -> int:
        return self._flow.quantum

    def take(self, amount: int, timeout: float | None = None) -> None:
        """Return when *amount* bytes may go out. Raises TimeoutError after *timeout* seconds.

        A wait that ends in any other way leaves nothing spent, unless the grant came in that very
        moment: then it is lost, which is less than was allowed, and never more.
        """
        if self._flow.limited:
            self._wait(self._flow.take(amount), timeout)

    def spent(self, amount: int, timeout: float | None = None) -> None:
        """*amount* bytes came in; return when they are paid. They stay spent in any case."""
        if self._flow.limited:
            self._wait(self._flow.spent(amount), timeout)

    def charge(self, amount: int) -> None:
        if self._flow.limited:
            self._loop.call_soon_threadsafe(self._flow.charge, amount)

    def _wait(self, grant: Coroutine[Any, Any, None], timeout: float | None) -> None:
        waiting = asyncio.run_coroutine_threadsafe(grant, self._loop)
        try:
            waiting.result(timeout)
        except BaseException:
            waiting.cancel()  # in the loop, where it gives back what it was granted
            raise


class ThrottleThread:
    """A throttle and a loop of its own, for programs without one."""

    def __init__(self, throttle: Throttle, loop: asyncio.AbstractEventLoop) -> None:
        self._throttle, self._loop = throttle, loop

    def flow(self, *args: Any, **kwargs: Any) -> BlockingFlow:
        """As `Throttle.flow`."""
        return BlockingFlow(self.call(lambda: self._throttle.flow(*args, **kwargs)), self._loop)

    def call(self, function: Callable[[], T]) -> T:
        """*function* in the throttle's thread, such as `lambda: throttle.set("up", 2**20)`."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result()


@contextmanager
def in_thread(throttle: Throttle) -> Iterator[ThrottleThread]:
    """Run *throttle* in a thread until the end, and close it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="throttle", daemon=True)
    thread.start()
    facade = ThrottleThread(throttle, loop)
    try:
        yield facade
    finally:
        facade.call(throttle.close)
        asyncio.run_coroutine_threadsafe(_settled(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _settled() -> None:
    """Whoever still waited has heard that nothing will be granted."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
