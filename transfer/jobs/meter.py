"""Meter: of a run that goes on, how long it waited for what."""

import time

from transfer.net.client import RemoteVault
from transfer.net.tcp_info import Traffic
from transfer.pipeline.workers import Pool
from transfer.policy.bottleneck import Cause, Seconds, limited_by
from transfer.vault.base import Vault


class Meter:
    """Counts from now on; *reads* from a source, or else writes to a target."""

    def __init__(self, pool: Pool, vault: Vault, reads: bool) -> None:
        self._pool, self._vault, self.reads = pool, vault, reads
        self._began, self._loop_began = time.monotonic(), time.thread_time()
        self._before = _traffic(vault)

    def limited_by(self) -> Cause | None:
        """What held the run back so far."""
        return limited_by(self.spent(), self.reads)

    def spent(self) -> Seconds:
        elapsed = time.monotonic() - self._began
        activity, (computing, blocked) = self._pool.activity, self._pool.spent
        limited, sending, queued = self._calls()
        return Seconds(
            elapsed, elapsed * activity.workers, computing, blocked,
            time.thread_time() - self._loop_began, activity.far, limited, sending,
            max(0.0, activity.asked - limited - sending - queued),
        )  # fmt: skip

    def _calls(self) -> tuple[float, float, float]:
        """Seconds of calls that waited for the limiter, the network, and each other."""
        if not isinstance(self._vault, RemoteVault):
            return 0.0, 0.0, 0.0
        limits, traffic = self._vault.limits, _traffic(self._vault)
        up, down, waits = limits.up.waited, limits.down.waited, limits.waits
        busy = traffic.busy - self._before.busy
        # While a grant is waited for, what was granted before is still on its way.
        sending = max(0.0, busy - up) + max(0.0, waits.reading - down)
        return waits.limited + up + down, sending, waits.queued


def _traffic(vault: Vault) -> Traffic:
    found = vault.traffic if isinstance(vault, RemoteVault) else None
    return found or Traffic()
