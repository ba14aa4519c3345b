"""Limits of one run: what it was told itself, and below that what holds for the machine.

    --up, --down                 of this run alone
    timetable.toml               of the machine, by the time of day
    throttle set, pause          of the machine, instead of the timetable's

All processes of a state directory share the machine's, through one mapped file, by their weights:
a restore has twice a backup's.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import NamedTuple

from transfer.jobs import control, machine_limits
from transfer.jobs.agent import Agent, limits_nothing
from transfer.jobs.state import state_errors
from transfer.net.client import RemoteVault
from transfer.throttle.dispatch import WEIGHTS, ClassName
from transfer.throttle.shared import SharedLimits
from transfer.throttle.throttle import Throttle


class RunLimits(NamedTuple):
    """*up* and *down* in bytes a second, None is none of its own.

    What the machine's limits leave to it beside other runs goes by its class and *weight*.
    """

    up: int | None = None
    down: int | None = None
    weight: int | None = None
    name: ClassName = "backup"


@asynccontextmanager
async def limited(agent: Agent, limits: RunLimits) -> AsyncIterator[Agent]:
    """*agent* for one run.

    Raises UsageError for limits on a directory: a limit that limits nothing would be a lie.
    """
    if not isinstance(agent.vault, RemoteVault):
        for option in ("up", "down", "weight"):
            if getattr(limits, option) is not None:
                raise limits_nothing(option, agent.place)
        yield agent
        return
    with state_errors(path := agent.state.path / "limits"):
        shared = SharedLimits(path, WEIGHTS[limits.name] * (limits.weight or 1))
    throttle = Throttle(limits.up, limits.down, shared=shared)
    with closing(throttle):
        async with (
            agent.vault.limited(throttle, limits.name) as vault,
            control.listening(agent.state, throttle),
        ):
            # What changes from here on is told.
            machine_limits.apply(throttle, agent.state)
            yield replace(agent, vault=vault)
