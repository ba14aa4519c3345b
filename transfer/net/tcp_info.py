"""What the kernel knows of a TCP connection: bytes that arrived, round trips, who made it wait.

Linux only; elsewhere, and of a socket that is closed, it is None, and whoever asks does without.
"""

import socket
import struct
from typing import NamedTuple

# struct tcp_info of linux/tcp.h: tcpi_rtt, tcpi_total_retrans, tcpi_bytes_acked,
# tcpi_bytes_received, tcpi_segs_out, tcpi_min_rtt, and since Linux 4.10 tcpi_busy_time. All times
# are microseconds.
_INFO = struct.Struct("=68xI28xI16xQQI8xI16xQ")
_OPTION = getattr(socket, "TCP_INFO", 11)
_NEVER = 2**32 - 1  # of min_rtt, before there was a round trip


class Traffic(NamedTuple):
    """Of a connection since its start, or of many together. Seconds and bytes."""

    sent: int = 0
    """Acknowledged by the other side's TCP."""
    received: int = 0
    busy: float = 0.0
    """While something was to be sent or acknowledged."""
    segments: int = 0
    """That were sent."""
    repeated: int = 0
    """Of these, again: the first was lost."""

    def plus(self, new: "Traffic", old: "Traffic") -> "Traffic":
        """With what came between *old* and *new* of one connection."""
        return Traffic(
            self.sent + new.sent - old.sent, self.received + new.received - old.received,
            self.busy + new.busy - old.busy, self.segments + new.segments - old.segments,
            self.repeated + new.repeated - old.repeated,
        )  # fmt: skip


class Info(NamedTuple):
    traffic: Traffic
    round_trip: float
    """The shortest one; 0.0 before the first."""


def info_of(one: socket.socket) -> Info | None:
    try:
        raw = one.getsockopt(socket.IPPROTO_TCP, _OPTION, _INFO.size)
        rtt, repeated, sent, received, segments, shortest, busy = _INFO.unpack(raw)
    except (OSError, AttributeError, struct.error):
        return None
    if shortest == _NEVER:
        shortest = rtt
    traffic = Traffic(sent, received, busy / 1e6, segments, repeated)
    return Info(traffic, shortest / 1e6)
