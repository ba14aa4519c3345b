"""Chains on one machine, what dead runs left, and its one NBD server."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import msgspec
import pytest

from tests.acceptance import shell
from tests.sources.copies import Copies, read_at_once, read_at_once_under, write
from tests.sources.live import Daemon, Guest
from tests.sources.test_qmp import Script
from transfer.errors import ViewBroken
from transfer.sources import qemu_remains
from transfer.sources.changes import Since
from transfer.sources.nbd import NbdClient
from transfer.sources.qemu_disks import own
from transfer.sources.qemu_live import LiveSource
from transfer.sources.qemu_remains import release_places, view_bitmap
from transfer.sources.qmp import Qmp

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


async def test_another_items_bitmaps_stay_and_tell_its_own_changes(small):
    one, other = (Copies(LiveSource(small.address()), name) for name in (b"one", b"other"))
    await read_at_once(small, one)
    write(small, 0, 0, b"a" * 4096)
    await read_at_once(small, other)
    write(small, 0, 2 * MIB, b"b" * 4096)
    await read_at_once(small, one)
    await read_at_once(small, other)
    assert (one.changed, other.changed) == ([0, 2, 3], [2, 3])
    assert len((await small.state())[1]) == 2


async def test_a_second_view_of_a_disk_waits_for_the_first(small):
    async with LiveSource(small.address()).open(Since(b"one")) as view:
        with pytest.raises(ViewBroken, match="another backup of it is under way"):
            async with LiveSource(small.address(socket=str(small.second))).open(Since(b"other")):
                pass
        assert await view.check()


def killed_run(daemon, after, marks):
    """A backup in a process of its own that is killed when QEMU has answered so many commands, or
    the first of a name, or when the view was checked."""
    program = """
        import asyncio, os, signal, sys, msgspec
        from transfer.formats.point import Mark
        from transfer.sources.changes import Since
        from transfer.sources.qemu_live import LiveSource
        from transfer.sources.qmp import Qmp
        from transfer.sources.qmp_address import QmpAddress
        socket, nbd, fleece, after, marks = sys.argv[1:]
        ask, count = Qmp.ask, 0
        async def counted(self, name, /, **arguments):
            global count
            found = await ask(self, name, **arguments)
            count += 1
            if after in (str(count), name):
                os.kill(os.getpid(), signal.SIGKILL)
            return found
        Qmp.ask = counted
        async def main():
            since = Since(b"item", msgspec.json.decode(marks, type=list[Mark]))
            source = LiveSource(QmpAddress(socket, nbd=nbd, fleece=fleece))
            async with source.open(since) as view:
                await view.check()
                if after == "check":
                    os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """
    nbd = daemon.nbd if daemon.serves else ""
    words = [daemon.qmp, nbd, daemon.top, after, msgspec.json.encode(marks).decode()]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.getcwd()}, check=False,
    )  # fmt: skip
    return done.returncode


async def after_a_killed_run(daemon, copies, after):
    """The next run finds all changes, and takes away what the dead one left. True if it was
    killed."""
    with Guest(daemon, seed=5, pause=0.001) as guest:
        guest.settle(10)
        await read_at_once_under(guest, copies)
        code = await asyncio.to_thread(killed_run, daemon, after, copies.marks)
        guest.settle(10)
        await read_at_once_under(guest, copies)
        assert copies.lost == {b"d0": "", b"d1": ""}
        left, bitmaps = await daemon.state()
        assert (left, len(bitmaps)) == ([], 2)
        assert guest.error is None
    return code == -signal.SIGKILL


@pytest.mark.parametrize(
    "after", ["blockdev-add", "transaction", "blockdev-reopen", "block-export-add", "check"]
)
async def test_a_run_that_was_killed_costs_nothing(daemon, after):
    copies = Copies(LiveSource(daemon.address()))
    await copies.run()
    assert await after_a_killed_run(daemon, copies, after)


@pytest.mark.slow
async def test_a_run_may_be_killed_after_each_command(daemon):
    copies = Copies(LiveSource(daemon.address()))
    await copies.run()
    after = 1
    while await after_a_killed_run(daemon, copies, after):
        after += 1
    assert after > 30


async def test_what_a_dead_run_left_is_no_harm_to_its_guest(small):
    await asyncio.to_thread(killed_run, small, "check", [])
    left, _ = await small.state()
    assert len([name for name in left if name.endswith(("-a", "-c", "-f"))]) == 4
    with Guest(small, seed=9, hot=4 * MIB) as guest:
        guest.settle(200)
        assert guest.error is None


async def test_clean_takes_away_what_dead_runs_of_an_item_left_and_nothing_else(small):
    other = Copies(LiveSource(small.address()), b"other")
    await other.run()
    await asyncio.to_thread(killed_run, small, "blockdev-reopen", [])
    with pytest.raises(ViewBroken, match="was killed and left its filter") as refused:
        await other.run()
    assert "sources clean" in refused.value.hint
    _, bitmaps = await small.state()
    source = LiveSource(small.address())
    assert await source.clean(Since(b"wrong")) == []
    assert (await small.state())[1] == bitmaps
    assert len(await source.clean(Since(b"item"))) == 2 + 1
    left, bitmaps = await small.state()
    assert (left, len(bitmaps)) == ([], 1)
    await other.run()
    assert other.lost == {b"d0": ""}


async def test_all_that_is_left_of_whatever_chain_can_go(started):
    daemon = started(4 * MIB, serves=False)
    other = Copies(LiveSource(daemon.address()), b"other")
    await other.run()
    await asyncio.to_thread(killed_run, daemon, "check", [])
    elsewhere = daemon.top / "transfer-0123456789abcdef-of-another-machine"
    elsewhere.mkdir()
    await LiveSource(daemon.address()).clean(None)
    assert await daemon.state() == ([elsewhere.name], [])
    await other.run()
    assert other.lost == {b"d0": "the bitmap of its last point is not there"}


async def test_clean_names_only_what_went(small):
    since = Since(b"item")
    name = view_bitmap(since.chain(b"d0"))
    await small.ask("block-dirty-bitmap-add", node="d0", name=name)
    await small.ask(
        "block-export-add", type="nbd", id="user", node_name="d0",
        bitmaps=[{"node": "d0", "name": name}],
    )  # fmt: skip
    assert await LiveSource(small.address()).clean(since) == []


async def test_an_export_that_does_not_end_is_not_called_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(qemu_remains, "_LOOKS", 2)  # or it takes seconds
    chain = Since(b"item").chain(b"d0")
    answers = {
        "query-block": [], "query-named-block-nodes": [], "block-export-del": {},
        "x-debug-query-block-graph": {"nodes": [], "edges": []},
        "query-block-exports": [{"id": own(chain), "node-name": "d0"}],
    }  # fmt: skip
    async with Script(tmp_path / "qmp", **answers) as script, await Qmp.connect(script.path) as qmp:
        assert await qemu_remains.release(qmp, [chain]) == []


# The NBD server


async def test_where_no_nbd_server_runs_one_is_started_and_stopped(started):
    daemon = started(4 * MIB, serves=False)
    copies = Copies(LiveSource(daemon.address()))
    await copies.run()
    await copies.run()
    assert copies.lost == {b"d0": ""}
    assert (await daemon.state())[0] == []
    address = {"type": "unix", "data": {"path": str(daemon.nbd)}}
    await daemon.ask("nbd-server-start", addr=address)  # so none runs


async def test_an_item_may_have_disks_of_two_machines(tmp_path):
    before = shell.started()
    tops = [tmp_path / name for name in ("one", "other")]
    for top in tops:
        top.mkdir()
    one, other = (Daemon(top, [4 * MIB], serves=False).start() for top in tops)
    since = Since(b"item")
    async with LiveSource(one.address(fleece=str(tmp_path))).open(since) as view:
        async with LiveSource(other.address(fleece=str(tmp_path))).open(since) as second:
            assert await second.check()
        async with await NbdClient.connect(view.disks[0].content.address) as client:
            assert client.size == 4 * MIB
        assert await view.check()
    shell.end_all(before)


async def test_a_killed_runs_nbd_server_is_stopped(started):
    daemon = started(4 * MIB, serves=False)
    await asyncio.to_thread(killed_run, daemon, "check", [])
    copies = Copies(LiveSource(daemon.address()))
    await copies.run()
    assert (await daemon.state())[0] == []


async def test_a_foreign_nbd_server_is_left_alone_and_told_of(small):
    with pytest.raises(ViewBroken) as refused:
        async with LiveSource(small.address(nbd="")).open(Since(b"item")):
            pass
    assert "NBD server is in use" in refused.value.message
    assert "nbd=SOCKET" in refused.value.hint
    assert "transfer sources clean --all" in refused.value.hint
    assert (await small.state())[0] == []
    assert await read_at_once(small, Copies(LiveSource(small.address())))


@needs_root
async def test_a_server_is_its_machines_whatever_group_that_has_by_now(tmp_path):
    """As with -run-with user=..., which QEMU becomes when its monitor listens already."""
    chain = Since(b"item").chain(b"machine")
    directory = tmp_path / f"{own(chain)}-dead"
    directory.mkdir()
    script = Script(tmp_path / "qmp", **{"nbd-server-stop": {}})
    os.setegid(54321)
    try:
        await script.__aenter__()
    finally:
        os.setegid(os.getgid())
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), directory / "nbd")
    async with server, await Qmp.connect(script.path) as qmp:
        assert qmp.peer.group == 54321
        await release_places(qmp, str(tmp_path), chain)
    await script.__aexit__()
    assert ("nbd-server-stop", {}) in script.asked
    assert not directory.exists()


@needs_root
@pytest.mark.parametrize("is_link", [False, True])
async def test_a_directory_that_somebody_else_made_is_left_alone(small, is_link):
    place, home = small.top / "place", small.top / "home"
    place.mkdir()
    home.mkdir()
    directory = place / "transfer-0123456789abcdef-x"
    if is_link:
        directory.symlink_to(home)
    else:
        directory.mkdir()
        os.chown(directory, 54321, 54321)
    (directory / "nbd").symlink_to(small.nbd)
    await LiveSource(small.address(fleece=str(place))).clean(None)
    assert (directory / "nbd").is_symlink()
    write(small, 0, 0, b"x" * 4096)  # its server runs still
