"""The laws of change sources: see transfer/sources/changes.py.

A module that has a fixture `bench` imports all tests of this one. It has a source and its disk:

    source       a ChangeSource
    write(random)   change the disk: data, zeros, holes; the extents that it touched
    resize(size)    another size, where the source has such disks (`grows`)
    content()       all bytes of the disk
    grain           bytes; of what changes at least so many are called changed
    disk            the name that the disk has in its view
    least           bytes that are called changed when nothing is
    objects()       names of what any chain has left beside or in the disk
"""

import os
import random
from pathlib import Path

import pytest

from transfer.sources.changes import HistoryLost, Since
from transfer.sources.exports import NbdContent
from transfer.sources.nbd_reader import NbdReader

ONE, OTHER = b"vault one, item one", b"vault one, item two"


class Chain:
    """What a vault would know of one chain: the disk at its newest point, and the marks."""

    def __init__(self, bench, protects=ONE):
        self.bench, self.protects = bench, protects
        self.content, self.marks = b"", []
        self.why = ""

    def since(self):
        return Since(self.protects, self.marks)

    async def run(self, end="commit"):
        """One backup; how many bytes were called changed, None if history was lost.

        *end*: commit; abort: no point; doubt: there is a point, but the run did not hear of it.
        """
        async with self.bench.source.open(self.since()) as view:
            (disk,) = view.disks
            now = await read(disk)
            extents = await self._changed(disk)
            if extents is not None:
                check(extents, self.content, now)
            assert await view.check()
            if end == "commit":
                await view.commit()
        assert now == self.bench.content()
        if end != "abort":
            self.content, self.marks = now, [disk.mark] if disk.mark else []
        return None if extents is None else sum(length for _, length in extents)

    async def _changed(self, disk):
        try:
            return [extent async for extent in disk.changed()]
        except HistoryLost as lost:
            self.why = lost.why
            return None


async def read(disk):
    room = bytearray(disk.size)
    with memoryview(room) as view:
        if isinstance(disk.content, NbdContent):
            with NbdReader(disk.content.address) as reader:
                reader.read_into(0, view)
        else:
            file = disk.content
            view[:] = Path(os.fsdecode(file.place.path), os.fsdecode(file.name)).read_bytes()
    if disk.data is not None:
        zeros, at = bytearray(disk.size), 0
        for offset, length in await disk.data(0, disk.size):
            assert offset >= at
            at = offset + length
            zeros[offset:at] = room[offset:at]
        assert zeros == room
    return bytes(room)


def check(extents, before, now):
    """What was there, with the extents of what is there now, is what is there now."""
    made, at = bytearray(before[: len(now)].ljust(len(now), b"\0")), 0
    if len(before) < len(now):  # whoever grows need not be told: it counts as changed
        made[len(before) :] = now[len(before) :]
    for offset, length in extents:
        assert offset >= at and length > 0
        at = offset + length
        made[offset:at] = now[offset:at]
    assert at <= len(now)
    assert made == now


def touched(extents, grain):
    """The bytes of all grains that are at least partly in them."""
    ends = [(at // grain, -(-(at + length) // grain)) for at, length in extents]
    return len({number for first, end in ends for number in range(first, end)}) * grain


@pytest.mark.parametrize("seed", range(2))
async def test_ten_rounds_of_which_some_end_badly(bench, seed):
    chosen, chain = random.Random(seed), Chain(bench)
    assert await chain.run() is None
    ends = ["commit"] * 6 + ["abort"] * 2 + ["doubt"] * 2
    chosen.shuffle(ends)
    written = []
    for end in ends:
        written += bench.write(chosen)
        changed = await chain.run(end)
        assert changed is not None, chain.why
        assert changed <= touched(written, bench.grain) + bench.least
        written = written if end == "abort" else []
    assert len(bench.objects()) <= 2
    await chain.run()
    assert await chain.run() <= bench.least
    assert len(bench.objects()) == 1


async def test_what_grows_or_shrinks_is_right_in_the_next_view(bench):
    if not bench.grows:
        pytest.skip("disks of this source keep their size")
    chosen, chain = random.Random(5), Chain(bench)
    await chain.run()
    for part in (3, -2, 1.5, -0.5):
        bench.resize(len(chain.content) + int(part * 2**20))
        bench.write(chosen)
        known = await chain.run() is not None
        assert known or part < 0, chain.why


async def test_what_shrank_and_grew_again_between_two_views_is_right_in_the_next(bench):
    if not bench.grows:
        pytest.skip("disks of this source keep their size")
    chosen, chain = random.Random(9), Chain(bench)
    await chain.run()
    for smaller, larger in ((5, 0), (5, 2), (3, -1), (1, 0)):
        size = len(chain.content)
        bench.resize(size - smaller * 2**20)
        bench.resize(size + larger * 2**20)
        bench.write(chosen)
        await chain.run()
    bench.write(chosen)
    assert await chain.run() is not None, chain.why


async def test_a_chain_knows_nothing_of_another_one(bench):
    chosen, one, other = random.Random(6), Chain(bench), Chain(bench, OTHER)
    await one.run()
    bench.write(chosen)
    assert await other.run() is None
    bench.write(chosen)
    assert await one.run() is not None, one.why
    assert await other.run("abort") is not None, other.why
    bench.write(chosen)
    assert await other.run() is not None, other.why
    assert await one.run() is not None, one.why
    assert len(bench.objects()) == 2


async def test_a_mark_of_another_time_is_lost_history(bench):
    chosen, chain = random.Random(7), Chain(bench)
    await chain.run()
    first, marks = chain.content, chain.marks
    bench.write(chosen)
    assert await chain.run() is not None
    chain.content, chain.marks = first, marks  # the newest point was deleted, or the vault put back
    bench.write(chosen)
    assert await chain.run() is None
    bench.write(chosen)
    assert await chain.run() is not None, chain.why


async def test_a_run_that_keeps_no_track_leaves_nothing(bench):
    chosen, chain = random.Random(8), Chain(bench)
    await chain.run()
    before = bench.objects()
    bench.write(chosen)
    async with bench.source.open(Since(ONE, chain.marks, tracks=False)) as view:
        extents = [extent async for extent in view.disks[0].changed()]
        check(extents, chain.content, await read(view.disks[0]))
    assert bench.objects() == before
    assert await chain.run() is not None, chain.why
