"""Limits of the machine reach runs that are under way, and a wrong file changes nothing."""

import asyncio
import errno
import os
import socket
import time
from contextlib import closing
from dataclasses import replace

import pytest

from tests.jobs.test_far_backup import exact, setup, tree
from transfer.errors import FormatError, UsageError
from transfer.jobs import backup as backup_job
from transfer.jobs import control, machine_limits
from transfer.jobs.limits import RunLimits, limited
from transfer.jobs.machine_limits import Override, Overrides
from transfer.jobs.progress import Progress
from transfer.jobs.state import StateDirectory
from transfer.net import transport
from transfer.throttle.throttle import Throttle

__all__ = ["setup", "tree"]
MIB = 2**20
SLOW = "[[rule]]\nname = 'slow'\nup = '1M'\n"


@pytest.fixture
def state(tmp_path):
    return StateDirectory(tmp_path / "state")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_CONFIG", str(tmp_path / "config"))
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "timetable.toml"


def write(state, **found):
    state.write(machine_limits.FILE, Overrides(**found))


async def tell(state, request="reload"):
    return await asyncio.to_thread(control.tell, state, request)


async def test_what_was_set_goes_before_the_timetable_and_ends_with_it(state, config):
    config.write_text(SLOW)
    with closing(Throttle()) as throttle:
        machine_limits.apply(throttle, state)
        assert throttle.rate("up") == MIB
        write(state, up=Override(5000), down=Override(None), pause=None)
        machine_limits.apply(throttle, state)
        assert (throttle.rate("up"), throttle.rate("down")) == (5000, None)
        write(state, pause=Override(0))
        machine_limits.apply(throttle, state)
        assert (throttle.rate("up"), throttle.rate("down")) == (0, 0)
        write(state)
        machine_limits.apply(throttle, state)
        assert (throttle.rate("up"), throttle.rate("down")) == (MIB, None)


async def test_a_wrong_file_leaves_what_is_in_force(state, config):
    config.write_text(SLOW)
    with closing(Throttle()) as throttle:
        machine_limits.apply(throttle, state)
        config.write_text(SLOW.replace("1M", "minus one"))
        with pytest.raises(UsageError, match=r"timetable.toml:3.*slow"):
            machine_limits.apply(throttle, state)
        assert throttle.rate("up") == MIB
        config.write_text(SLOW)
        (state.path / machine_limits.FILE).write_text("{")
        with pytest.raises(FormatError):
            machine_limits.apply(throttle, state)
        assert throttle.rate("up") == MIB


def test_what_is_over_is_over():
    found = Overrides(up=Override(1, until=10), down=Override(2), pause=Override(0, until=20))
    assert found.at(9) == found
    assert found.at(10) == Overrides(down=Override(2), pause=Override(0, until=20))
    assert found.at(20) == Overrides(down=Override(2))


async def test_runs_under_way_are_told_and_found(state, config):
    with closing(Throttle(up=7000)) as throttle:
        async with control.listening(state, throttle):
            (answer,) = (await tell(state, "show")).values()
            assert answer["up"]["rate"] == 7000
            assert answer["down"]["rate"] is None
            write(state, down=Override(3000))
            assert list((await tell(state)).values()) == [{}]
            assert throttle.rate("down") == 3000
            config.write_text("nonsense")
            (answer,) = (await tell(state)).values()
            assert "timetable.toml" in answer["error"]
            assert throttle.rate("down") == 3000
            (answer,) = (await tell(state, "nothing that is known")).values()
            assert answer == {"error": "unknown request"}
        assert await tell(state) == {}


async def test_what_fails_inside_a_run_is_not_blamed_on_its_socket(state):
    failure = OSError(errno.ENOSPC, "of the run itself")
    with closing(Throttle()) as throttle, pytest.raises(OSError, match="of the run") as raised:
        async with control.listening(state, throttle):
            raise failure
    assert raised.value is failure
    assert os.listdir(state.path / "runs") == []


@pytest.mark.parametrize("name", ["runs", "limits"])
async def test_a_state_directory_that_cannot_be_used_is_said(setup, tmp_path, name):
    async with setup.open() as agent:
        (agent.state.path / name).symlink_to(agent.state.path)
        with pytest.raises(UsageError, match=rf"/{name}: ") as raised:
            async with limited(agent, RunLimits()):
                raise AssertionError
        assert "--state" in raised.value.hint


async def test_what_a_dead_run_left_is_removed(state):
    runs = state.path / "runs"
    runs.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(runs / "1-0"))
    assert await tell(state) == {}
    assert os.listdir(runs) == []


async def test_two_runs_at_once_are_both_told(state):
    with closing(Throttle()) as one, closing(Throttle()) as other:
        async with control.listening(state, one), control.listening(state, other):
            write(state, up=Override(9000))
            assert len(await tell(state)) == 2
            assert one.rate("up") == other.rate("up") == 9000


async def test_a_change_reaches_a_backup_at_once(setup, tree, tmp_path):
    """Unbearably slow at first: only the change lets it end."""
    write(StateDirectory(tmp_path / "state"), up=Override(20_000))
    async with setup.open() as agent:
        options = backup_job.BackupOptions("item", [tree], workers=0)
        async with limited(agent, RunLimits()) as run:
            backup = asyncio.ensure_future(backup_job.backup(run, options, Progress()))
            await asyncio.sleep(0.7)
            assert not backup.done()
            write(agent.state)
            await tell(agent.state)
            began = time.monotonic()
            await backup
            assert time.monotonic() - began < 10
    await exact(setup, tree, tmp_path)


@pytest.mark.parametrize("stalled", [0.2, 20.0])
async def test_a_pause_in_the_middle_costs_time_and_nothing_else(
    setup, tree, tmp_path, monkeypatch, stalled
):
    """Also where it is so long that the vault would hang up."""
    monkeypatch.setattr(transport, "_STALLED", stalled)
    (tree / "more").write_bytes(os.urandom(8 * MIB))
    setup.reach = replace(setup.reach, patience=10.0)
    async with setup.open() as agent:
        options = backup_job.BackupOptions("item", [tree], workers=0)
        async with limited(agent, RunLimits(8 * MIB)) as run:
            backup = asyncio.ensure_future(backup_job.backup(run, options, Progress()))
            await asyncio.sleep(0.6)
            write(agent.state, pause=Override(0))
            await tell(agent.state)
            await asyncio.sleep(0.1)
            sent = setup.far.vault
            before = (await sent.statistics())["bytes_stored"]
            await asyncio.sleep(1)
            assert (await sent.statistics())["bytes_stored"] - before < 5 * MIB  # what was whole
            assert not backup.done()
            write(agent.state)
            await tell(agent.state)
            result = await backup
    assert result.bytes_stored <= result.bytes_sent
    await exact(setup, tree, tmp_path)


async def test_a_machine_whose_timetable_is_wrong_begins_nothing(setup, tree, config):
    config.write_text("[[rule]]\nspeed = 1\n")
    async with setup.open() as agent:
        with pytest.raises(UsageError, match=r"timetable\.toml"):
            async with limited(agent, RunLimits()):
                raise AssertionError
