"""Live QEMU disks: persistent bitmaps of ours record what changes, QEMU serves the view.

    transfer-CHAIN-TOKEN      a bitmap that records from a view's moment on; its mark names it

A view adds the bitmap of the next mark; the one of the mark before stays, and records, until a
commit. All others of the chain go at the next view. QEMU writes bitmaps to the qcow2 file when it
closes it, and calls them inconsistent after an unclean end: then they are worthless, and go.

A disk that keeps no bitmaps is read in full. Memory: what the NBD clients need, two a disk.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress

import msgspec

from transfer.errors import ProtocolBroken, SourceFailed, TransferError, UsageError
from transfer.formats.point import Consistency, Mark
from transfer.sources import qemu_disks
from transfer.sources.bitmaps import PREFIX, BitmapMark, BitmapState, Tracked, seen_file
from transfer.sources.changes import HistoryLost, Offered, Since
from transfer.sources.guest_agent import Frozen
from transfer.sources.live_disk import LiveDisk
from transfer.sources.qemu_disks import Disk
from transfer.sources.qemu_remains import machine, release, release_bitmaps, release_places
from transfer.sources.qemu_view import BROKEN, Viewer, Wanted
from transfer.sources.qmp import Qmp
from transfer.sources.qmp_address import QmpAddress
from transfer.waiting import to_the_end

OLDEST = (7, 1, 0)


class LiveView:
    """*why* its disks are no better than after a power cut, though more was asked for."""

    def __init__(self, viewer: Viewer, disks: Sequence[LiveDisk], frozen: Frozen) -> None:
        self._viewer, self.disks, self.moment = viewer, disks, viewer.moment
        self.consistency = Consistency.FILE_SYSTEM if frozen.is_quiet else Consistency.CRASH
        self.why, self.is_committed = frozen.why, False

    @property
    def bytes_fleece(self) -> int:
        return sum(space.used for space in self._viewer.space.values())

    async def check(self) -> bool:
        await self._viewer.weigh()
        try:
            for disk in self.disks:
                await disk.probe()
        except SourceFailed as error:
            if error.number not in BROKEN:
                raise
            raise self._viewer.why_broken() from error
        return True

    async def commit(self) -> None:
        self.is_committed = True

    async def explained(self, error: TransferError) -> TransferError:
        """Why a read may have failed with that; of a view that broke, QEMU answers twice."""
        try:
            await self.check()
        except TransferError as found:
            return found
        return error


class LiveSource:
    name = "qmp"

    def __init__(self, address: QmpAddress) -> None:
        self._address = address

    @asynccontextmanager
    async def open(self, since: Since) -> AsyncIterator[LiveView]:
        async with await Qmp.connect(self._address.socket) as qmp:
            run = _Run(qmp, self._address, since)
            try:
                async with AsyncExitStack() as clients:
                    view = await run.view(clients)
                    try:
                        yield view
                    except (SourceFailed, ProtocolBroken) as error:
                        if (found := await view.explained(error)) is not error:
                            raise found from error
                        raise
                if view.is_committed:
                    await to_the_end(run.drop([each.before for each in run.wanted]))
            finally:
                await to_the_end(run.release())

    async def offered(self) -> list[Offered]:
        async with await Qmp.connect(self._address.socket) as qmp:
            disks = qemu_disks.chosen((await machine(qmp)).disks(), self._address.disks)
        return [Offered(disk.name, disk.why_unseen or disk.untracked) for disk in disks]

    async def clean(self, whose: Since | None) -> list[str]:
        async with await Qmp.connect(self._address.socket) as qmp:
            found = await machine(qmp)
            names = [disk.name for disk in found.disks()]
            chains = set(map(whose.chain, names)) if whose else found.chains()
            gone = await release(qmp, chains)
            gone += await release_bitmaps(qmp, chains)
            place = self._address.fleece
            await release_places(qmp, place, _machine_chain(whose, self._address) if whose else "")
            return [f"{self._address.socket}: {name}" for name in gone]


def _machine_chain(since: Since, address: QmpAddress) -> str:
    """That of the machine, which no disk's can be: an item may have disks of several."""
    return since.chain(b"\0" + os.fsencode(address.socket))


