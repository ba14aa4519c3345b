"""Control of runs that are under way: a socket for each, in the state directory.

    runs/PID-N      a Unix socket, which only this user may connect to

A request is a line of JSON, {"do": "reload"} or {"do": "show"}, and so is the answer. `reload` puts
the machine's limits in force as the files say them now: whoever changes the files tells all runs.
"""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from transfer.errors import TransferError
from transfer.jobs import machine_limits
from transfer.jobs.state import StateDirectory, state_errors
from transfer.throttle.dispatch import DIRECTIONS
from transfer.throttle.throttle import Throttle

_DIRECTORY = "runs"
_MAX_LINE = 4096
_PATIENCE = 2.0  # seconds that a run may take to answer


@asynccontextmanager
async def listening(state: StateDirectory, throttle: Throttle) -> AsyncIterator[None]:
    """Within the block the run whose limits *throttle* has is to be found, and to be told."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                reply = _done(await reader.readline(), state, throttle)
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        writer.close()

    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    with _directory(state) as (path, short), _listener(path, short, name) as listener:
        server = await asyncio.start_unix_server(answer, sock=listener, limit=_MAX_LINE)
        try:
            yield
        finally:
            server.close()


@contextmanager
def _listener(path: Path, short: str, name: str) -> Iterator[socket.socket]:
    """It has its name only once it listens: one that refuses is taken for a dead run's."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with state_errors(path):
            made.bind(f"{short}/.{name}")
            made.listen()
            os.rename(path / f".{name}", path / name)
        yield made
    finally:
        made.close()
        for each in (name, f".{name}"):
            (path / each).unlink(missing_ok=True)


def _done(line: bytes, state: StateDirectory, throttle: Throttle) -> dict[str, Any]:
    match json.loads(line):
        case {"do": "reload"}:
            try:
                machine_limits.apply(throttle, state)
            except TransferError as error:
                return {"error": error.message}
            return {}
        case {"do": "show"}:
            return {each: _shown(throttle, each) for each in DIRECTIONS}
    return {"error": "unknown request"}


def _shown(throttle: Throttle, direction: Any) -> dict[str, Any]:
    stats = throttle.stats(direction)
    classes = stats.classes.values()
    return {
        "rate": stats.rate, "waiting": sum(each.waiting for each in classes),
        "granted": sum(each.granted for each in classes),
    }  # fmt: skip


def tell(state: StateDirectory, request: str) -> dict[str, dict[str, Any]]:
    """What each run that is under way answers, by its name; what dead ones left is removed."""
    answers: dict[str, dict[str, Any]] = {}
    with _directory(state) as (path, short):
        for name in sorted(each for each in os.listdir(path) if not each.startswith(".")):
            answer = _asked(f"{short}/{name}", request)
            if answer is None:
                (path / name).unlink(missing_ok=True)
            else:
                answers[name] = answer
    return answers


def _asked(address: str, request: str) -> dict[str, Any] | None:
    """None if nobody listens there any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_PATIENCE)
        try:
            client.connect(address)
            client.sendall(json.dumps({"do": request}).encode() + b"\n")
            with client.makefile("rb") as answer:
                found = json.loads(answer.readline(_MAX_LINE) or b"{}")
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except (OSError, ValueError):
            return {"error": "it does not answer"}
    return found if isinstance(found, dict) else {"error": "it does not answer"}


@contextmanager
def _directory(state: StateDirectory) -> Iterator[tuple[Path, str]]:
    """Of the sockets, and a short name of it: an address of one has at most 107 bytes."""
    path = state.path / _DIRECTORY
    with state_errors(path):
        path.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield path, f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
