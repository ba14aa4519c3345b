"""Compression that follows the bottleneck: more of it where all wait for the line, and processors
have nothing to do.

The usual level stores about what others store, and is the least: a backup that is held back by its
processors would be quicker with less, and larger for as long as it is kept.
"""

from transfer.policy.bottleneck import Cause, Seconds

USUAL = 3
LEVELS = (USUAL, 5, 7, 9)  # beyond these half as much again buys less than a hundredth
_IDLE, _BUSY = 0.6, 0.85  # of the workers' time
_SLOW: frozenset[Cause | None] = frozenset({"network", "throttle"})


class Compression:
    """*level* is that of zstd, for blocks to come. One step up or down for each look."""

    def __init__(self) -> None:
        self._step = 0

    @property
    def level(self) -> int:
        return LEVELS[self._step]

    def seen(self, spent: Seconds, cause: Cause | None) -> int:
        """The level from now on, after some time in which *cause* limited the run."""
        busy = spent.computing / spent.workers if spent.workers else 1.0
        if cause in _SLOW and busy < _IDLE:
            self._step = min(self._step + 1, len(LEVELS) - 1)
        elif cause == "cpu" or busy > _BUSY:
            self._step = max(self._step - 1, 0)
        return self.level
