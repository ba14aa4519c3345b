"""Concurrency: how many connections pay, found by trying, and found again when the path changes.

    search: twice as many while that brings 5 % more
    narrow: between the last two, by the golden section, fewer where the difference is little
    hold:   every 30 s a few more or a few less; all over again when much has changed

Only what the network or the vault holds back can gain by more connections. An epoch that was
limited by anything else ends a search, and starts none. Time and bytes are arguments.
"""

from typing import NamedTuple

from transfer.policy.bottleneck import Cause

START, MOST = 4, 64
_EPOCH, _ROUND_TRIPS = 2.0, 10  # seconds at least, and round trips
_SETTLES, _SETTLE_TRIPS = 0.5, 4  # of that, after a change, until it shows
_PAYS = 1.05  # times as much, for twice as many
_LITTLE = 0.98  # of the best: as good, with fewer connections
_CHANGED = 0.8  # of what was, or less; or as much more: another path
_PROBE = 30.0  # seconds between two looks at the neighbours
_MORE, _LESS = 1.25, 0.75
_GOLDEN = 0.618
_GAIN: frozenset[Cause | None] = frozenset({"network", "vault"})


class Epoch(NamedTuple):
    """What was seen for *seconds*: bytes that arrived, and what limited the run meanwhile."""

    seconds: float
    bytes: int
    cause: Cause | None
    refused: bool = False
    """The vault asked for less (429, 503), or connections failed."""


def epoch_length(round_trip: float) -> float:
    """The seconds from a change to the end of what tells whether it was good."""
    return max(_EPOCH, _ROUND_TRIPS * round_trip)


def settling(round_trip: float) -> float:
    """The seconds after a change that say nothing of it."""
    return max(_SETTLES, _SETTLE_TRIPS * round_trip)


class Concurrency:
    """*connections* from 1 to *most*. The caller sets them, and tells what came of it."""

    def __init__(self, start: int = START, most: int = MOST) -> None:
        self.connections, self._most = min(start, most), most
        self._rates: dict[int, float] = {}
        """Bytes a second, of the numbers that were tried in this search."""
        self._doubted = set[int]()
        """Numbers that seemed not to pay: each is looked at once more."""
        self._state = self._search
        self._held, self._rate, self._others, self._probes = 0.0, 0.0, 0, 0

    def seen(self, epoch: Epoch) -> int:
        """The number for the next epoch."""
        if epoch.refused:
            self._hold(max(1, self.connections // 2), 0.0)
        elif epoch.cause in _GAIN:
            self._note(epoch.bytes / epoch.seconds)
            self._state(epoch)
        elif self._state != self._holding:
            self._hold(self.connections, 0.0)
        return self.connections

    def _note(self, rate: float) -> None:
        """Of two epochs with one number their mean: lines that lose packets are restless."""
        before = self._rates.get(self.connections)
        self._rates[self.connections] = rate if before is None else (before + rate) / 2

    def _search(self, epoch: Epoch) -> None:
        now = self.connections
        below = max((n for n in self._rates if n < now), default=0)
        if below and self._rates[now] < _PAYS * self._rates[below]:
            if now not in self._doubted:
                self._doubted.add(now)
                return
            self._low, self._high = below, now
            self._state = self._narrow
            self._narrow(epoch)
        elif now < self._most:
            self.connections = min(2 * now, self._most)
        else:
            self._hold(now, self._rates[now])

    def _narrow(self, epoch: Epoch) -> None:
        inner = self.connections
        if self._low < inner < self._high:
            if self._rates[inner] >= _LITTLE * self._rates[self._high]:
                self._high = inner
            else:
                self._low = inner
        between = round(self._high - _GOLDEN * (self._high - self._low))
        if self._high - self._low > max(1, self._low // 4) and between not in self._rates:
            self.connections = between
            return
        best = max(self._rates.values())
        good = min(n for n, rate in self._rates.items() if rate >= _LITTLE * best)
        self._hold(good, self._rates[good])

    def _hold(self, connections: int, rate: float) -> None:
        """With *rate* as what it brings; 0.0: to be seen."""
        self.connections, self._rate = connections, rate
        self._rates.clear()
        self._doubted.clear()
        self._state, self._held, self._others = self._holding, 0.0, 0

    def _holding(self, epoch: Epoch) -> None:
        rate = epoch.bytes / epoch.seconds
        self._held += epoch.seconds
        if not self._rate:
            self._rate = rate
        if _CHANGED * self._rate <= rate <= self._rate / _CHANGED:
            self._others = 0
            self._rate += (rate - self._rate) / 4
        else:
            self._others += 1
        if self._others >= 2:
            self._again(rate)
        elif self._held >= _PROBE and not self._others:
            self._probe(rate)

    def _again(self, rate: float) -> None:
        """Another path: search from here on upwards, or where there is no more, from a few."""
        if self.connections < self._most:
            self._rates = {self.connections: rate}
            self._state, self.connections = self._search, min(2 * self.connections, self._most)
        elif rate > self._rate:
            self._hold(self.connections, rate)
        else:
            self._rates.clear()
            self._state, self.connections = self._search, min(START, self._most)

    def _probe(self, rate: float) -> None:
        """A few more, and the next time a few less."""
        self._before, self._probes = (self.connections, rate), self._probes + 1
        if self._probes % 2 and self.connections < self._most:
            wanted = max(self.connections + 1, int(self.connections * _MORE))
        else:
            wanted = min(self.connections - 1, int(self.connections * _LESS))
        self.connections = min(max(1, wanted), self._most)
        self._state = self._probing

    def _probing(self, epoch: Epoch) -> None:
        number, before = self._before
        rate = epoch.bytes / epoch.seconds
        if self.connections < number and rate > before / _CHANGED:
            self._again(rate)
            return
        if self.connections > number and rate >= _PAYS * before:
            self._rates = {number: before, self.connections: rate}
            self._state = self._search
            self._search(epoch)
            return
        kept = self.connections < number and rate >= _LITTLE * before
        self._hold(self.connections if kept else number, rate if kept else before)
