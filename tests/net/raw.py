"""Calls that our own client would never make, on real connections."""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp

from transfer.crypto import certificates


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict

    @property
    def code(self):
        """Of a problem; None for an answer that is good."""
        return json.loads(self.body)["code"] if self.status >= 400 else None

    @property
    def said(self):
        return self.status, self.code


async def ask(far, identity, method, path, body=b"", **headers):
    connector = aiohttp.TCPConnector(ssl=far.context(identity))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(
            method, far.url + path, data=body or None, headers=headers,
            server_hostname=certificates.server_name(far.vault_id), allow_redirects=False,
        ) as response,
    ):  # fmt: skip
        return Answer(response.status, await response.read(), dict(response.headers))


@asynccontextmanager
async def connected(far, identity=None, **options):
    """A stream to the server, TLS done."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", far.port, ssl=far.context(identity),
        server_hostname=certificates.server_name(far.vault_id), **options,
    )  # fmt: skip
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def head(method, path, *lines):
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: v", *lines, "", "")).encode()


async def read_answer(reader):
    """(status, headers, body) of one answer with a Content-Length."""
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode().strip().split("\r\n")
    headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(first.split()[1]), body, headers)
