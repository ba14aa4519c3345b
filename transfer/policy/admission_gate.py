"""How many requests may be under way at once, so that none of them is too slow to live.

Sixteen requests that share 64 kB/s send 4 kB/s each, run into timeouts, and are sent again for
ever: azcopy's users know it as uploads that never end. So a request begins when the rate has
enough for one more, and until then not even its headers go out.
"""

from collections import OrderedDict

LEAST_SHARE = 16 * 2**10  # bytes a second


def most_active(rate: int | None, block_size: int, patience: float) -> int | None:
    """Requests at once at *rate* bytes a second; None for no bound, 0 in a pause.

    Each needs a share that brings a block of *block_size* bytes in half of the *patience*, in
    seconds, that the other side has with it.
    """
    if rate is None:
        return None
    share = max(LEAST_SHARE, block_size / (patience / 2))
    return max(1, int(rate / share)) if rate else 0


class Place:
    """One request's, in the queue and behind the gate."""

    __slots__ = ()


class AdmissionGate:
    """Who is behind the gate, and who waits before it, in the order of coming."""

    def __init__(self, rate: int | None, block_size: int = 2**20, patience: float = 60.0) -> None:
        self._block_size, self._patience = block_size, patience
        self._waiting: OrderedDict[Place, None] = OrderedDict()
        self._inside: set[Place] = set()
        self.set_rate(rate)

    @property
    def active(self) -> int:
        return len(self._inside)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def set_rate(self, rate: int | None) -> None:
        """Nobody is sent out when it falls; nobody comes in until enough have left."""
        self.most = most_active(rate, self._block_size, self._patience)

    def ask(self) -> Place:
        place = Place()
        self._waiting[place] = None
        return place

    def admit(self) -> list[Place]:
        """Those who come in now; call it after `ask`, `leave` and `set_rate`."""
        admitted = []
        while self._waiting and (self.most is None or len(self._inside) < self.most):
            place, _ = self._waiting.popitem(last=False)
            self._inside.add(place)
            admitted.append(place)
        return admitted

    def leave(self, place: Place) -> None:
        """From wherever it is."""
        self._waiting.pop(place, None)
        self._inside.discard(place)
