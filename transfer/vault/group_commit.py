"""Group commit: requests that wait for the disk at the same time share its next fsync.

Every caller of `store` leaves its frames in one queue and calls the vault's thread. Whichever of
these calls runs first takes what waits by then; the later ones find their frames stored. So each
call ends only after its own frames are durable, and nobody has to lead.

Synchronous; the vault's one writer thread runs it.
"""

from collections import deque

from transfer.errors import TransferError
from transfer.formats.reference import Buffer
from transfer.vault import checks
from transfer.vault.base import MAX_BODY, Outcome
from transfer.vault.checks import Arrived
from transfer.vault.frames import FrameStore, Request
from transfer.vault.ledger import Ledger

_AT_ONCE = 2 * MAX_BODY  # bytes; more would make the first of them wait long for its answer


class Arrival:
    """Frames of one call, and what came of them."""

    def __init__(self, session: int, frames: Buffer) -> None:
        self.session, self.frames = session, frames
        self.outcomes: list[Outcome] | None = None
        self.error: BaseException | None = None

    def answer(self) -> list[Outcome]:
        if self.error is not None:
            raise self.error
        assert self.outcomes is not None
        return self.outcomes


def store_together(waiting: deque[Arrival], frames: FrameStore, ledger: Ledger) -> None:
    """Store what waits; each error is told to those whose frames it kept from being stored."""
    by_domain: dict[bytes, list[tuple[Arrival, list[Arrived]]]] = {}
    for arrival in _taken(waiting):
        try:
            domain = ledger.sessions.get(arrival.session).domain
            by_domain.setdefault(domain, []).append((arrival, checks.split(arrival.frames)))
        except Exception as error:
            arrival.error = error
    for domain, group in by_domain.items():
        requests = [Request(arrival.session, arrived) for arrival, arrived in group]
        try:
            outcomes = frames.store(domain, requests, ledger.epochs(domain))
        except Exception as error:
            for arrival, _ in group:
                arrival.error = _own(error)
            continue
        for (arrival, _), each in zip(group, outcomes, strict=True):
            arrival.outcomes = each


def _taken(waiting: deque[Arrival]) -> list[Arrival]:
    taken, size = list[Arrival](), 0
    while waiting and (not taken or size + len(waiting[0].frames) <= _AT_ONCE):
        taken.append(waiting.popleft())
        size += len(taken[-1].frames)
    return taken


def _own(error: Exception) -> Exception:
    """One for each who is told: a traceback grows where an exception is raised again."""
    return type(error)(*error.args) if isinstance(error, TransferError) else error