class _Run:
    def __init__(self, qmp: Qmp, address: QmpAddress, since: Since) -> None:
        self._qmp, self._address, self._since = qmp, address, since
        self.wanted: list[Wanted] = []
        self._viewer: Viewer | None = None
        self._chain = _machine_chain(since, address)

    async def view(self, clients: AsyncExitStack) -> LiveView:
        if self._qmp.version < OLDEST:
            shown = ".".join(map(str, self._qmp.version))
            raise UsageError(f"this is QEMU {shown}", "7.1 is the first that can do this")
        await self.release()
        disks = qemu_disks.chosen((await machine(self._qmp)).disks(), self._address.disks)
        qemu_disks.check_viewable(disks)
        lost: list[str] = []
        marks: list[Mark | None] = []
        for disk in disks:
            wanted, why = await self._wanted(disk)
            self.wanted.append(wanted)
            lost.append(why)
            marks.append(self._next_mark(wanted))
        self._viewer = Viewer(self._qmp, self._address, self._chain, self.wanted)
        frozen = Frozen(self._address.agent, self._address.freeze)
        await self._viewer.open(frozen if self._address.agent else nullcontext())
        viewed = []
        for each, mark, why in zip(self.wanted, marks, lost, strict=True):
            old = self._since.mark(LiveSource.name, each.disk.name)
            made = LiveDisk(self._viewer, each, mark, old.size if old else 0, why)
            viewed.append(await clients.enter_async_context(made))
        return LiveView(self._viewer, viewed, frozen)

    async def _wanted(self, disk: Disk) -> tuple[Wanted, str]:
        before, why = self._judged(disk)
        new, chain = "", self._since.chain(disk.name)
        if self._since.tracks:
            await self._drop_others(disk, before)
            if not disk.untracked and disk.size:
                new = f"{PREFIX}{chain}-{secrets.token_hex(8)}"
        return Wanted(disk, chain, new, before), why

    def _judged(self, disk: Disk) -> tuple[str, str]:
        """The bitmap that has what changed since the mark; or none, and why."""
        mark = self._since.mark(LiveSource.name, disk.name)
        try:
            return _tracked(disk).since(mark, self._since.chain(disk.name)), ""
        except HistoryLost as lost:
            return "", lost.why

    def _next_mark(self, wanted: Wanted) -> Mark | None:
        if not wanted.new:
            return None
        token = BitmapMark(wanted.new, [seen_file(name) for name in wanted.disk.behind])
        return Mark(LiveSource.name, wanted.chain, msgspec.json.encode(token), wanted.disk.size)

    async def _drop_others(self, disk: Disk, keep: str) -> None:
        prefix = f"{PREFIX}{self._since.chain(disk.name)}-"
        names = [each.name for each in disk.bitmaps if each.name.startswith(prefix)]
        for name in (each for each in names if each != keep):
            with suppress(SourceFailed):  # one that cannot be removed now is some other time
                await self._qmp.ask("block-dirty-bitmap-remove", node=disk.node, name=name)

    async def drop(self, names: Sequence[str]) -> None:
        for each, name in zip(self.wanted, names, strict=True):
            if name:
                with suppress(TransferError):
                    await self._qmp.ask("block-dirty-bitmap-remove", node=each.disk.node, name=name)

    async def release(self) -> None:
        """What this run put into the machine, or a dead one of the same chains. May be repeated."""
        with suppress(TransferError):  # the machine has ended, or the next run finds it
            disks = (await machine(self._qmp)).disks()
            await release(self._qmp, {self._since.chain(disk.name) for disk in disks})
            await release_places(self._qmp, self._address.fleece, self._chain)
        if self._viewer is not None:
            await asyncio.to_thread(self._viewer.free)


def _tracked(disk: Disk) -> Tracked:
    """A bitmap that is not persistent ends with QEMU, so it is as one that was disabled."""
    bitmaps = {
        each.name: BitmapState(each.is_consistent, each.is_recording and each.is_persistent)
        for each in disk.bitmaps
    }
    behind = [seen_file(name) for name in disk.behind]
    return Tracked(disk.size, bitmaps, behind, disk.untracked, "there")
