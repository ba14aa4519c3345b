"""The number of connections may change while calls are under way: nothing is broken off."""

import asyncio
import os
from dataclasses import replace

import pytest

from tests.jobs.test_register import registered
from tests.net.behind import held_vault
from tests.suites.vault import begun, made_frame
from transfer.errors import NotStored, VaultUnavailable
from transfer.jobs import backup as backup_job
from transfer.jobs import restore as restore_job
from transfer.jobs import tuning
from transfer.jobs.meter import Meter
from transfer.jobs.progress import Progress
from transfer.pipeline import tasks
from transfer.vault.base import Outcome

MIB = 2**20
ONE_FRAME = MIB + 1024


async def reached(vault, name, count):
    async with asyncio.timeout(5):
        while vault.calls.count(name) < count:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    return vault.calls.count(name)


async def test_more_go_at_once_and_fewer_from_the_next_on(tmp_path, clock):
    async with held_vault(tmp_path / "vault", clock) as (far, vault):
        remote = far.client(far.registered("own"), connections=1)
        session = await begun(remote)
        vault.waiting.add("store")
        frames = [made_frame(number)[1] for number in range(1, 9)]
        calls = [asyncio.create_task(remote.store(session, each)) for each in frames]
        assert await reached(vault, "store", 2) == 2  # one is sent while one waits for its answer
        remote.transport.connections = 3
        assert await reached(vault, "store", 4) == 4
        remote.transport.connections = 1
        vault.go.set()
        outcomes = await asyncio.wait_for(asyncio.gather(*calls), 5)
        assert outcomes == [[Outcome.STORED]] * 8
        assert remote.transport.trouble.failures == 0


async def test_calls_that_break_and_calls_that_are_refused_are_counted(tmp_path, clock):
    async with held_vault(tmp_path / "vault", clock) as (far, vault):
        remote = far.client(far.registered("own"), patience=0.0)
        session = await begun(remote)
        vault.failing["store"] = (0, NotStored("the disk is full"))
        with pytest.raises(NotStored):
            await remote.store(session, made_frame(1)[1])
        trouble = remote.transport.trouble
        assert (trouble.failures, trouble.refusals > 0) == (0, True)
        await far.server.stop(grace=0)
        with pytest.raises(VaultUnavailable):
            await remote.store(session, made_frame(1)[1])
        assert trouble.failures > 0 and trouble.calls >= 2


async def test_who_waits_to_send_goes_when_there_are_more(far):
    transport = far.client(far.registered("own"), connections=1).transport

    async def sends():
        async with transport._sending.one():
            pass

    async with transport._sending.one():
        waiting = asyncio.create_task(sends())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        transport.connections = 2
        await asyncio.wait_for(waiting, 1)


@pytest.fixture
async def setup(tmp_path, clock, quick_keyrings):
    async with registered(tmp_path, clock) as made:
        yield made


async def both_ways(setup, tmp_path, connections):
    """Bytes of each call of a backup and of a restore that carried any to speak of."""
    setup.reach = replace(setup.reach, connections=connections)
    (tmp_path / "noise").write_bytes(os.urandom(8 * MIB))
    async with setup.open() as agent:
        options = backup_job.BackupOptions("item", [tmp_path / "noise"], workers=0)
        await backup_job.backup(agent, options, Progress())
        to = restore_job.RestoreOptions("item", tmp_path / "back", workers=0)
        await restore_job.restore(agent, to, Progress())
    assert (tmp_path / "back").read_bytes() == (tmp_path / "noise").read_bytes()
    sent = [each.received for each in setup.requests if each.path == "/v1/frames"]
    fetched = [each.sent for each in setup.requests if each.path == "/v1/fetch"]
    return [[size for size in sizes if size > MIB // 2] for sizes in (sent, fetched)]


async def test_many_connections_share_what_may_be_under_way(setup, tmp_path):
    sent, fetched = await both_ways(setup, tmp_path, 64)
    assert len(sent) == len(fetched) == 8
    assert max(sent + fetched) <= ONE_FRAME


async def test_few_connections_carry_as_much_as_a_call_can(setup, tmp_path):
    sent, fetched = await both_ways(setup, tmp_path, None)
    assert len(fetched) == 2 and len(sent) < 8


class Busy:
    """A run that waits for nothing but the line."""

    reads = True

    def __init__(self, meter):
        self._meter = meter

    def spent(self):
        spent = self._meter.spent()
        return spent._replace(far=spent.elapsed, sending=spent.elapsed, computing=0, blocked=0)


@pytest.fixture
def quick_epochs(monkeypatch):
    monkeypatch.setattr(tuning, "epoch_length", lambda trip: 0.06)
    monkeypatch.setattr(tuning, "settling", lambda trip: 0.02)


@pytest.mark.parametrize(("connections", "reached"), [(None, 8), (5, 5)])
async def test_only_a_number_that_nobody_chose_is_looked_for(
    setup, quick_epochs, connections, reached
):
    setup.reach = replace(setup.reach, connections=connections)
    async with setup.open() as agent, agent.pool(0, tasks.Tools) as pool:
        meter = Busy(Meter(pool, agent.vault, reads=True))
        async with tuning.tuned(agent.vault, meter, False):
            async with asyncio.timeout(5):
                while agent.vault.connections < reached:
                    await agent.vault.view()
                    await asyncio.sleep(0.01)
        assert agent.vault.connections >= reached
        assert agent.uploads == agent.vault.connections + 1


async def test_of_two_runs_over_the_same_connections_one_decides(setup, quick_epochs):
    async with setup.open() as agent, agent.pool(0, tasks.Tools) as pool:
        meter = Busy(Meter(pool, agent.vault, reads=True))
        assert not agent.vault.transport.is_steered
        async with tuning.tuned(agent.vault, meter, False):
            assert agent.vault.transport.is_steered
            async with tuning.tuned(agent.vault, meter, False):
                pass
            assert agent.vault.transport.is_steered
        assert not agent.vault.transport.is_steered
