"""What limited a run, of real ones that something real held back."""

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.jobs.test_register import Setup
from tests.net.far import Far
from tests.net.relay import Relay
from tests.sources.nbd_servers import nbdkit
from transfer.jobs import backup as backup_job
from transfer.jobs import restore as restore_job
from transfer.jobs.limits import RunLimits, limited
from transfer.jobs.progress import Progress
from transfer.vault.open import open_vault

MIB = 2**20


class Slow:
    """A vault that takes *seconds* for each call that moves data."""

    def __init__(self, vault, seconds):
        self._vault, self.seconds = vault, seconds

    def __getattr__(self, name):
        return getattr(self._vault, name)

    async def store(self, session, frames):
        await asyncio.sleep(self.seconds)
        return await self._vault.store(session, frames)

    async def fetch(self, session, references, arrived):
        await asyncio.sleep(self.seconds)
        await self._vault.fetch(session, references, arrived)


@asynccontextmanager
async def setup_of(tmp_path, clock, slow=0.0, rate=None):
    """A machine that reaches a vault, which may be slow, through a relay, which may be."""
    vault = await open_vault(tmp_path / "vault", create=True, clock=clock)
    vault_id = (await vault.info()).vault
    far = await Far(tmp_path / "vault", Slow(vault, slow), vault_id, clock).start()
    relay = await Relay(far.port).start()
    made = Setup(far, tmp_path)
    await made.register(made.credential(url=f"https://127.0.0.1:{relay.port}"))
    relay.rate = rate
    try:
        yield made
    finally:
        await relay.stop()
        await far.server.stop(grace=1)
        await vault.close()


@pytest.fixture
def noise(tmp_path):
    path = tmp_path / "noise"
    path.write_bytes(os.urandom(8 * MIB))
    return path


async def backed_up(agent, path, **options):
    chosen = backup_job.BackupOptions("item", [os.fspath(path)], workers=0, **options)
    return await backup_job.backup(agent, chosen, Progress())


async def restored(agent, to):
    chosen = restore_job.RestoreOptions("item", to, workers=0)
    return await restore_job.restore(agent, chosen, Progress())


async def test_a_slow_vault_is_named(tmp_path, clock, quick_keyrings, noise):
    async with setup_of(tmp_path, clock, slow=0.5) as setup, setup.open() as agent:
        assert (await backed_up(agent, noise)).limited_by == "vault"


async def test_a_vault_in_this_process_that_is_slow_is_named_in_both_directions(
    tmp_path, clock, quick_keyrings, noise
):
    async with setup_of(tmp_path, clock) as setup, setup.open() as agent:
        near = replace(agent, vault=Slow(agent.vault, 0.5))
        assert (await backed_up(near, noise)).limited_by == "vault"
        assert (await restored(near, tmp_path / "back")).limited_by == "vault"


async def test_a_slow_line_is_named_in_both_directions(tmp_path, clock, quick_keyrings, noise):
    async with setup_of(tmp_path, clock, rate=4 * MIB) as setup, setup.open() as agent:
        assert (await backed_up(agent, noise)).limited_by == "network"
        assert (await restored(agent, tmp_path / "back")).limited_by == "network"


async def test_a_limit_is_named_in_both_directions(tmp_path, clock, quick_keyrings, noise):
    limits = RunLimits(8 * MIB, 8 * MIB)
    async with setup_of(tmp_path, clock) as setup, setup.open() as agent:
        async with limited(agent, limits) as run:
            assert (await backed_up(run, noise)).limited_by == "throttle"
        async with limited(agent, limits._replace(name="restore")) as run:
            assert (await restored(run, tmp_path / "back")).limited_by == "throttle"


async def test_a_limit_that_is_not_reached_is_not_named(tmp_path, clock, quick_keyrings, noise):
    async with (
        setup_of(tmp_path, clock, rate=4 * MIB) as setup,
        setup.open() as agent,
        limited(agent, RunLimits(200 * MIB, 200 * MIB)) as run,
    ):
        assert (await backed_up(run, noise)).limited_by == "network"
        assert (await restored(run, tmp_path / "back")).limited_by == "network"


async def test_a_slow_source_is_named(tmp_path, clock, quick_keyrings):
    words = ["--filter=delay", "pattern", "size=8M", "rdelay=500ms"]
    with nbdkit(tmp_path, *words) as (address, _):
        async with setup_of(tmp_path, clock) as setup, setup.open() as agent:
            assert (await backed_up(agent, str(address))).limited_by == "source"


async def test_a_backup_that_computes_is_limited_by_the_processors(tmp_path, clock, quick_keyrings):
    path = tmp_path / "text"
    path.write_bytes(b"".join(b"line %d of %d\n" % (n, n * n) for n in range(2_000_000)))
    async with setup_of(tmp_path, clock) as setup, setup.open() as agent:
        assert (await backed_up(agent, path, compression="better")).limited_by == "cpu"
