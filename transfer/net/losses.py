"""Losses: where a line loses packets, TCP's usual congestion control takes each for a full queue.

With 1 % lost and 100 ms away a connection of cubic or reno brings some 0.2 MB/s whatever the line
has; BBR measures what the line brings. It is asked for where packets are lost again and again:
never on loopback, and seldom in a building. Linux lets everybody have it if its administrator does;
where it is refused, more connections are what is left.
"""

import socket
from contextlib import suppress

from transfer.net.tcp_info import Traffic

_CONGESTION = getattr(socket, "TCP_CONGESTION", 13)
_FAR = 0.005  # seconds there and back: nearer, a loss is made up for at once
_SHARE = 0.0005  # of the segments, sent twice
_SOME, _ENOUGH = 3, 20_000  # segments: lost, or sent, which say how many are
_LOOKS = 2  # with so many losses each; the first may be the start's own


class Losses:
    """Told of all connections together now and then, says whether they should be steady."""

    def __init__(self) -> None:
        self._before, self._looks = Traffic(), 0

    def seen(self, traffic: Traffic, round_trip: float) -> bool:
        """Whether this look is the one that shows that packets are lost again and again."""
        segments = traffic.segments - self._before.segments
        repeated = traffic.repeated - self._before.repeated
        if repeated < _SOME and segments < _ENOUGH:
            return False
        self._before = traffic
        if round_trip < _FAR or repeated < _SHARE * segments:
            return False
        self._looks += 1
        return self._looks == _LOOKS

    @property
    def are_many(self) -> bool:
        return self._looks >= _LOOKS


def bear_losses(one: socket.socket) -> None:
    """From now on this connection sends at the pace that it measures, if the system lets it."""
    with suppress(OSError):
        one.setsockopt(socket.IPPROTO_TCP, _CONGESTION, b"bbr")
