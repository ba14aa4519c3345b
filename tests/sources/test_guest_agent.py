"""A guest is frozen for a moment, and never for longer: a scripted agent."""

import asyncio
import os
import signal
import sys
import textwrap
import time
from contextlib import suppress

import pytest

from tests.sources.guest_agent import ScriptedAgent
from transfer.sources import freeze_watch, guest_agent
from transfer.sources.guest_agent import Frozen

FREEZE, THAW, SYNC = "guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-sync-delimited"


@pytest.fixture
def agent(tmp_path):
    made = ScriptedAgent(tmp_path / "agent")
    yield made
    made.close()


def refusal(why):
    return {"error": {"class": "GenericError", "desc": why}}


async def test_a_guest_is_frozen_inside_and_thawed_afterwards(agent):
    async with Frozen(str(agent.path), 5) as frozen:
        assert agent.is_frozen
    assert not agent.is_frozen
    assert (frozen.is_quiet, frozen.why) == (True, "")
    assert agent.commands == [FREEZE, THAW]


async def test_what_goes_wrong_inside_thaws(agent):
    with pytest.raises(ZeroDivisionError):
        async with Frozen(str(agent.path), 5):
            raise ZeroDivisionError
    assert not agent.is_frozen


async def test_a_cancelled_run_thaws(agent):
    async def run():
        async with Frozen(str(agent.path), 30):
            await asyncio.sleep(30)

    task = asyncio.create_task(run())
    await asyncio.to_thread(agent.settled, True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not agent.is_frozen


async def test_a_run_that_takes_too_long_is_thawed_and_knows_it(agent):
    async with Frozen(str(agent.path), 0.2) as frozen:
        assert await asyncio.to_thread(agent.settled)
    assert not frozen.is_quiet
    assert frozen.why == "it was thawed after 0.2 seconds"
    assert agent.commands == [FREEZE, THAW]


PROGRAM = """
    import asyncio, signal, sys, os
    from transfer.sources.guest_agent import Frozen
    async def main():
        async with Frozen(sys.argv[1], float(sys.argv[2])) as frozen:
            os.kill(os.getpid(), int(sys.argv[3]))
            await asyncio.sleep(60)
    asyncio.run(main())
"""


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGKILL, 60), (signal.SIGSTOP, 0.3)])
async def test_a_guest_is_thawed_if_its_backup_dies_or_hangs(agent, number, seconds):
    words = [sys.executable, "-c", textwrap.dedent(PROGRAM), agent.path, seconds, number.value]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = await asyncio.create_subprocess_exec(*map(str, words), env=environment)
    try:
        async with asyncio.timeout(20):
            while agent.commands != [FREEZE, THAW] or agent.is_frozen:
                await asyncio.sleep(0.01)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_if_the_watch_is_killed_its_parent_thaws(agent):
    async with Frozen(str(agent.path), 30) as frozen:
        frozen._process.kill()
    assert not agent.is_frozen
    assert frozen.why == "the process that watched over it was killed"
    assert not frozen.is_quiet


async def test_without_an_agent_nothing_is_frozen_and_the_reason_is_told(tmp_path):
    async with Frozen(str(tmp_path / "nobody"), 5) as frozen:
        pass
    assert not frozen.is_quiet
    assert frozen.why == f"{tmp_path}/nobody: No such file or directory"


async def test_an_agent_that_refuses_is_not_thawed(agent):
    agent.answers[FREEZE] = refusal("the guest cannot do that")
    async with Frozen(str(agent.path), 5) as frozen:
        pass
    assert (frozen.is_quiet, frozen.why) == (False, "the guest cannot do that")
    assert agent.commands == [FREEZE]


async def test_an_agent_that_does_not_answer_is_thawed_all_the_same(agent):
    agent.answers[FREEZE] = None
    async with Frozen(str(agent.path), 0.2) as frozen:
        pass
    assert (frozen.is_quiet, frozen.why) == (False, "the guest agent does not answer")
    assert agent.commands == [FREEZE, THAW]


