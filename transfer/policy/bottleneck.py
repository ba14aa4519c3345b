"""Bottleneck: what held a run, or a part of it, back.

    source or target  <->  workers  <->  limiter  <->  network  <->  vault

Of every stage it is known for how long the run waited for it. The stage that was waited for most of
the time is the bottleneck: all others would have done more.
"""

from typing import Literal, NamedTuple, get_args

Cause = Literal["source", "target", "cpu", "network", "vault", "throttle"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
SHORT = 0.5  # seconds: of less nothing can be said
LEAST = 0.25  # of the time: below that nothing in particular held the run back


class Seconds(NamedTuple):
    """Since a run began; the difference of two is what lies between them.

    Those of workers and of calls are sums over all of them, so they may be more than *elapsed*.
    """

    elapsed: float = 0.0
    workers: float = 0.0
    """How many there were, times *elapsed*."""
    computing: float = 0.0
    """Of workers; also waits for a core."""
    blocked: float = 0.0
    """Of workers, in reads of the source or writes to the target."""
    loop: float = 0.0
    """That the thread of the event loop computed."""
    far: float = 0.0
    """In which the run had nothing to do but wait for the vault's answers."""
    limited: float = 0.0
    """Of calls, until the limiter let them go on."""
    sending: float = 0.0
    """Of calls, while something was on its way."""
    answering: float = 0.0
    """Of calls, the rest."""

    def since(self, before: "Seconds") -> "Seconds":
        return Seconds(*(now - then for now, then in zip(self, before, strict=True)))


def shares(spent: Seconds, reads: bool = True) -> dict[Cause, float]:
    """The part of the time, from 0 to 1, for which each was waited; *reads*: from a source."""
    calls = spent.limited + spent.sending + spent.answering
    far = _share(spent.far, spent.elapsed)
    return {
        "source" if reads else "target": _share(spent.blocked, spent.workers),
        "cpu": max(_share(spent.computing, spent.workers), _share(spent.loop, spent.elapsed)),
        "network": far * _share(spent.sending, calls),
        "vault": far * _share(spent.answering, calls),
        "throttle": far * _share(spent.limited, calls),
    }


def limited_by(spent: Seconds, reads: bool = True, short: float = SHORT) -> Cause | None:
    """What held the run back; None if it was shorter than *short* seconds, or nothing did."""
    if spent.elapsed < short:
        return None
    found = shares(spent, reads)
    cause = max(found, key=lambda each: found[each])
    return cause if found[cause] >= LEAST else None


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part) / whole) if whole > 0 else 0.0
