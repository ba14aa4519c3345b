"""Disks whose changes are known: each point is the disk, and costs what changed on it."""

import os
import random
import shutil
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.acceptance.agent import Machine
from tests.faults.faulty import Fault, FaultyVault
from tests.sources import test_reflinked
from tests.sources.benches import KINDS, bench_of
from tests.suites.sources import touched
from transfer.errors import TransferError, UsageError
from transfer.jobs.disks import Audits
from transfer.pipeline.node_cache import NodeCache
from transfer.sources import nbd_view

pytestmark = pytest.mark.usefixtures("quick_keyrings")
BLOCK = 65536
NODES = 40_000  # bytes of a leaf of 384 blocks, of the node above and of a page
NONE = Audits(share=0.0)


class FaultyMachine(Machine):
    fault = None

    @asynccontextmanager
    async def opened(self):
        async with super().open() as agent:
            self.met, self.fault = FaultyVault(agent.vault, self.fault), None
            yield replace(agent, vault=self.met)

    def open(self):
        return self.opened()


@pytest.fixture
def machine(tmp_path):
    return FaultyMachine(tmp_path)


@pytest.fixture(params=KINDS)
def bench(request, tmp_path):
    with bench_of(request.param, tmp_path) as bench:
        yield bench


def cache(agent, item):
    """As machines of a far vault have it."""
    return NodeCache(agent.state.path / "nodes" / item.hex())


async def backup(machine, bench, **options):
    return await machine.backup(bench.name, **({"block_size": BLOCK, "audits": NONE} | options))


async def restored(machine, into):
    result = await machine.restore(into)
    assert (result.damaged, result.warnings) == ([], [])
    content = into.read_bytes()
    into.unlink()
    return content


async def same(machine, bench, tmp_path):
    return await restored(machine, tmp_path / "back") == bench.content()


@pytest.mark.parametrize("seed", range(2))
async def test_ten_rounds_two_of_which_are_aborted_and_two_in_doubt(machine, bench, tmp_path, seed):
    chosen = random.Random(f"rounds {seed}")
    await backup(machine, bench)
    assert await same(machine, bench, tmp_path)
    faults = [None] * 6 + [Fault(0, "fail", "store")] * 2 + [Fault(0, "lose", "commit")] * 2
    chosen.shuffle(faults)
    written = []
    for machine.fault in faults:
        is_harmed = machine.fault is not None
        written += bench.write(chosen)
        try:
            result = await backup(machine, bench)
            assert [each.why for each in result.disks] == [""]
            assert result.bytes_read <= touched(written, bench.grain) + bench.least
            assert result.bytes_sent <= 1.1 * result.bytes_read + NODES
            written = []
        except TransferError:
            assert is_harmed
            continue
        assert await same(machine, bench, tmp_path)
    result = await backup(machine, bench)
    assert await same(machine, bench, tmp_path)
    result = await backup(machine, bench)
    assert result.bytes_read <= bench.least
    assert result.blocks_new == 0
    assert result.nodes_new <= 1  # where the disk's times are another today


async def test_two_disks_of_one_name_are_refused_before_the_second_is_read(machine, tmp_path):
    paths = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with bench_of("qcow2", tmp_path / name) as bench:
            paths.append(bench.name)
    with pytest.raises(UsageError, match="two PATHs end in"):
        await machine.backup(*paths, workers=0)
    calls = machine.met.calls
    await machine.backup(paths[0], item="other", workers=0)
    assert calls.count("store") < 2 * machine.met.calls.count("store")


async def test_a_tracker_that_lies_is_found_and_not_believed(machine, bench, tmp_path, monkeypatch):
    await backup(machine, bench)
    bench.write(random.Random(1))

    async def nothing(_client, _context, start=0, end=None):
        if end is not None:  # the bit at the disk's end
            yield start, 1

    monkeypatch.setattr("transfer.jobs.disks.MAX_SAMPLE", 10**6)
    monkeypatch.setattr(nbd_view, "dirty", nothing)
    monkeypatch.setattr("transfer.sources.reflink.changes", lambda *_, **__: iter(()))
    result = await backup(machine, bench, audits=Audits(share=1.0))
    assert [each.code for each in result.warnings] == ["tracker-lied"]
    assert "called" in result.disks[0].why
    assert await same(machine, bench, tmp_path)


