"""One moment of a running QEMU's disks, and the means to read it while guests go on.

    bitmaps of the next mark -> filters at all disks at once: the moment -> bitmaps since the last

Filters cannot be put in by a transaction. One `blockdev-reopen` of all of them holds all disks
still together, so the moment is one; the bitmaps begin before it, and what the last mark's have is
taken after it. So both have a few writes too many, and none too few.

A block that a guest overwrites goes to the fleece first. When that is full, or slow, the view
breaks and the guest goes on: QEMU's break-snapshot. No job of QEMU's is used, for those answer with
errors to the guest.

**QEMU since 7.1 mixes up what it kept**, until a mend of February 2023 that 7.2.22 lacks. A read
or a block status of a range that begins with blocks that are in the fleece and ends with others is
answered of the live disk as a whole: a view with what a guest wrote later, and no error. What lies
in one cluster of the fleece is answered rightly. So clusters have a *grain* of 1 MiB there, all
extents that we give are whole grains, and no NBD reader of ours asks for what lies in two of them
(`nbd_edge.parts`). Block status is not believed alone: see `live_disk`.
"""

import asyncio
import errno
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from transfer.errors import NoSpace, SourceFailed, UsageError, ViewBroken
from transfer.sources import qemu
from transfer.sources.bitmaps import GRANULARITY
from transfer.sources.nbd_address import NbdAddress
from transfer.sources.qemu_disks import Disk, own
from transfer.sources.qemu_remains import ACCESS, FILTER, FLEECE, SOCKET, view_bitmap
from transfer.sources.qmp import Qmp
from transfer.sources.qmp_address import MIN_FLEECE, QmpAddress

COPY_TIMEOUT = 4
"""Seconds that a guest's write may wait for its old content to be kept. QEMU before 9 has 32 bits
for these in nanoseconds: 5 would be 0.7."""
COARSE = 1 << 20
BROKEN = {errno.EPERM, errno.EACCES, errno.EINVAL}
"""What QEMU answers to reads of a view that broke: EACCES, for which NBD has no number, so that it
comes as EINVAL. A disk that cannot be read has EIO."""
_MENDED = (8, 2, 0)
_LEAST = 1 << 30
_BUSY = "NBD server already running"


class Wanted(NamedTuple):
    """A disk to view: *new* is the bitmap to begin, *before* the one that tells what changed."""

    disk: Disk
    chain: str
    new: str = ""
    before: str = ""

    @property
    def own(self) -> str:
        return own(self.chain)


@dataclass
class Space:
    """Of a fleece, in bytes."""

    used: int
    bound: int


