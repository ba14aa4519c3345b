"""Activity: who of a run works, and who waits for the vault, as seconds that add up.

Each change costs one look at the clock; there is one for each call of a worker or of the vault.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Activity:
    """*workers* is how many there are. Used from the event loop's thread only."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.workers, self._clock = workers, clock
        self._asking = self._held = self._working = 0
        self._asked = self._far = 0.0
        self._since = clock()

    @property
    def asked(self) -> float:
        """Seconds of calls to the vault, all together."""
        self._look()
        return self._asked

    @property
    def far(self) -> float:
        """Seconds of waits for the vault: what has no room, and workers with nothing to do."""
        self._look()
        return self._far

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a call to the vault."""
        self._look()
        self._asking += 1
        try:
            yield
        finally:
            self._look()
            self._asking -= 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around a wait for room: what is there is more than the vault has taken."""
        self._look()
        self._held += 1
        try:
            yield
        finally:
            self._look()
            self._held -= 1

    def works(self, more: int) -> None:
        """So many *more* calls of workers are under way."""
        self._look()
        self._working += more

    def _look(self) -> None:
        now = self._clock()
        past, self._since = now - self._since, now
        if self._asking:
            self._asked += past * self._asking
            idle = 1.0 if self._held else 1 - min(self._working, self.workers) / self.workers
            self._far += past * idle
