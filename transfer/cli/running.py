"""Run an agent command: open state, vault and keyring, and stop cleanly when told to."""

import argparse
import asyncio
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from transfer.cli.output import printable
from transfer.cli.passphrase import passphrase_from, recovery_key_from
from transfer.errors import LockHeld, VaultUnavailable
from transfer.jobs import control
from transfer.jobs.agent import Agent
from transfer.jobs.limits import RunLimits, limited
from transfer.jobs.opening import Reach, Secret, default_state, open_agent
from transfer.jobs.state import StateDirectory
from transfer.net.transport import PATIENCE

T = TypeVar("T")
_ASK_AGAIN = 1.0  # seconds between two tries to open a vault that is locked or away


def run(
    args: argparse.Namespace, job: Callable[[Agent], Awaitable[T]], *, create: bool,
    name: str | None, new_domain: bool,
) -> T:  # fmt: skip
    state = args.state or default_state()
    secret = Secret(passphrase_from(args), recovery_key_from(args))

    patience = getattr(args, "give_up_after", None)
    reach = Reach(getattr(args, "connections", None), PATIENCE if patience is None else patience)

    def opening() -> AbstractAsyncContextManager[Agent]:
        return open_agent(
            state, args.vault, secret, create=create, name=name, new_domain=new_domain, reach=reach
        )

    async def main() -> T:
        async with AsyncExitStack() as stack:
            agent = await _patiently(lambda: stack.enter_async_context(opening()), patience or 0.0)
            async with limited(agent, _limits(args)) as run:
                _reload_on_hangup(state)
                return await job(run)

    return run_async(main())


def _limits(args: argparse.Namespace) -> RunLimits:
    given = {name: getattr(args, name, None) for name in ("up", "down", "weight")}
    return RunLimits(**given, name=getattr(args, "class_name", "backup"))


def _reload_on_hangup(state: Path) -> None:
    """SIGHUP: the timetable was edited. All runs of this machine hear of it, this one included."""
    if sys.platform != "win32":
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, _reload, state)


def _reload(state: Path) -> None:
    told = control.tell(StateDirectory(state), "reload")
    for error in sorted({each["error"] for each in told.values() if "error" in each}):
        print(f"warning: the limits stay as they are: {printable(error)}", file=sys.stderr)


async def _patiently(enter: Callable[[], Awaitable[Agent]], patience: float) -> Agent:
    """Open the agent, for *patience* seconds again while its vault is locked or away."""
    give_up = time.monotonic() + patience
    while True:
        try:
            return await enter()
        except (LockHeld, VaultUnavailable):  # a far vault has been asked for as long already
            left = give_up - time.monotonic()
            if left <= 0:
                raise
        await asyncio.sleep(min(_ASK_AGAIN, left))


def run_async(work: Awaitable[T]) -> T:
    """Run *work* to its end; SIGINT and SIGTERM cancel it and raise KeyboardInterrupt."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_stoppable(work))


def new_loop() -> asyncio.AbstractEventLoop:
    gc.freeze()  # what was imported stays: nobody need look at it again and again
    loop = _fastest_loop()
    loop.set_exception_handler(_unheard)
    return loop


def _fastest_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A connection that breaks when nobody waits for it any longer is no news for a terminal."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


async def _stoppable(work: Awaitable[T]) -> T:
    loop = asyncio.get_running_loop()
    task: asyncio.Future[T] = asyncio.ensure_future(work)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    if sys.platform != "win32":
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if stopped:
            raise KeyboardInterrupt from None
        raise
