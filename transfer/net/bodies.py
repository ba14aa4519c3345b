"""Bodies of requests: sizes are known before they are read, frames are looked at as they come.

Control bodies are small and read whole. Frames go into memory that is lent from one pool, with a
share for each machine: a request waits for its memory before its body is read.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from aiohttp import web

from transfer.errors import FormatError
from transfer.formats import documents, frame
from transfer.net.buffers import ReceiveBuffers
from transfer.net.problems import CallRefused
from transfer.net.slow_body import LARGE_PIECE, SlowBody, TooSlow, read_into
from transfer.vault.base import MAX_BODY, MAX_FRAMES

Body = TypeVar("Body", bound=msgspec.Struct)
Default = TypeVar("Default", int, None)
_NUMBER, _IDENTIFIER = re.compile("[0-9]{1,19}"), re.compile("[0-9a-f]{32}")


def _asked(request: web.Request, name: str) -> str:
    """Two values of one name are an argument between whoever reads the first and the last."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise CallRefused(400, f"{name} is in the query more than once")
    return values[0] if values else ""


def number(request: web.Request, name: str, least: int = 0, most: int = 2**63 - 1) -> int:
    """A number in the query."""
    text = _asked(request, name)
    if _NUMBER.fullmatch(text) is None:
        raise CallRefused(400, f"{name} is missing from the query, or no number")
    if not least <= int(text) <= most:
        raise CallRefused(400, f"{name} is not from {least} to {most}")
    return int(text)


def optional_number(
    request: web.Request, name: str, default: Default, most: int = 2**63 - 1
) -> int | Default:
    return number(request, name, most=most) if name in request.query else default


def identifier(request: web.Request, name: str) -> bytes:
    """16 bytes in hex, in the query."""
    text = _asked(request, name)
    if _IDENTIFIER.fullmatch(text) is None:
        raise CallRefused(400, f"{name} is missing from the query, or no ID")
    return bytes.fromhex(text)


def choice(request: web.Request, name: str, among: tuple[str, ...]) -> str:
    """One of several words in the query; the first when there is none."""
    if name not in request.query:
        return among[0]
    text = _asked(request, name)
    if text not in among:
        raise CallRefused(400, f"{name} is not one of: {', '.join(among)}")
    return text


def size_of(request: web.Request, limit: int) -> int:
    size = request.content_length
    if size is None:
        raise CallRefused(411, "a body needs a Content-Length")
    if size > limit:
        raise CallRefused(413, f"a body of {size} bytes; this call takes at most {limit}")
    return size


async def whole(request: web.Request, limit: int) -> bytes:
    """A control body; raises CallRefused for one that is too large, too slow or cut short."""
    buffer = bytearray(size_of(request, limit))
    try:
        got = await read_into(request.content, memoryview(buffer), SlowBody())
    except TooSlow as error:
        raise CallRefused(408, "the body came too slowly", "send it again") from error
    if got < len(buffer):
        raise CallRefused(400, "the body was cut short", "send it again")
    return bytes(buffer)


async def document(request: web.Request, kind: type[Body], limit: int) -> Body:
    return documents.decode(await whole(request, limit), kind, "the request")


class Arriving:
    """Frames in a buffer that fills: where the last whole one ends.

    A bad header ends the request at once: nothing behind it can be told apart any more.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self.end = self.frames = 0
        self._filled = 0

    def more(self, count: int) -> None:
        """*count* more bytes are there. Raises FormatError, NewerFormat."""
        self._filled += count
        there = self._buffer[: self._filled]
        while (header := frame.decode_header(there, self.end)) is not None:
            if self.end + header.frame_length > len(self._buffer):
                raise FormatError(f"offset {self.end}: the last frame is cut short")
            if self.end + header.frame_length > self._filled:
                return
            self.frames += 1
            if self.frames > MAX_FRAMES:
                raise FormatError(f"a request holds at most {MAX_FRAMES} frames")
            self.end += header.frame_length


@asynccontextmanager
async def frames(
    request: web.Request, buffers: ReceiveBuffers, machine: bytes
) -> AsyncIterator[tuple[memoryview, bool]]:
    """The whole frames that arrived, and whether that is all of the body.

    They are there only inside the block.
    """
    size = size_of(request, MAX_BODY)
    async with buffers.lease(machine, size) as view:
        arriving = Arriving(view)
        try:
            got = await read_into(request.content, view, SlowBody(), arriving.more, LARGE_PIECE)
        except TooSlow:
            got = -1
        if got == size and arriving.end < size:
            raise FormatError(f"offset {arriving.end}: the last frame is cut short")
        with view[: arriving.end] as whole:
            yield whole, got == size
