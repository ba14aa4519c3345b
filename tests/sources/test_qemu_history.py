"""How the history of a live disk is lost and kept: every way gives a correct copy."""

import asyncio
from contextlib import closing

import pytest

from tests.sources.copies import Copies, read_at_once, resized, write
from tests.sources.guest_agent import ScriptedAgent
from transfer.errors import ViewBroken
from transfer.sources.changes import Since
from transfer.sources.qemu_live import LiveSource

MIB = 1 << 20


async def test_bitmaps_survive_that_the_daemon_ends_and_starts(small):
    copies = Copies(LiveSource(small.address()))
    write(small, 0, 0, b"a" * 65536)
    await read_at_once(small, copies)
    write(small, 0, 0, b"b" * 4096)
    await small.stop()
    small.start()
    write(small, 0, 2 * MIB, b"c" * 4096)
    await read_at_once(small, copies)
    assert copies.changed == [0, 2, 3]


async def test_a_daemon_that_was_killed_costs_a_full_read(small):
    copies = Copies(LiveSource(small.address()))
    await read_at_once(small, copies)
    await small.stop()  # now the bitmap is in the file
    small.start()
    write(small, 0, MIB, b"b" * 65536)
    small.kill()
    small.start()
    await read_at_once(small, copies)
    assert copies.lost == {b"d0": "its bitmap was not closed cleanly"}
    await read_at_once(small, copies)
    assert copies.lost == {b"d0": ""}
    assert len((await small.state())[1]) == 1


async def test_what_a_disk_grew_by_has_changed(small):
    copies = Copies(LiveSource(small.address()))
    await read_at_once(small, copies)
    await resized(small, 6 * MIB)
    for offset in (MIB, 5 * MIB):
        write(small, 0, offset, b"x" * 4096)
    await read_at_once(small, copies)
    assert copies.changed == [1, 3, 4, 5]


async def test_a_disk_may_grow_from_within_a_grain(started):
    daemon = started(4 * MIB + 65536)
    copies = Copies(LiveSource(daemon.address()))
    await read_at_once(daemon, copies)
    await resized(daemon, 6 * MIB)
    await read_at_once(daemon, copies)
    assert copies.lost == {b"d0": ""}


async def test_a_disk_that_is_resized_while_its_view_begins_has_none(small, tmp_path):
    def freeze(is_frozen):
        if is_frozen:
            asyncio.run(resized(small, 6 * MIB))

    with closing(ScriptedAgent(tmp_path / "agent", freeze)) as agent:
        with pytest.raises(ViewBroken, match="d0 was resized meanwhile"):
            async with LiveSource(small.address(agent=str(agent.path))).open(Since(b"item")):
                pass
        assert not agent.is_frozen
    assert (await small.state())[0] == []


async def test_a_disk_that_shrank_is_read_in_full(small):
    copies = Copies(LiveSource(small.address()))
    await read_at_once(small, copies)
    await small.stop()
    small.image("resize", "-f", "qcow2", "--shrink", small.path(0), 2 * MIB)
    small.start()
    await read_at_once(small, copies)
    assert copies.lost == {b"d0": "it is smaller than it was"}


async def test_a_file_that_was_replaced_is_read_in_full(small):
    copies = Copies(LiveSource(small.address()))
    write(small, 0, 0, b"a" * 65536)
    await read_at_once(small, copies)
    await small.stop()
    small.image("create", "-f", "qcow2", small.path(0), 4 * MIB)
    small.start()
    now = await read_at_once(small, copies)
    assert copies.lost == {b"d0": "the bitmap of its last point is not there"}
    assert not any(now[b"d0"])


async def test_a_file_behind_the_disk_that_was_written_is_read_in_full(small):
    copies = Copies(LiveSource(small.address()))
    await small.stop()
    behind = small.top / "behind"
    small.image("create", "-f", "qcow2", behind, 4 * MIB)
    small.image("create", "-f", "qcow2", "-b", behind, "-F", "qcow2", small.path(0))
    small.start()
    for lost in ("there is no mark of this disk yet", ""):
        await read_at_once(small, copies)
        assert copies.lost == {b"d0": lost}
    await small.stop()
    small.image("bitmap", "--add", behind, "other")
    small.start()
    await read_at_once(small, copies)
    assert copies.lost[b"d0"].startswith("a file behind it was changed")


async def test_a_bitmap_that_somebody_disabled_is_not_believed(small):
    copies = Copies(LiveSource(small.address()))
    await read_at_once(small, copies)
    ((name),) = (await small.state())[1]
    await small.ask("block-dirty-bitmap-disable", node="d0", name=name)
    write(small, 0, 0, b"x" * 4096)
    await read_at_once(small, copies)
    assert copies.lost == {b"d0": "its bitmap was disabled"}
