"""Answer paces: how fast the answers of a session go, all of them together.

A client with a limit reads no faster than that, but what a vault sends faster has been on the wire
before it waits for its reader in buffers. So the client tells its limit with each fetch, and again
when it changes. The client stays the authority: a vault that sends too fast only fills buffers.

The older of two answers gets most. Were they equal they would end together, and nothing would be
sent until the next ones have begun.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transfer.throttle.flow import Flow
from transfer.throttle.throttle import Throttle

_OLDER = 4  # times as much as the next
_STEPS = 3


class _Pace:
    def __init__(self) -> None:
        self.throttle, self.flows = Throttle(), list[Flow]()

    def begin(self, rate: int | None) -> Flow:
        self.throttle.set("up", rate)
        flow = self.throttle.flow("up")
        self.flows.append(flow)
        self._weigh()
        return flow

    def end(self, flow: Flow) -> None:
        self.flows.remove(flow)
        self._weigh()

    def _weigh(self) -> None:
        for age, flow in enumerate(self.flows):
            flow.weight = _OLDER ** max(0, _STEPS - age)


class AnswerPaces:
    """One limit for each session that has answers under way, in bytes a second; None is none."""

    def __init__(self) -> None:
        self._of: dict[int, _Pace] = {}

    @contextmanager
    def flow(self, session: int, rate: int | None) -> Iterator[Flow]:
        """For one answer; *rate* is from now on for all of *session*."""
        pace = self._of.setdefault(session, _Pace())
        flow = pace.begin(rate)
        try:
            yield flow
        finally:
            pace.end(flow)
            if not pace.flows:
                del self._of[session]
                pace.throttle.close()

    def change(self, session: int, rate: int | None) -> None:
        """For answers that are under way, at once; the next one will say it again."""
        if session in self._of:
            self._of[session].throttle.set("up", rate)