async def test_a_freeze_that_comes_too_late_is_not_taken_for_the_thaw(agent):
    agent.delays[FREEZE] = 0.5
    async with Frozen(str(agent.path), 0.2) as frozen:
        pass
    assert not agent.is_frozen
    assert (frozen.is_quiet, frozen.why) == (False, "the guest agent does not answer")
    assert [name for _, name in agent.asked] == [SYNC, FREEZE, SYNC, THAW]


NESTED = b'{"return": ' + b"[" * 100_000 + b"\n"


@pytest.mark.parametrize("line", [b'{"error": "no"}\n', b"{}\n", b"[]\n", NESTED])
async def test_nonsense_in_answer_to_a_freeze_thaws_and_is_told(agent, line):
    agent.answers[FREEZE] = [line]
    async with Frozen(str(agent.path), 5) as frozen:
        pass
    assert not frozen.is_quiet
    assert frozen.why.startswith("the guest agent says b'")
    assert agent.commands == [FREEZE, THAW]


@pytest.mark.parametrize("command", [FREEZE, THAW])
@pytest.mark.parametrize("count", [None, True, "many", [2]])
async def test_a_count_that_is_no_number_is_none(agent, command, count):
    agent.answers[command] = {"return": count}
    async with Frozen(str(agent.path), 5) as frozen:
        pass
    assert not frozen.is_quiet
    assert "none of its file systems can be frozen" in frozen.why
    assert agent.commands == [FREEZE, THAW]


async def test_a_reason_is_one_short_line_however_the_guest_wrote_it(agent):
    agent.answers[FREEZE] = refusal("it\nwill\r\nnot " + "x" * 200_000)
    async with Frozen(str(agent.path), 5) as frozen:
        pass
    assert frozen.why.startswith("it will not xxx")
    assert len(frozen.why) <= 1000


@pytest.mark.parametrize("why", [" \n", 5, {"x": 1}])
async def test_a_refusal_without_a_reason_names_the_command(agent, why):
    agent.answers[FREEZE] = refusal(why)
    async with Frozen(str(agent.path), 5) as frozen:
        pass
    assert frozen.why == FREEZE
    assert agent.commands == [FREEZE]


def test_an_agent_that_never_stops_talking_does_not_answer(agent, monkeypatch):
    def talk():
        until = time.monotonic() + 3
        while time.monotonic() < until:
            yield b'\xff{"return":0}\n' * 1000

    monkeypatch.setattr(freeze_watch, "ANSWER", 0.2)
    agent.answers[SYNC] = talk()
    start = time.monotonic()
    with pytest.raises(freeze_watch.AgentError, match="does not answer"):
        freeze_watch.Agent(str(agent.path))
    assert time.monotonic() - start < 2


async def test_a_watch_that_is_not_ready_in_time_is_not_waited_for(agent, monkeypatch):
    monkeypatch.setattr(guest_agent, "_READY", 0.3)
    agent.answers[SYNC] = None
    async with asyncio.timeout(5), Frozen(str(agent.path), 5) as frozen:
        assert "not ready in time" in frozen.why
    assert not frozen.is_quiet
    assert agent.commands == []


async def test_a_guest_that_somebody_else_thawed_was_not_quiet(agent):
    agent.answers[THAW] = {"return": 0}
    async with Frozen(str(agent.path), 5) as frozen:
        pass
    assert not frozen.is_quiet
    assert "somebody else" in frozen.why


async def test_thawing_is_tried_until_it_is_done(agent, monkeypatch):
    monkeypatch.setattr(freeze_watch, "THAW_FOR", 5.0)
    agent.answers[THAW] = refusal("busy")
    asking = asyncio.create_task(asyncio.to_thread(freeze_watch.thaw, str(agent.path)))
    while THAW not in agent.commands:
        await asyncio.sleep(0.01)
    del agent.answers[THAW]
    agent.is_frozen = True
    assert await asking == 2
    assert not agent.is_frozen
