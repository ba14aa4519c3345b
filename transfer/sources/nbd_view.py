"""Disks behind NBD: what workers read, where zeros are, and what a server's bitmap calls dirty."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from transfer.formats.point import Mark
from transfer.sources.changes import Data, Extent, HistoryLost, Offered, Since
from transfer.sources.exports import NbdContent
from transfer.sources.nbd import NbdClient
from transfer.sources.nbd_address import NbdAddress

ALLOCATION = "base:allocation"
_ZERO, _DIRTY = 2, 1  # flags of extents: NBD_STATE_ZERO, and dirty in qemu:dirty-bitmap


def bitmap_context(name: str) -> str:
    return f"qemu:dirty-bitmap:{name}"


async def data(client: NbdClient, start: int, end: int) -> list[Extent]:
    """Extents between *start* and *end* that may hold other bytes than zeros."""
    if ALLOCATION not in client.export.contexts:
        return [(start, end - start)]
    found = client.block_status(ALLOCATION, start, end)
    return [(at, length) async for at, length, flags in found if not flags & _ZERO]


async def dirty(
    client: NbdClient, context: str, start: int = 0, end: int | None = None
) -> AsyncIterator[Extent]:
    """Extents from *start* to *end* that a bitmap of QEMU has as dirty."""
    end = client.size if end is None else end
    async for at, length, flags in client.block_status(context, start, end):
        if flags & _DIRTY:
            yield at, length


async def check_end(client: NbdClient, context: str, size: int) -> None:
    """Raises HistoryLost if the bitmap lacks the bit of the end of a disk of that *size*.

    We set it when we begin the bitmap (`qemu.add_end`), and QEMU drops it when the disk shrinks.
    """
    end = max(0, size - 1)
    if not [extent async for extent in dirty(client, context, end, end + 1)]:
        raise HistoryLost("it was smaller meanwhile")


class NbdDisk:
    mark: Mark | None = None
    identity = b""

    def __init__(self, name: bytes, client: NbdClient) -> None:
        self.name, self.size = name, client.size
        self.content = NbdContent(client.address)
        self.data: Data | None = partial(data, client)

    async def changed(self) -> AsyncIterator[Extent]:
        raise HistoryLost(NbdSource.why)
        yield  # an iterator


class NbdView:
    """Whether somebody writes the disk meanwhile, nothing tells."""

    def __init__(self, disk: NbdDisk) -> None:
        self.disks, self.moment = [disk], time.time_ns()

    async def check(self) -> bool:
        return True

    async def commit(self) -> None:
        pass


class NbdSource:
    """An export of whatever server: it says where zeros are, and everything else is read."""

    name = "nbd"
    why = "nothing tells what changes on an export"

    def __init__(self, address: NbdAddress) -> None:
        self._address = address
        last = address.export.rpartition(b"/")[2] or address.host.encode()
        self._name = last or os.path.basename(address.socket)

    async def offered(self) -> list[Offered]:
        return [Offered(self._name, self.why)]

    async def clean(self, whose: Since | None) -> list[str]:
        return []

    @asynccontextmanager
    async def open(self, since: Since) -> AsyncIterator[NbdView]:
        async with await NbdClient.connect(self._address, contexts=[ALLOCATION]) as client:
            yield NbdView(NbdDisk(self._name, client))
