"""Options that commands share, and how an agent command runs."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from transfer.cli.passphrase import passphrase_from, recovery_key_from
from transfer.errors import UsageError

if TYPE_CHECKING:
    from transfer.jobs.agent import Agent

T = TypeVar("T")


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    parser.add_argument("--verbose", action="store_true", help="say more on stderr")


def add_agent(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    parser.add_argument("--vault", type=Path, metavar="DIR", help="a vault in a directory")
    parser.add_argument("--state", type=Path, metavar="DIR", help="state directory")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE")
    parser.add_argument("--recovery-key-file", type=Path, metavar="FILE")


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="worker processes; 0 uses threads (default: cores)",
    )


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 64:
        raise argparse.ArgumentTypeError("0 to 64")
    return value


def block_size(text: str) -> int:
    """A number of bytes, with K or M (powers of 1024)."""
    factor = {"K": 2**10, "M": 2**20}.get(text[-1:].upper(), 1)
    digits = text[:-1] if factor > 1 else text
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no size; try 1M")
    return int(digits) * factor


def run_agent(
    args: argparse.Namespace, job: "Callable[[Agent], Awaitable[T]]", *, create: bool = False,
    name: str | None = None, new_domain: bool = False,
) -> T:  # fmt: skip
    """Open state, vault and keyring as the options say, and run *job* with them."""
    from transfer.jobs.agent import Secret, default_state, open_agent

    if args.vault is None:
        raise UsageError("no vault", "name a directory with --vault DIR")
    secret = Secret(passphrase_from(args), recovery_key_from(args))

    async def main() -> T:
        async with open_agent(
            args.state or default_state(), args.vault, secret, create=create, name=name,
            new_domain=new_domain,
        ) as agent:  # fmt: skip
            return await job(agent)

    return run_async(main())


def run_async(work: Awaitable[T]) -> T:
    """Run *work* to its end; SIGINT and SIGTERM cancel it and raise KeyboardInterrupt."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(_stoppable(work))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


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


def as_bytes(text: str) -> bytes:
    return os.fsencode(text)
