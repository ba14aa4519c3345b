"""What a backup of live disks has of them, without a vault."""

import asyncio

from tests.sources.live import READ, WRITE, Wire
from transfer.sources.changes import HistoryLost, Since

MIB = 1 << 20


class Copies:
    """What a backup has of the disks: the last point's content and marks."""

    def __init__(self, source, protects=b"item"):
        self.source, self.protects = source, protects
        self.marks, self.content, self.lost = [], {}, {}
        self.extents = {}

    def since(self, **options):
        return Since(self.protects, self.marks, **options)

    async def read(self, view):
        """All disks as the view has them, made of the last content and the changes."""
        now = {}
        self.grain = view.disks[0]._viewer.grain
        for disk in view.disks:
            old = self.content.get(disk.name, b"")
            made = bytearray(old[: disk.size]).ljust(disk.size, b"\0")
            try:
                extents = [each async for each in disk.changed()]
                self.lost[disk.name] = ""
            except HistoryLost as lost:
                extents, self.lost[disk.name] = [(0, disk.size)], lost.why
                made = bytearray(disk.size)
            self.extents[disk.name] = extents
            for offset, length in extents:
                await disk.read_into(offset, memoryview(made)[offset : offset + length])
            now[disk.name] = made
        assert await view.check()
        return now

    @property
    def changed(self):
        """Numbers of d0's MiB that the last view called changed: its end at the mark is always."""
        spans = [range(at // MIB, -(-(at + length) // MIB)) for at, length in self.extents[b"d0"]]
        return [number for span in spans for number in span]

    async def run(self, commits=True, in_doubt=False):
        """One backup, as it ends if it commits, is aborted, or nobody heard whether it did."""
        async with self.source.open(self.since()) as view:
            now = await self.read(view)
            if commits and not in_doubt:
                await view.commit()
        if commits:
            self.content, self.marks = now, [d.mark for d in view.disks if d.mark]
        return now


async def read_at_once(daemon, copies):
    """A backup that commits, of disks that nobody writes; they must be what the guest has."""
    now = await copies.run()
    for number in range(len(daemon.sizes)):
        with Wire(daemon.nbd, f"live{number}") as wire:
            assert now[b"d%d" % number] == wire(READ, 0, wire.size)
    return now


def write(daemon, number, offset, data):
    with Wire(daemon.nbd, f"live{number}") as wire:
        wire(WRITE, offset, len(data), data)


async def read_at_once_under(guest, copies):
    before = guest.copies()
    now = await copies.run()
    seen = [now[name] for name in sorted(now)]
    assert guest.moment(before, seen, len(guest.log)) is not None


async def resized(daemon, size):
    """No export allows that while it is there."""
    await daemon.ask("block-export-del", id="live0")
    while "live0" in [each["id"] for each in await daemon.ask("query-block-exports")]:
        await asyncio.sleep(0.005)
    await daemon.ask("block_resize", node_name="top0", size=size)
    daemon.sizes[0] = size
    export = {"type": "nbd", "id": "live0", "name": "live0", "node-name": "top0"}
    await daemon.ask("block-export-add", writable=True, **export)
