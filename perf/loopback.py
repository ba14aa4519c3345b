"""What TLS costs: bytes over loopback between two ends on one event loop, as the engine has it."""

import asyncio
import ssl
import time
from collections.abc import Sequence

import uvloop

from transfer.crypto import certificates, issuing
from transfer.net import tls
from transfer.policy.token_bucket import MAX_QUANTUM

_VAULT = b"v" * 16


def through_tls(pieces: Sequence[memoryview]) -> None:
    """One connection; slices as bodies have them. Returns when all has arrived."""
    uvloop.run(_through(pieces))


async def _through(pieces: Sequence[memoryview]) -> None:
    ours, theirs = _contexts()
    left = sum(map(len, pieces))
    arrived = asyncio.get_running_loop().create_future()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        while left and (piece := await reader.read(MAX_QUANTUM)):
            left -= len(piece)
        arrived.set_result(None)
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0, ssl=theirs)
    port = server.sockets[0].getsockname()[1]
    name = certificates.server_name(_VAULT)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ours, server_hostname=name)
    for piece in pieces:
        for at in range(0, len(piece), MAX_QUANTUM):
            writer.write(piece[at : at + MAX_QUANTUM])
            await writer.drain()
    await arrived
    writer.close()
    server.close()
    await server.wait_closed()


def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The client's and the server's, of an authority made for this."""
    now = time.time_ns()
    ca, key = issuing.new_ca(_VAULT, now), certificates.new_key()
    chain = [issuing.issue_server(ca, key, _VAULT, [], now)]
    ours = tls.client_context([ca.certificate], None, None, time.time_ns)
    return ours, tls.server_context([ca.certificate], chain, key)
