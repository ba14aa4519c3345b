"""Which limits are in force at an instant: a pause, what was set by hand, the timetable, or none.

It knows the wall clock only as an argument, in ns of UTC. A step of that clock needs no detector:
what was explained holds from one instant to another, and a look outside of those asks again.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from transfer.errors import UsageError
from transfer.policy.timetable import Explanation
from transfer.policy.token_bucket import MAX_RATE

Pool = Literal["up", "down", "total"]
POOLS: tuple[Pool, ...] = get_args(Pool)
Schedule = Callable[[int], Explanation]
Rates = tuple[int | None, int | None, int | None]
"""Of up, down and total, in bytes a second; None is no limit, 0 a pause."""


class InForce(NamedTuple):
    """*why* is `paused`, `set`, `rule` (then *rule* is its name), `default`, or `none`.

    It holds from *since* up to, not including, *until*, in ns of UTC; None is for ever.
    """

    rate: int | None
    why: str
    rule: str | None = None
    since: int | None = None
    until: int | None = None


class Rules:
    def __init__(self) -> None:
        self._set: dict[Pool, InForce] = {}
        self._paused: InForce | None = None
        self._schedule: Schedule | None = None
        self._explained: Explanation | None = None

    def set(self, pool: Pool, rate: int | None, now: int, until: int | None = None) -> None:
        """*rate* holds instead of the timetable's, up to *until*. Raises UsageError."""
        if pool not in POOLS:
            raise UsageError(f"{pool!r} is none of {', '.join(POOLS)}")
        if rate is not None and not 0 <= rate <= MAX_RATE:
            raise UsageError(f"a rate of {rate} bytes a second is not between 0 and {MAX_RATE}")
        self._set[pool] = InForce(rate, "set", since=now, until=until)

    def clear(self, pool: Pool) -> None:
        self._set.pop(pool, None)

    def pause(self, now: int, until: int | None = None) -> None:
        self._paused = InForce(0, "paused", since=now, until=until)

    def resume(self) -> None:
        self._paused = None

    def schedule(self, schedule: Schedule | None, now: int) -> None:
        """Whatever *schedule* raises is raised here, and the one before stays."""
        self._explained = None if schedule is None else schedule(now)
        self._schedule = schedule

    def at(self, now: int) -> dict[Pool, InForce]:
        self._expire(now)
        explained = self._explanation(now)
        return {pool: self._of(pool, explained) for pool in POOLS}

    def _of(self, pool: Pool, explained: Explanation | None) -> InForce:
        if self._paused is not None and pool != "total":
            return self._paused
        if pool in self._set:
            return self._set[pool]
        if explained is None:
            return InForce(None, "none")
        rate, rule = getattr(explained.limits, pool)
        why = "default" if rule is None else "rule"
        return InForce(rate, why, rule, explained.since, explained.until)

    def _explanation(self, now: int) -> Explanation | None:
        known = self._explained
        if self._schedule is None or known is None:
            return None
        if (known.since is not None and now < known.since) or (
            known.until is not None and now >= known.until
        ):
            known = self._explained = self._schedule(now)
        return known

    def _expire(self, now: int) -> None:
        if self._paused is not None and _over(self._paused, now):
            self._paused = None
        self._set = {pool: each for pool, each in self._set.items() if not _over(each, now)}

    def next_look(self, now: int) -> int | None:
        """The instant of the next change that is known; None if nothing will change by itself."""
        ends = [each.until for each in (self._paused, *self._set.values(), self._explained) if each]
        return min((end for end in ends if end is not None and end > now), default=None)

    @property
    def depend_on_time(self) -> bool:
        return self._schedule is not None or self.next_look(0) is not None


def _over(setting: InForce, now: int) -> bool:
    return setting.until is not None and now >= setting.until