async def test_all_is_compared_from_time_to_time_and_sends_only_what_the_vault_lacks(
    machine, bench, tmp_path
):
    await backup(machine, bench)
    bench.write(random.Random(2))
    result = await backup(machine, bench, audits=Audits(share=0.0, every=0.0))
    assert "time to compare" in result.disks[0].why
    assert result.bytes_read > 10 * 2**20 > result.bytes_sent
    result = await backup(machine, bench)
    assert result.disks[0].why == ""
    assert result.bytes_read <= bench.least
    result = await backup(machine, bench, full=True)
    assert result.bytes_read > 10 * 2**20
    assert result.blocks_new == 0
    assert await same(machine, bench, tmp_path)


async def test_a_full_read_that_fails_costs_no_history(machine, bench, tmp_path):
    await backup(machine, bench)
    bench.write(random.Random(8))
    machine.fault = Fault(0, "fail", "commit")
    with pytest.raises(TransferError):
        await backup(machine, bench, full=True)
    assert (await backup(machine, bench)).disks[0].why == ""
    assert await same(machine, bench, tmp_path)


async def test_what_grows_costs_what_is_in_it(machine, bench, tmp_path):
    await backup(machine, bench)
    bench.resize(40 * 2**20)
    result = await backup(machine, bench)
    assert result.disks[0].why == ""
    assert result.bytes_read <= 4 * bench.grain
    assert await same(machine, bench, tmp_path)
    bench.resize(5 * 2**20)
    await backup(machine, bench)
    assert await same(machine, bench, tmp_path)


async def test_what_stayed_need_not_be_fetched_to_know_it(bench, tmp_path, monkeypatch):
    """Nodes of what is taken over stay in the cache, though nobody looked at them."""
    monkeypatch.setattr("transfer.jobs.agent.Agent.node_cache", cache)
    machine = FaultyMachine(tmp_path)
    await backup(machine, bench)
    for at in (20 * 2**20, 2**20, 20 * 2**20):  # in one leaf, and in the other one
        bench.put(at, os.urandom(512))
        result = await backup(machine, bench)
        assert result.blocks_new == 1
        assert result.bytes_read <= bench.grain + bench.least
        assert "fetch" not in machine.met.calls
    assert await same(machine, bench, tmp_path)


async def test_a_state_that_is_lost_or_old_costs_nothing(machine, bench, tmp_path):
    """What is known of a chain stands in the point and at the disk."""
    await backup(machine, bench)
    shutil.copytree(tmp_path / "state", tmp_path / "old")
    bench.write(random.Random(3))
    await backup(machine, bench)
    bench.write(random.Random(4))
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "old", tmp_path / "state")
    assert (await backup(machine, bench)).disks[0].why == ""
    bench.write(random.Random(5))
    for kind in ("journals", "nodes"):
        shutil.rmtree(tmp_path / "state" / kind, ignore_errors=True)
    assert (await backup(machine, bench)).disks[0].why == ""
    assert await same(machine, bench, tmp_path)


async def test_a_dry_run_and_one_that_shall_not_track_leave_nothing_behind(
    machine, bench, tmp_path
):
    assert (await backup(machine, bench, tracks=False)).point
    assert bench.objects() == []
    await backup(machine, bench)
    before = bench.objects()
    bench.write(random.Random(4))
    result = await backup(machine, bench, dry_run=True)
    assert result.disks[0].why == ""
    assert bench.objects() == before
    assert (await backup(machine, bench)).disks[0].why == ""
    assert await same(machine, bench, tmp_path)


async def test_a_run_that_is_interrupted_goes_on_in_its_view(machine, bench, tmp_path):
    machine.fault = Fault(3, "fail", "store")
    with pytest.raises(TransferError):
        await backup(machine, bench, block_size=2**20, workers=0)
    now, then = bench.content(), time.time_ns()
    bench.write(random.Random(5))
    result = await backup(machine, bench, block_size=2**20)
    (point,) = await machine.points()
    assert (point.view_time < then) == isinstance(bench, test_reflinked.Bench)
    back = await restored(machine, tmp_path / "back")
    if isinstance(bench, test_reflinked.Bench):
        assert back == now
        assert result.bytes_resumed > 0
    else:
        assert back == bench.content()


async def test_two_vaults_and_two_items_each_know_their_own(machine, bench, tmp_path):
    other = FaultyMachine(tmp_path, vault="other-vault")
    await backup(machine, bench)
    bench.write(random.Random(6))
    await backup(other, bench)
    await backup(machine, bench, item="second")
    bench.write(random.Random(7))
    for result in (
        await backup(machine, bench, item="second"), await backup(other, bench),
        await backup(machine, bench),
    ):  # fmt: skip
        assert result.disks[0].why == ""
    for one, item in ((machine, "item"), (machine, "second"), (other, "item")):
        await one.restore(tmp_path / "back", item=item)
        assert (tmp_path / "back").read_bytes() == bench.content()
        os.unlink(tmp_path / "back")
