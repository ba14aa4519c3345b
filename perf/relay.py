"""A relay between a machine and its vault, in a process of its own, that counts bytes as they come.

    python -m perf.relay PORT

It has small socket buffers, prints its port, and when its input ends, what it counted as JSON: for
each direction pairs of the number of a bin of BIN seconds of the monotonic clock, and bytes.
"""

import asyncio
import json
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

import uvloop

BIN = 0.01  # seconds
_SMALL = 64 * 1024


class Counted(NamedTuple):
    up: Counter[int]
    down: Counter[int]


class Relay:
    """The process, between the block's clients at `port` and the vault at the *port* it is given.

    `counted` is there once it was stopped.
    """

    def __init__(self, port: int) -> None:
        self._command = [sys.executable, "-m", "perf.relay", str(port)]
        self.counted = Counted(Counter(), Counter())

    def __enter__(self) -> "Relay":
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close all connections, and see what was counted. Twice is once."""
        if self._process.poll() is None:
            out, _ = self._process.communicate("")
            found = json.loads(out)
            self.counted = Counted(*(Counter(dict(found[name])) for name in ("up", "down")))


async def _serve(port: int) -> None:
    loop, counted = asyncio.get_running_loop(), Counted(Counter(), Counter())

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond = _small_socket()
        await loop.sock_connect(beyond, ("127.0.0.1", port))
        from_vault, to_vault = await asyncio.open_connection(sock=beyond, limit=_SMALL)
        with suppress(asyncio.CancelledError):  # the measurement is over
            await asyncio.gather(
                _pump(reader, to_vault, counted.up), _pump(from_vault, writer, counted.down),
                return_exceptions=True,
            )  # fmt: skip

    listener = _small_socket()
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(accept, sock=listener, limit=_SMALL)
    print(listener.getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    print(json.dumps({"up": list(counted.up.items()), "down": list(counted.down.items())}))


def _small_socket() -> socket.socket:
    made = socket.socket()
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        made.setsockopt(socket.SOL_SOCKET, buffer, _SMALL)
    made.setblocking(False)
    return made


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bins: Counter[int]
) -> None:
    writer.transport.set_write_buffer_limits(_SMALL)
    try:
        while data := await reader.read(_SMALL // 2):
            bins[int(monotonic() / BIN)] += len(data)
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
