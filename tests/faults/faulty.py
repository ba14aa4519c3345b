"""A vault that misbehaves at one call, as scripted; the others are those of the vault below."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from transfer.errors import VaultUnavailable
from transfer.formats import frame
from transfer.formats.reference import Reference
from transfer.vault.base import Arrived, Outcome, fetched

CALLS = (
    "open_session", "heartbeat", "end_session", "have", "store", "fetch", "commit", "points",
    "wanted", "report_damaged",
)  # fmt: skip
Call = Callable[[], Awaitable[Any]]


class Fault(NamedTuple):
    """At the call number *at* of a run, counted from 0; of those of one *name*, if it is given."""

    at: int
    kind: str
    name: str = ""


class FaultyVault:
    """Without a fault it only notes which calls are made."""

    def __init__(self, vault: Any, fault: Fault | None = None) -> None:
        self._vault, self._fault = vault, fault
        self.calls: list[str] = []
        self.fired = False

    def __getattr__(self, name: str) -> Any:
        if name not in CALLS:
            return getattr(self._vault, name)
        real = partial(fetched, self._vault) if name == "fetch" else getattr(self._vault, name)

        async def call(*given: Any, **named: Any) -> Any:
            fault = self._fault
            number = self.calls.count(name) if fault and fault.name else len(self.calls)
            self.calls.append(name)
            if fault is None or fault.name not in ("", name) or fault.at != number:
                return await real(*given, **named)
            self.fired = True
            script = _SCRIPTS[fault.kind]
            return await script(name, given, lambda *new: real(*(new or given), **named))

        return self._fetch(call) if name == "fetch" else call

    def _fetch(self, call: Any) -> Any:
        """What the script leaves of the answer arrives."""

        async def fetch(session: int, references: Sequence[Reference], arrived: Arrived) -> None:
            raws = await call(session, references)
            for reference, raw in zip(references, raws, strict=True):
                if raw is not None:
                    arrived(reference, raw)

        return fetch


async def _fail(name: str, given: Any, do: Any) -> Any:
    raise VaultUnavailable("scripted: the call did not arrive")


async def _lose(name: str, given: Any, do: Any) -> Any:
    await do()
    raise VaultUnavailable("scripted: the answer was lost")


async def _twice(name: str, given: Any, do: Any) -> Any:
    await do()
    return await do()


async def _late(name: str, given: Any, do: Any) -> Any:
    answer = await do()
    await asyncio.sleep(0.02)
    return answer


async def _cut(name: str, given: Any, do: Any) -> Any:
    """The first half arrives: of frames that are sent, and of whatever is answered."""
    if name == "store":
        session, raw = given
        frames = [bytes(each) for _, each in frame.walk(raw)]
        if len(frames) > 1:
            await do(session, b"".join(frames[: len(frames) // 2]))
        raise VaultUnavailable("scripted: the connection was cut")
    answer = await do()
    if name == "fetch":
        half = len(answer) // 2
        return [*answer[:half], *[None] * (len(answer) - half)]
    raise VaultUnavailable("scripted: the answer was cut")


async def _wrong(name: str, given: Any, do: Any) -> Any:
    """What is answered is not true."""
    answer = await do() if name != "store" else None
    match name:
        case "store":
            return [Outcome.EXISTED for _ in frame.walk(given[1])]  # and nothing is stored
        case "have":
            return [not each for each in answer]
        case "fetch":
            return [each and _flipped(each) for each in answer]
        case "points":
            return [each._replace(record=_flipped(each.record)) for each in answer]
        case "wanted":
            return [] if answer else answer
    return answer


async def _swapped(name: str, given: Any, do: Any) -> Any:
    """What is answered is whole, and something else than was asked for; points are there twice."""
    answer = await do()
    match name:
        case "fetch" | "have":
            return [*answer[1:], *answer[:1]]
        case "points":
            return [*answer, *answer]
    return answer


def _flipped(raw: bytes) -> bytes:
    at = len(raw) // 2
    return raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :]


_SCRIPTS = {
    "fail": _fail, "lose": _lose, "twice": _twice, "late": _late, "cut": _cut, "wrong": _wrong,
    "swap": _swapped,
}  # fmt: skip
KINDS = tuple(_SCRIPTS)
