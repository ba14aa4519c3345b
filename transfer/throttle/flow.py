"""What a connection sees of the throttle."""

from typing import TYPE_CHECKING, NamedTuple

from transfer.policy.fair_queue import Class
from transfer.policy.fair_queue import Flow as Queue
from transfer.policy.token_bucket import MAX_QUANTUM, SECOND

if TYPE_CHECKING:
    from transfer.throttle.dispatch import Dispatch


class Counted(NamedTuple):
    """Of a class: who waits now, bytes since the start, and seconds waited, all together."""

    waiting: int
    granted: int
    waited: float
    longest: float


class Counters:
    def __init__(self) -> None:
        self._granted = self._waited = self._longest = 0

    def add(self, granted: int, waited: int) -> None:
        self._granted += granted
        self._waited += waited
        self._longest = max(self._longest, waited)

    def read(self, waiting: int) -> Counted:
        return Counted(waiting, self._granted, self._waited / SECOND, self._longest / SECOND)


class Flow:
    """One direction of one connection, or of whoever else moves one thing after another.

    A flow may be used by several tasks; they are served in their order. Without a limit each call
    costs one test.
    """

    def __init__(self, dispatch: "Dispatch", share: Class, counters: Counters, weight: int) -> None:
        self._dispatch, self._share, self._counters = dispatch, share, counters
        self._queue = Queue(share, weight)
        self._waited = 0

    @property
    def waited(self) -> float:
        """Seconds that callers of this flow spent waiting, all together."""
        return self._waited / SECOND

    @property
    def weight(self) -> int:
        """Its part of what the class has, beside those of other flows; from the next grant on."""
        return self._queue.weight

    @weight.setter
    def weight(self, weight: int) -> None:
        if weight < 1:
            raise ValueError(f"need a weight of at least 1, got {weight}")
        self._queue.weight = weight

    @property
    def limited(self) -> bool:
        """Whether anything but the network limits this flow now."""
        return bool(self._share.bounds)

    @property
    def paused(self) -> bool:
        """Whether a limit of 0 holds: nothing is granted until that ends."""
        return any(bucket.rate == 0 for bucket in self._share.bounds)

    @property
    def quantum(self) -> int:
        """The most bytes to hand to the network at once; the size of a caller's slices."""
        return min((bucket.quantum for bucket in self._share.bounds), default=MAX_QUANTUM)

    async def take(self, amount: int) -> None:
        """Return when *amount* bytes may go out. Cancelled, it leaves nothing spent.

        A large amount waits until it has all of itself, to be used at once: slice by `quantum`.
        """
        if self._share.bounds and amount > 0 and not self._at_once(amount):
            self._count(amount, await self._dispatch.granted(self._queue, amount, came=False))

    async def spent(self, amount: int) -> None:
        """*amount* bytes came in; return when they are paid. Cancelled, they stay spent."""
        if self._share.bounds and amount > 0 and not self._at_once(amount):
            self._count(amount, await self._dispatch.granted(self._queue, amount, came=True))

    def charge(self, amount: int) -> None:
        """*amount* bytes of control traffic go at once; whoever waits, waits for these too."""
        if self._share.bounds and amount > 0:
            self._dispatch.charged(self._queue, amount)
            self._count(amount, 0)

    def _at_once(self, amount: int) -> bool:
        """Most grants of a limit that is not reached need no switch of tasks."""
        granted = self._dispatch.at_once(self._queue, amount)
        if granted:
            self._count(amount, 0)
        return granted

    def _count(self, amount: int, waited: int) -> None:
        self._waited += waited
        self._counters.add(amount, waited)
