"""Idle qcow2 disks: a persistent bitmap of ours in the file records what changes between runs.

    transfer-CHAIN-TOKEN      a bitmap that records since a view's moment; its mark names it

Whatever opens the file with QEMU to write records in all its bitmaps, so one that is enabled and
consistent knows every change since it was made, and a copy of the file takes both along. QEMU marks
a bitmap in-use while it is not written back: after an unclean end it says so, and is worthless.
What is not seen are writes below a backing file, or past QEMU to a raw data file.

QEMU forgets the bits of what a disk loses when it shrinks, and calls what it gains clean. So each
bitmap gets one bit of ours, that of the disk's end: a disk without it was smaller meanwhile.

A view adds the bitmap of the next mark before it locks the file for reading: what is written in
between is in both. The one of the mark before goes after a commit, and all others at the next view.
"""

import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import msgspec

from transfer.errors import TransferError
from transfer.formats.point import Mark
from transfer.sources import nbd_view, qemu
from transfer.sources.bitmaps import (
    GRANULARITY,
    PREFIX,
    BitmapMark,
    BitmapState,
    Tracked,
    seen_file,
    why_untracked,
)
from transfer.sources.changes import Data, Extent, HistoryLost, Offered, Since
from transfer.sources.exports import NbdContent
from transfer.sources.nbd import NbdClient
from transfer.waiting import to_the_end

_OURS = re.compile(PREFIX + "[0-9a-f]{32}-[0-9a-f]{16}")


class _File:
    """The qcow2 file at *path* as it stands, its chain's bitmaps, and what the mark is worth."""

    def __init__(self, path: bytes, found: list[dict[str, Any]], chain: str) -> None:
        self.path, self.size = path, int(found[0]["virtual-size"])
        details = found[0].get("format-specific", {}).get("data", {})
        self._bitmaps = {
            each["name"]: BitmapState("in-use" not in each["flags"], "auto" in each["flags"])
            for each in details.get("bitmaps", [])
        }
        self._chain, self._prefix = chain, f"{PREFIX}{chain}-"
        self.behind = [seen_file(each["filename"]) for each in found[1:]]
        self.untracked = why_untracked(details)

    def before(self, mark: Mark | None) -> str:
        """The bitmap that records since the mark. Raises HistoryLost."""
        now = Tracked(self.size, self._bitmaps, self.behind, self.untracked, "in the file")
        return now.since(mark, self._chain)

    def ours(self) -> list[str]:
        """Of whatever chain."""
        return [each for each in self._bitmaps if _OURS.fullmatch(each)]

    def others(self, name: str = "") -> list[str]:
        """Those of the chain that have another name."""
        return [each for each in self._bitmaps if each.startswith(self._prefix) and each != name]

    async def add(self) -> str:
        name = self._prefix + secrets.token_hex(8)
        await qemu.image_tool(
            "bitmap", "--add", "-g", str(GRANULARITY), "-f", "qcow2", b"--", self.path, name
        )
        await qemu.mark_end(self.path, self.size, name, GRANULARITY)
        return name

    async def drop(self, name: str) -> None:
        await qemu.image_tool("bitmap", "--remove", "-f", "qcow2", b"--", self.path, name)

    async def remove(self, names: list[str]) -> None:
        """One that cannot be removed now is some other time."""
        for name in names:
            with suppress(TransferError):
                await self.drop(name)


class Qcow2Disk:
    identity = b""

    def __init__(
        self, name: bytes, client: NbdClient, mark: Mark | None, before: str, old: int, why: str
    ) -> None:
        self.name, self.size, self.mark, self._old_size = name, client.size, mark, old
        self.content = NbdContent(client.address)
        self.data: Data | None = partial(nbd_view.data, client)
        self._client, self._before, self._why = client, before, why

    async def changed(self) -> AsyncIterator[Extent]:
        context = nbd_view.bitmap_context(self._before)
        if not self._before or context not in self._client.export.contexts:
            raise HistoryLost(self._why or "the server does not offer the bitmap")
        await nbd_view.check_end(self._client, context, self._old_size)
        async for extent in nbd_view.dirty(self._client, context):
            yield extent


class Qcow2View:
    def __init__(self, disk: Qcow2Disk) -> None:
        self.disks, self.moment, self.is_committed = [disk], time.time_ns(), False

    async def check(self) -> bool:
        return True  # whoever would write to the file waits for the server's end

    async def commit(self) -> None:
        self.is_committed = True


class Qcow2Source:
    name = "qcow2"

    def __init__(self, path: bytes) -> None:
        self._path, self._name = path, os.path.basename(path)

    async def offered(self) -> list[Offered]:
        file = _File(self._path, await qemu.described(self._path), "")
        return [Offered(self._name, file.untracked)]

    async def clean(self, whose: Since | None) -> list[str]:
        chain = whose.chain(self._name) if whose else ""
        file = _File(self._path, await qemu.described(self._path), chain)
        names = file.others() if whose else file.ours()
        for name in names:
            await file.drop(name)
        return [f"{os.fsdecode(self._path)}: bitmap {name}" for name in names]

    @asynccontextmanager
    async def open(self, since: Since) -> AsyncIterator[Qcow2View]:
        chain = since.chain(self._name)
        file = _File(self._path, await qemu.described(self._path), chain)
        before, why, old = "", "", since.mark(self.name, self._name)
        try:
            before = file.before(old)
        except HistoryLost as lost:
            why = lost.why
        mark = None
        if since.tracks:
            await file.remove(file.others(before))
            if not file.untracked:
                token = msgspec.json.encode(BitmapMark(await file.add(), file.behind))
                mark = Mark(self.name, chain, token, file.size)
        named = [before] if before else []
        contexts = [nbd_view.ALLOCATION, *map(nbd_view.bitmap_context, named)]
        async with qemu.served(self._path, named, contexts) as client:
            size = old.size if old else 0
            view = Qcow2View(Qcow2Disk(self._name, client, mark, before, size, why))
            yield view
        if view.is_committed:
            await to_the_end(file.remove(named))
