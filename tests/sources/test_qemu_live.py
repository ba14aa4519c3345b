"""Live disks: a real daemon, and a guest that never stops writing."""

import asyncio
import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.sources.copies import Copies, read_at_once, read_at_once_under, resized, write
from tests.sources.guest_agent import ScriptedAgent
from tests.sources.live import READ, TRIM, ZEROES, Guest, Wire
from transfer.errors import NotFound, SourceFailed, UsageError, ViewBroken
from transfer.formats.point import Consistency
from transfer.sources.changes import Since
from transfer.sources.qemu_disks import own
from transfer.sources.qemu_live import LiveSource

MIB = 1 << 20


def touched(extents, grain):
    for offset, length in extents:
        yield from range(offset // grain, -(-(offset + length) // grain))


async def rounds(daemon, copies, seed, ends):
    """Backups that end so, of a guest that goes on writing. Gives what it wrote since the one
    before the last: (disk, offset, length)."""
    starts = []
    with Guest(daemon, seed) as guest:
        for end in ends:
            guest.settle()
            before = guest.copies()
            starts.append(before[0])
            is_first = not copies.marks
            now = await copies.run(commits=end != "abort", in_doubt=end == "doubt")
            assert guest.moment(before, [now[b"d0"], now[b"d1"]], len(guest.log)) is not None
            assert is_first or copies.lost == {b"d0": "", b"d1": ""}
        assert guest.error is None
    return [(number, at, len(now)) for number, at, now in guest.log[starts[-2] :]]


async def ten_rounds(daemon, seed):
    copies = Copies(LiveSource(daemon.address()))
    await rounds(daemon, copies, seed, ["commit", "commit", "abort", "commit", "doubt"])
    await resized(daemon, 24 * MIB)
    written = await rounds(daemon, copies, seed, ["abort", "commit", "doubt", "commit", "commit"])
    for number, name in enumerate((b"d0", b"d1")):
        changes = [(at, length) for disk, at, length in written if disk == number]
        end = len(copies.content[name]) - 1  # its bit is always there
        read = set(touched(copies.extents[name], copies.grain))
        assert read <= set(touched([*changes, (end, 1)], copies.grain))
    left, bitmaps = await daemon.state()
    assert (left, len(bitmaps)) == ([], 2)


async def test_ten_rounds_give_the_disks_of_one_moment_each(daemon):
    await ten_rounds(daemon, 6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
async def test_so_it_is_whatever_the_guest_does(daemon, seed):
    await ten_rounds(daemon, seed)


async def test_a_disk_that_keeps_no_bitmaps_is_read_in_full_at_the_moment_of_the_others(started):
    daemon = started(4 * MIB, 4 * MIB, raw=[1])
    copies = Copies(LiveSource(daemon.address()))
    with Guest(daemon, seed=1) as guest:
        for _ in range(3):
            guest.settle()
            before = guest.copies()
            now = await copies.run()
            seen = [now[b"d0"], now[b"d1"]]
            assert guest.moment(before, seen, len(guest.log)) is not None
    assert copies.lost == {b"d0": "", b"d1": "file keeps no bitmaps, qcow2 does"}
    assert [mark.epoch for mark in copies.marks] == [copies.since().chain(b"d0")]


async def test_a_disk_that_nobody_may_write_is_read_as_it_is(started):
    daemon = started(4 * MIB, 4 * MIB, idle=[1])
    copies = Copies(LiveSource(daemon.address()))
    await read_at_once(daemon, copies)
    await read_at_once(daemon, copies)
    assert copies.lost == {b"d0": "", b"d1": "it is read-only, and keeps no bitmaps"}


async def test_what_is_read_is_what_changed(small):
    copies = Copies(LiveSource(small.address()))
    await read_at_once(small, copies)
    write(small, 0, 2 * MIB + 4096, b"x" * 4096)
    await read_at_once(small, copies)
    assert copies.changed == [2, 3]


async def test_disks_are_chosen_by_node_or_export(daemon):
    for wanted, found in (((), ["d0", "d1"]), (("live1",), ["d1"]), (("top0", "d1"), ["d0", "d1"])):
        async with LiveSource(daemon.address(disks=wanted)).open(Since(b"item")) as view:
            assert [disk.name.decode() for disk in view.disks] == found


async def test_a_disk_that_is_not_there_is_refused_with_those_that_are(daemon):
    with pytest.raises(NotFound) as refused:
        async with LiveSource(daemon.address(disks=("vda",))).open(Since(b"item")):
            pass
    assert refused.value.message == "the machine has no disk vda"
    assert refused.value.hint == "there are: d0/live0/top0, d1/live1/top1"


async def test_one_disk_under_two_names_is_refused(daemon):
    with pytest.raises(UsageError, match="two of them are one disk"):
        async with LiveSource(daemon.address(disks=("d0", "live0"))).open(Since(b"item")):
            pass


async def test_a_disk_without_a_filter_above_it_is_refused_with_what_to_do(started):
    daemon = started(4 * MIB, 4 * MIB, bare=[1])
    with pytest.raises(UsageError) as refused:
        async with LiveSource(daemon.address()).open(Since(b"item")):
            pass
    assert refused.value.message.startswith("d1: there is no filter above it")
    assert "driver=throttle" in refused.value.hint
    async with LiveSource(daemon.address(disks=("d0",))).open(Since(b"item")) as view:
        assert await view.check()


async def test_a_full_fleece_breaks_the_view_and_no_guest(started):
    small = started(32 * MIB)
    copies = Copies(LiveSource(small.address()))
    with Guest(small, seed=2, hot=32 * MIB) as guest:
        await read_at_once_under(guest, copies)
        async with LiveSource(small.address(fleece_size=16 * MIB)).open(copies.since()) as view:
            guest.settle(600)
            with pytest.raises(ViewBroken) as broken:
                await view.check()
        assert broken.value.message == (
            "d0: its guest overwrote too much meanwhile: the fleece of 16 MiB is full"
        )
        assert guest.error is None
        assert (await small.state())[0] == []
        await read_at_once_under(guest, copies)
    assert copies.lost == {b"d0": ""}


async def test_an_error_of_a_view_that_holds_is_raised_as_it_is(small):
    with pytest.raises(SourceFailed, match="a bad sector") as failed:
        async with LiveSource(small.address()).open(Since(b"item")):
            raise SourceFailed("a bad sector")
    assert failed.value.__cause__ is None


def damage_first_block(path):
    """Of a qcow2 file that nobody has open: its first block is said to be where none can be."""
    with path.open("r+b") as file:
        file.seek(40)
        file.seek(int.from_bytes(file.read(8)))
        table = int.from_bytes(file.read(8)) & ((1 << 56) - 512)
        file.seek(table)
        file.write((1 << 63 | 0x50200).to_bytes(8))


async def test_a_disk_that_cannot_be_read_is_no_broken_view(small):
    write(small, 0, 0, b"x" * 65536)
    await small.stop()
    damage_first_block(small.path(0))
    small.start()
    async with LiveSource(small.address()).open(Since(b"item", tracks=False)) as view:
        with pytest.raises(SourceFailed, match="Input/output error"):
            await view.check()


async def test_a_fleece_needs_a_directory(small):
    with pytest.raises(UsageError, match="nowhere: No such file or directory"):
        async with LiveSource(small.address(fleece="/nowhere")).open(Since(b"item")):
            pass


async def test_when_one_fleece_cannot_be_made_no_other_one_is_any_more(
    daemon, tmp_path, monkeypatch
):
    since, program = Since(b"item"), tmp_path / "qemu-img"
    failing = own(since.chain(b"d0"))
    program.write_text(f'#!/bin/sh\ncase "$*" in *{failing}*) exit 1;; esac\nexec sleep 20\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = asyncio.all_tasks()
    with pytest.raises(UsageError, match="qemu-img: it failed"):
        async with LiveSource(daemon.address()).open(since):
            pass
    assert asyncio.all_tasks() == before
    assert await daemon.state() == ([], [])


async def test_what_the_fleeces_hold_is_told(small):
    write(small, 0, 0, bytes([7]) * 2 * MIB)
    async with LiveSource(small.address(fleece_size=24 * MIB)).open(Since(b"item")) as view:
        await view.check()
        empty = view.bytes_fleece
        assert empty < 8 * MIB
        (place,) = small.top.glob("transfer-*")
        assert list(place.iterdir()) == []  # it has no name that somebody would have to remove
        write(small, 0, 0, bytes([8]) * 2 * MIB)
        await view.check()
        assert MIB < view.bytes_fleece - empty < 4 * MIB  # a part was free in its file


async def test_without_a_track_nothing_is_left(small):
    async with LiveSource(small.address()).open(Since(b"item", tracks=False)) as view:
        assert [disk.mark for disk in view.disks] == [None]
    assert await small.state() == ([], [])


async def test_a_filter_is_put_back_with_all_that_it_had(small):
    def options(nodes):
        (top,) = [each for each in nodes if each["node-name"] == "top0"]
        return {**top, "image": 0}

    before = options(await small.ask("query-named-block-nodes", flat=True))
    async with LiveSource(small.address()).open(Since(b"item")):
        write(small, 0, 0, b"x" * MIB)
    assert options(await small.ask("query-named-block-nodes", flat=True)) == before
    with Wire(small.nbd, "live0") as wire:
        wire(TRIM, 0, MIB)
        assert not any(wire(READ, 0, MIB))  # discards still get through


def fleeces_held():
    links = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return [link for link in links if "/transfer-" in link]


async def test_a_cancelled_run_leaves_nothing(daemon):
    opened = asyncio.Event()

    async def run():
        async with LiveSource(daemon.address()).open(Since(b"item", tracks=False)):
            opened.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await opened.wait()
    assert (await daemon.state())[0]
    assert len(fleeces_held()) == 2
    while not task.done():  # whoever is impatient
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert await daemon.state() == ([], [])
    assert fleeces_held() == []


async def test_a_frozen_guest_gives_a_consistent_file_system(daemon, tmp_path):
    with Guest(daemon, seed=3) as guest:
        frozen = []

        def freeze(is_frozen):
            if is_frozen:
                guest.may_write.acquire()
                frozen.append((len(guest.log), [bytes(disk) for disk in guest.disks]))
            else:
                guest.may_write.release()

        with closing(ScriptedAgent(tmp_path / "agent", freeze)) as agent:
            copies = Copies(LiveSource(daemon.address(agent=str(agent.path))))
            for _ in range(2):
                guest.settle()
                async with copies.source.open(copies.since()) as view:
                    guest.settle()
                    now = await copies.read(view)
                    assert (view.consistency, view.why) == (Consistency.FILE_SYSTEM, "")
                    await view.commit()
                copies.content, copies.marks = now, [disk.mark for disk in view.disks]
                assert [now[b"d0"], now[b"d1"]] == frozen[-1][1]
        assert guest.error is None


async def test_without_an_agent_a_view_is_as_after_a_power_cut_and_says_why(small, tmp_path):
    address = small.address(agent=str(tmp_path / "nobody"))
    async with LiveSource(address).open(Since(b"item")) as view:
        assert view.consistency == Consistency.CRASH
        assert view.why.endswith("nobody: No such file or directory")
    async with LiveSource(small.address()).open(Since(b"item")) as view:
        assert (view.consistency, view.why) == (Consistency.CRASH, "")


async def test_zeros_that_a_guest_writes_after_the_moment_are_none_of_the_view(small):
    """QEMU 7.2 calls them zeros of the view where it is asked about more than one cluster."""
    content = bytes([5]) * 4 * MIB
    write(small, 0, 0, content)
    async with LiveSource(small.address()).open(Since(b"item")) as view:
        (disk,) = view.disks
        with Wire(small.nbd, "live0") as wire:
            wire(ZEROES, 0, MIB)
            for offset in (MIB + 65536, 2 * MIB):
                wire(ZEROES, offset, 65536)
        assert await disk.data(0, 4 * MIB) == [(0, 4 * MIB)]
        assert await disk.data(65536, 3 * MIB) == [(65536, 3 * MIB - 65536)]
        seen = bytearray(4 * MIB)
        await disk.read_into(0, memoryview(seen))
        assert seen == content


async def test_what_was_never_written_need_not_be_read(small):
    write(small, 0, 3 * MIB, b"x" * 4096)
    async with LiveSource(small.address()).open(Since(b"item")) as view:
        assert await view.disks[0].data(0, 4 * MIB) == [(3 * MIB, view.disks[0]._viewer.grain)]
