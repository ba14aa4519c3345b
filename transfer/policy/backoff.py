"""How long to wait before the next attempt, and how many attempts all calls have together."""

BASE, CAP = 0.5, 30.0  # seconds


def delay(attempt: int, chance: float, retry_after: float | None = None) -> float:
    """The seconds to wait after failed attempt number *attempt* (from 0).

    Full jitter: *chance*, drawn from [0, 1) for each call, spreads clients that failed together
    over the whole of a span that doubles up to CAP. What the vault asked for in *retry_after*
    seconds comes first, and the jitter after it: else all would be back in the same moment.
    """
    span = min(CAP, BASE * 2.0 ** min(attempt, 10))  # the exponent too, before it leaves a float
    return (retry_after or 0.0) + chance * span


class RetryBudget:
    """Retries that all calls of one client share, so that an outage is not met by a multiple
    of the usual load. The figures are those of botocore's standard mode: 100 retries in a row,
    and each success pays for a fifth of one.
    """

    def __init__(self, capacity: int = 500, cost: int = 5, refund: int = 1) -> None:
        self._capacity, self._cost, self._refund = capacity, cost, refund
        self._left = capacity

    def retry(self) -> bool:
        """Whether there is budget for one more retry; it is spent."""
        if self._left < self._cost:
            return False
        self._left -= self._cost
        return True

    def succeeded(self) -> None:
        self._left = min(self._capacity, self._left + self._refund)