class Viewer:
    """Puts a view into the machine behind *qmp*; `qemu_remains` takes it out, however far it got.

    *chain* is the machine's: its directory bears it.
    """

    def __init__(self, qmp: Qmp, address: QmpAddress, chain: str, wanted: Sequence[Wanted]) -> None:
        self._qmp, self._address, self._chain = qmp, address, chain
        self.wanted, self.moment = wanted, 0
        self._token, self._held = secrets.token_hex(4), list[int]()
        self.grain = GRANULARITY if qmp.version >= _MENDED else COARSE
        self.space: dict[str, Space] = {}

    async def open(self, frozen: AbstractAsyncContextManager[object]) -> None:
        """Returns when the view can be read; *frozen* is held for the moment itself."""
        place = self._place()
        self._socket = self._address.nbd or os.path.join(place, SOCKET)
        await self._serve()
        written = [each for each in self.wanted if each.disk.is_written]
        await self._prepare_all(written, place)
        async with frozen:
            await self._begin([each for each in self.wanted if each.new])
            await self._insert(written)
        self.moment = time.time_ns()
        await self._check_sizes(written)
        await self._since([each for each in self.wanted if each.before])
        for each in self.wanted:
            await self._export(each)

    def address_of(self, each: Wanted, role: str = "") -> NbdAddress:
        """No two views have one: what a worker is connected to ends with its view."""
        return NbdAddress(f"{each.own}{role}-{self._token}".encode(), os.fsencode(self._socket))

    def _place(self) -> str:
        parent = self._address.fleece
        try:
            place = tempfile.mkdtemp(prefix=own(self._chain) + "-", dir=parent)
        except OSError as error:
            hint = "qmp:SOCKET?fleece=DIR names a directory for what guests overwrite meanwhile"
            raise UsageError(f"{parent}: {error.strerror}", hint) from error
        self._lend(place)
        return place

    def _lend(self, path: str) -> None:
        """QEMU may not be who we are."""
        peer = self._qmp.peer
        if os.geteuid() == 0 and peer.user > 0:
            os.chown(path, peer.user, peer.group)

    async def _serve(self) -> None:
        if self._address.nbd:
            return
        try:
            address = {"type": "unix", "data": {"path": self._socket}}
            await self._qmp.ask("nbd-server-start", addr=address)
        except SourceFailed as error:
            if _BUSY in error.message:
                raise ViewBroken(
                    "the machine's NBD server is in use, by a migration or another backup",
                    "wait for its end; if it always runs, say where: qmp:SOCKET?nbd=SOCKET; a "
                    "killed backup's ends by `transfer sources clean --all` with its fleece=DIR",
                ) from error
            raise

    def _bound(self, place: str, count: int) -> "_Bound":
        found = os.statvfs(place)
        free = found.f_bavail * found.f_frsize // 2 // max(count, 1)
        return _Bound(self._address.fleece_size, free, self.grain)

    async def _prepare_all(self, written: Sequence[Wanted], place: str) -> None:
        """Their fleeces. When one fails, none is being made any more, and the first error tells."""
        bound = self._bound(place, len(written))
        works = [partial(self._prepare, each, place, bound(each.disk)) for each in written]
        try:
            async with asyncio.TaskGroup() as group:
                for work in works:
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__

    async def _prepare(self, each: Wanted, place: str, bound: int) -> None:
        """Its fleece."""
        path = os.path.join(place, each.own)
        await qemu.image_tool(
            "create", "-q", "-f", "qcow2", "-o", f"cluster_size={self.grain}", "--", path,
            str(each.disk.size),
        )  # fmt: skip
        if each.new:
            await qemu.add_end(os.fsencode(path), each.disk.size, GRANULARITY)
        os.truncate(path, bound)
        self._lend(path)
        self.space[each.own] = Space(0, bound)
        unsafe = {"direct": False, "no-flush": True}
        file = {"driver": "file", "filename": path, "cache": unsafe}
        await self._qmp.ask(
            "blockdev-add", driver="qcow2", node_name=each.own + FLEECE, cache=unsafe,
            file={"driver": "raw", "size": bound, "file": file, "cache": unsafe},
        )  # fmt: skip
        # To free much space takes long, and who closes the file last does it: not QEMU, if we live.
        self._held.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        os.unlink(path)  # its space is free when QEMU lets go of it, whatever happens to us

    async def _begin(self, tracked: Sequence[Wanted]) -> None:
        """The next mark's bitmaps, each with the bit of its disk's end (see `qcow2`)."""
        actions: list[tuple[str, dict[str, Any]]] = []
        for each in tracked:
            node, end = each.disk.node, {"node": each.own + FLEECE, "name": qemu.END}
            actions += [
                ("block-dirty-bitmap-add", {
                    "node": node, "name": each.new, "persistent": True, "granularity": GRANULARITY,
                }),
                ("block-dirty-bitmap-merge", {"node": node, "target": each.new, "bitmaps": [end]}),
            ]  # fmt: skip
        try:
            await self._qmp.transaction(actions)
        except SourceFailed:
            await self._check_sizes(tracked)  # or bitmaps cannot be merged
            raise
        for each in tracked:  # or the fleece would have to note for it what is written to it
            await self._qmp.ask("block-dirty-bitmap-remove", node=each.own + FLEECE, name=qemu.END)

    async def _insert(self, written: Sequence[Wanted]) -> None:
        options = []
        for each in written:
            await self._qmp.ask(
                "blockdev-add", driver="copy-before-write", node_name=each.own + FILTER,
                file=each.disk.node, target=each.own + FLEECE, on_cbw_error="break-snapshot",
                cbw_timeout=COPY_TIMEOUT,
            )  # fmt: skip
            options.append({**(each.disk.options or {}), "file": each.own + FILTER})
        if options:
            await self._qmp.ask("blockdev-reopen", options=options)

    async def _check_sizes(self, written: Sequence[Wanted]) -> None:
        """A filter keeps the size that its disk had when it was made."""
        listed = await self._qmp.ask("query-named-block-nodes", flat=True)
        sizes = {node["node-name"]: node["image"]["virtual-size"] for node in listed}
        for each in written:
            of_filter = sizes.get(each.own + FILTER, each.disk.size)
            if not each.disk.size == sizes[each.disk.node] == of_filter:
                raise ViewBroken(
                    f"{os.fsdecode(each.disk.name)} was resized meanwhile", "run again"
                )

    async def _since(self, tracked: Sequence[Wanted]) -> None:
        actions: list[tuple[str, dict[str, Any]]] = []
        for each in tracked:
            node, name = each.disk.node, view_bitmap(each.chain)
            actions += [
                ("block-dirty-bitmap-add", {
                    "node": node, "name": name, "disabled": True, "granularity": GRANULARITY,
                }),
                ("block-dirty-bitmap-merge", {
                    "node": node, "target": name, "bitmaps": [each.before],
                }),
            ]  # fmt: skip
        await self._qmp.transaction(actions)

    async def _export(self, each: Wanted) -> None:
        node = each.disk.node
        if each.disk.is_written:
            node = each.own + ACCESS
            await self._qmp.ask(
                "blockdev-add", driver="snapshot-access", node_name=node, file=each.own + FILTER
            )
            fleece, name = each.own + FLEECE, self.address_of(each, FLEECE).export.decode()
            await self._qmp.ask(
                "block-export-add", type="nbd", id=fleece, name=name, node_name=fleece
            )
        bitmaps = [{"node": each.disk.node, "name": view_bitmap(each.chain)}] if each.before else []
        await self._qmp.ask(
            "block-export-add", type="nbd", id=each.own, node_name=node, bitmaps=bitmaps,
            name=self.address_of(each).export.decode(),
        )  # fmt: skip

    def free(self) -> None:
        """The fleeces' space, once QEMU has let go of them. May take long."""
        while self._held:
            os.close(self._held.pop())

    async def weigh(self) -> None:
        """Note what the fleeces hold."""
        for node in await self._qmp.ask("query-named-block-nodes", flat=True):
            if (space := self.space.get(node["node-name"].removesuffix(FLEECE))) is not None:
                space.used = node["image"]["actual-size"]

    def why_broken(self) -> ViewBroken:
        """After a read that failed as BROKEN says, and after `weigh`."""
        for each in self.wanted:
            space = self.space.get(each.own)
            if space and space.used + 2 * self.grain >= space.bound:
                said = f"{os.fsdecode(each.disk.name)}: its guest overwrote too much meanwhile"
                return ViewBroken(
                    f"{said}: the fleece of {space.bound >> 20} MiB is full",
                    "qmp:SOCKET?fleece-size=SIZE&fleece=DIR gives it more",
                )
        return ViewBroken("the old content of a block could not be kept in time", "run again")


class _Bound:
    def __init__(self, given: int, free: int, grain: int) -> None:
        self._given, self._free, self._grain = given, free, grain

    def __call__(self, disk: Disk) -> int:
        """A tenth of the disk and at least 1 GiB, unless the disk is smaller, or the space is."""
        whole = disk.size + disk.size // 64 + max(MIN_FLEECE, 16 * self._grain)
        bound = self._given or min(whole, max(_LEAST, disk.size // 10), self._free)
        if bound < MIN_FLEECE:
            raise NoSpace("no space for a fleece", "qmp:SOCKET?fleece=DIR names another place")
        return bound // GRANULARITY * GRANULARITY
