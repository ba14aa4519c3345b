"""Ten hours of pause in the middle of a transfer, on a loop whose clock is put forward."""

import asyncio
import os
from dataclasses import replace

import pytest

from tests.jobs.test_machine_limits import tell, write
from tests.jobs.test_register import Setup
from tests.net.far import far_vault
from transfer.jobs import backup as backup_job
from transfer.jobs import restore as restore_job
from transfer.jobs.limits import RunLimits, limited
from transfer.jobs.machine_limits import Override
from transfer.jobs.progress import Progress

MIB = 2**20
RATE = 8 * MIB
CONNECTIONS = 2


class Loop(asyncio.SelectorEventLoop):
    """All time-outs of client and server are its; the throttle's timer is the system's."""

    ahead = 0.0

    def time(self):
        return super().time() + self.ahead

    async def pass_by(self, seconds, step, clock):
        """So many, in steps that are shorter than what anybody waits for."""
        for _ in range(int(seconds / step)):
            self.ahead += step
            clock.now += int(step * 10**9)
            for _ in range(3):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0005)


@pytest.fixture
def run(tmp_path, clock, quick_keyrings):
    """Runs a scenario with a registered machine."""

    async def main(scenario):
        requests = []
        async with far_vault(tmp_path / "vault", clock, log=requests.append) as far:
            setup = Setup(far, tmp_path)
            setup.reach = replace(setup.reach, patience=5.0, connections=CONNECTIONS)
            setup.requests = requests
            await setup.register()
            await scenario(setup)

    def run(scenario):
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(main(scenario))

    return run


async def paused_for_ten_hours(agent, clock, work):
    """What *work* gives, which is paused in its middle."""
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    await asyncio.sleep(0.5)
    write(agent.state, pause=Override(0))
    await tell(agent.state)
    await loop.pass_by(300, 5, clock)
    await loop.pass_by(36_000, 400, clock)
    assert not task.done()
    write(agent.state)
    await tell(agent.state)
    return await asyncio.wait_for(task, 30)


def test_ten_hours_cost_at_most_a_frame_for_each_connection(run, tmp_path, clock):
    source = tmp_path / "image"
    source.write_bytes(os.urandom(12 * MIB))

    async def scenario(setup):
        async with setup.open() as agent:
            async with limited(agent, RunLimits(up=RATE)) as one:
                options = backup_job.BackupOptions("item", [source], workers=0)
                work = backup_job.backup(one, options, Progress())
                made = await paused_for_ten_hours(agent, clock, work)
            stored = (await setup.far.vault.statistics())["bytes_stored"]
            sent = sum(done.received for done in setup.requests if done.path == "/v1/frames")
            assert made.warnings == []
            assert 0 <= sent - stored < CONNECTIONS * (MIB + 1024)
            async with limited(agent, RunLimits(down=RATE)) as one:
                options = restore_job.RestoreOptions("item", tmp_path / "back", workers=0)
                work = restore_job.restore(one, options, Progress())
                await paused_for_ten_hours(agent, clock, work)
            sent = sum(done.sent for done in setup.requests if done.path == "/v1/fetch")
            assert sent - stored < CONNECTIONS * (MIB + 1024) + 256 * 1024
        assert (tmp_path / "back").read_bytes() == source.read_bytes()

    run(scenario)
