"""Limits of one run: what it was told itself, and below that what holds for the machine.

    --up, --down                 of this run alone
    timetable.toml               of the machine, by the time of day
    throttle set, pause          of the machine, instead of the timetable's

All processes of a state directory share the machine's, through one mapped file.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace

from transfer.jobs import control, machine_limits
from transfer.jobs.agent import Agent, limits_nothing
from transfer.jobs.state import state_errors
from transfer.net.client import RemoteVault
from transfer.throttle.dispatch import ClassName
from transfer.throttle.shared import SharedLimits
from transfer.throttle.throttle import Throttle


@asynccontextmanager
async def limited(
    agent: Agent, up: int | None, down: int | None, name: ClassName = "backup"
) -> AsyncIterator[Agent]:
    """*agent* for one run with limits, in bytes a second; None is none of its own.

    Raises UsageError for limits on a directory: a limit that limits nothing would be a lie.
    """
    if not isinstance(agent.vault, RemoteVault):
        for option, rate in (("up", up), ("down", down)):
            if rate is not None:
                raise limits_nothing(option, agent.place)
        yield agent
        return
    with state_errors(path := agent.state.path / "limits"):
        shared = SharedLimits(path)
    throttle = Throttle(up, down, shared=shared)
    with closing(throttle):
        async with (
            agent.vault.limited(throttle, name) as vault,
            control.listening(agent.state, throttle),
        ):
            # What changes from here on is told.
            machine_limits.apply(throttle, agent.state)
            yield replace(agent, vault=vault)
