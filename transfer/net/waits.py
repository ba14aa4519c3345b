"""Waits of one run's calls over the network: for which of limiter, line and vault, in seconds."""

from dataclasses import dataclass

_LOOK = 0.5  # seconds over which arrivals are compared with the limit
_AT_LIMIT = 0.85  # of a limit: a vault that was told of it sends no more, and nobody waits here


@dataclass
class Waits:
    """Sums over all calls."""

    limited: float = 0.0
    """Until the limit had room for the call; and in answers that came as fast as it lets them."""
    queued: float = 0.0
    """For another call to be sent, on the connections that there are."""
    reading: float = 0.0
    """While an answer came."""
    _since: float = 0.0
    _received: int = 0
    _is_at_limit: bool = False

    def read(self, seconds: float, now: float, received: int, rate: int | None) -> None:
        """An answer took so many *seconds* to come, and the run has *received* so many bytes."""
        past = now - self._since
        if past >= _LOOK:
            self._is_at_limit = rate is not None and (
                received - self._received >= _AT_LIMIT * rate * past
            )
            self._since, self._received = now, received
        if self._is_at_limit:
            self.limited += seconds
        else:
            self.reading += seconds
