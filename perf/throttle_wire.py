"""T3 and T4 on the wire: TCP over loopback, the time stamps are the receiver's."""

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from transfer.policy.token_bucket import SECOND
from transfer.throttle.flow import Flow
from transfer.throttle.throttle import Throttle

if TYPE_CHECKING:
    from perf.throttle import Log, Row

MB = 10**6


def rows(part: float) -> "Iterator[Row]":
    from perf.throttle import Row, worst

    for rate, connections in ((5 * MB, 1), (5 * MB, 16), (50 * MB, 4)):
        log = asyncio.run(received(rate, connections, max(1.2, 10 * part)))
        log = [(at, size) for at, size in log if at >= log[0][0] + SECOND // 10]
        what = f"{rate / MB:g} MB/s over TCP, {connections} connections"
        seconds = (log[-1][0] - log[0][0]) / SECOND
        used = sum(size for _, size in log[1:]) / (rate * seconds)
        yield Row("T4", f"{what}: use of the rate", f"{used:.4f}", "at least 0.99")
        for window, asked in ((1.0, 1.02), (0.1, 1.10)):
            figure = worst(log, window, rate)
            yield Row("T3", f"{what}: worst {window:g} s", figure, f"at most {asked:.2f}")


async def received(rate: int, connections: int, seconds: float) -> "Log":
    throttle = Throttle(up=rate)
    log: Log = []
    async with asyncio.TaskGroup() as group:
        tasks = []
        for _ in range(connections):
            ours, theirs = pair()
            tasks.append(group.create_task(send(throttle.flow("up"), ours)))
            tasks.append(group.create_task(receive(theirs, log)))
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
    throttle.close()
    return log


def pair() -> tuple[socket.socket, socket.socket]:
    """Connected over loopback, with little room in between: what waits there cannot be held."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for each in (ours, theirs):
        each.setblocking(False)
    return ours, theirs


async def send(flow: Flow, connection: socket.socket) -> None:
    loop, data = asyncio.get_running_loop(), memoryview(bytes(flow.quantum))
    with connection:
        while True:
            piece = data[: flow.quantum]
            await flow.take(len(piece))
            await loop.sock_sendall(connection, piece)


async def receive(connection: socket.socket, log: "Log") -> None:
    loop, buffer = asyncio.get_running_loop(), bytearray(256 * 1024)
    with connection:
        while size := await loop.sock_recv_into(connection, buffer):
            log.append((time.monotonic_ns(), size))
