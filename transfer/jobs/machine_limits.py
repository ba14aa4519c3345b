"""The machine's limits: its timetable, and what a person set instead of it.

    timetable.toml      in the directory of configuration; missing is no limit
    throttle.json       in the state directory: what was set or paused, until when

Both are read when a run begins and whenever somebody says that they have changed. A file that is
wrong changes nothing: what was in force stays.
"""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from transfer.files.timetable import read_timetable
from transfer.formats.documents import Count, Time
from transfer.jobs.state import StateDirectory, default_place
from transfer.policy.timetable import Timetable
from transfer.throttle.rules import POOLS, Pool
from transfer.throttle.throttle import Throttle

FILE, TIMETABLE = "throttle.json", "timetable.toml"


class Override(msgspec.Struct, frozen=True):
    """*rate* in bytes a second, None for no limit; up to *until* in ns of UTC, None for good."""

    rate: Count | None
    until: Time | None = None


class Overrides(msgspec.Struct, frozen=True):
    """What holds instead of the timetable; None is the timetable's own word."""

    up: Override | None = None
    down: Override | None = None
    total: Override | None = None
    pause: Override | None = None

    def of(self, pool: Pool) -> Override | None:
        found: Override | None = getattr(self, pool)
        return found

    def at(self, now: int) -> "Overrides":
        """Without those that are over."""
        kept = {
            name: each for name in (*POOLS, "pause")
            if (each := getattr(self, name)) is not None
            and (each.until is None or each.until > now)
        }  # fmt: skip
        return Overrides(**kept)


def timetable() -> tuple[Timetable, Path | None]:
    """The one that is in force, and where it stands. Raises UsageError, which names the line."""
    config = default_place("CONFIG", "/etc/transfer", "user_config_dir")
    path = None if config is None else config / TIMETABLE
    if path is None or not _is_there(path):
        return Timetable(), None
    return read_timetable(path), path


def _is_there(path: Path) -> bool:
    """Not where we may not look: that is another user's home. A directory that was named counts."""
    try:
        return path.exists()
    except PermissionError:
        return "TRANSFER_CONFIG" in os.environ


def overrides(state: StateDirectory) -> Overrides:
    return state.read(FILE, Overrides) or Overrides()


def change(state: StateDirectory, how: Callable[[Overrides], Overrides]) -> Overrides:
    """What is set from now on; two who change it do so one after the other."""
    with state.alone(FILE):
        found = how(overrides(state))
        state.write(FILE, found)
        return found


def apply(throttle: Throttle, state: StateDirectory) -> None:
    """Put in force what the files say. Raises UsageError or FormatError, and changes nothing."""
    table, path = timetable()
    found = overrides(state)
    throttle.set_schedule(None if path is None else table.explain)
    for pool in POOLS:
        if (override := found.of(pool)) is None:
            throttle.clear(pool)
        else:
            throttle.set(pool, override.rate, override.until)
    if found.pause is None:
        throttle.resume()
    else:
        throttle.pause(found.pause.until)
