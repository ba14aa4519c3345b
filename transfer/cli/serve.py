"""`transfer vault serve`: see transfer/cli/vault.py for its options and help."""

import argparse
import asyncio
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from transfer.cli import output
from transfer.cli.running import new_loop
from transfer.errors import UsageError
from transfer.files.system import keep_freed_memory
from transfer.jobs.serve import serving
from transfer.net.routes import Done

_KEPT = 64 * 2**20  # bytes
_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]]+)):([0-9]{1,5})")


def run(args: argparse.Namespace) -> output.Outcome:
    host, port = _listen(args.listen)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        keep_freed_memory(_KEPT)
        address = runner.run(_serve(args, host, port))
    return output.Outcome({"address": address})


def _listen(text: str) -> tuple[str, int]:
    found = _LISTEN.fullmatch(text)
    if found is None or int(found[3]) > 65535:
        raise UsageError(f"--listen {text!r} is no ADDRESS:PORT", "write 0.0.0.0:8443 or [::]:8443")
    return found[1] or found[2], int(found[3])


async def _serve(args: argparse.Namespace, host: str, port: int) -> str:
    """Until SIGINT or SIGTERM; a second one ends it at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if args.until_stdin_closes:
        _when_stdin_closes(lambda: loop.call_soon_threadsafe(stop.set))
    log = _log if args.log_requests else None
    async with serving(args.directory, host, port, log=log) as address:
        if not args.json:
            print(f"listening on {address}", flush=True)
        else:
            print(f'{{"address": "{address}"}}', flush=True)
        await stop.wait()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
    return address


def _when_stdin_closes(tell: Callable[[], object]) -> None:
    """A thread, for an event loop cannot wait for every kind of file; it holds nothing up."""

    def wait() -> None:
        with suppress(OSError):  # there is none
            while os.read(0, 4096):
                pass
        with suppress(RuntimeError):  # the loop has ended before
            tell()

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def _log(done: Done) -> None:
    """One line: who asked for what, and what came of it; without the query, which holds IDs."""
    print(
        f"{output.printable(done.machine)} {done.address} {done.method} "
        f"{output.printable(done.path)} {done.status} {done.received} {done.sent} "
        f"{done.seconds:.3f}s",
        file=sys.stderr, flush=True,
    )  # fmt: skip
