"""Service: what the calls of one server share: the vault behind it, memory, and whose turn it is.

A machine's calls take turns, TURNS of them at a time: one that asks much waits for itself, and
leaves the vault's thread to others in between.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from aiohttp import web

from transfer.errors import SessionEnded, TransientError
from transfer.formats.messages import JSON
from transfer.formats.reference import Reference
from transfer.net import bodies
from transfer.net.admission import Admission, Caller
from transfer.net.answer_paces import AnswerPaces
from transfer.net.buffers import ReceiveBuffers
from transfer.net.call_rates import CallRate
from transfer.net.pacing import on_wire, slice_of
from transfer.net.problems import CallRefused
from transfer.throttle.flow import Flow
from transfer.vault.authority import Authority
from transfer.vault.base import StoredPoint, Vault
from transfer.vault.registry import Registry

TURNS = 8
_CALLS = 200  # control calls of one machine, a second
_REGISTRATIONS, _OF_ADDRESS = 40, 20  # a second, and as many renewals
_SLICE = 256 * 1024
_CHUNK = 9  # bytes that HTTP puts around a slice at most; of a slow rate's they are a hundredth
_COMMITS = 4  # of one domain at once
_MAX_KEPT = 10_000  # sessions whose domain is remembered; it never changes
_LOOK, _PATIENT = 1.0, 60.0  # seconds
_COMMITTED = 60.0  # seconds for which the answer of a commit is kept


BEGUN = web.RequestKey("begun", web.StreamResponse)
"""An answer that is sent as it comes."""
WRITTEN = web.ResponseKey("written", int)


class ServedVault(Vault, Protocol):
    async def domain_of(self, session: int) -> bytes | None:
        """Whose session it is or was; None for a number that was never given."""

    async def fetch_some(
        self, session: int, references: Sequence[Reference], limit: int
    ) -> list[bytes | None]:
        """The first of them, None if missing: as many as fit *limit* bytes, and at least one."""

    async def pass_over(self, session: int, references: Sequence[Reference]) -> None:
        """As `report_damaged`, for this session alone: nothing is marked."""


@dataclass
class Commit:
    """One that is under way, or ended a moment ago."""

    session: int
    record: bytes
    task: "asyncio.Task[StoredPoint]"
    asked_again: bool = False
    """Its caller was told to ask for it; else its answer was the answer."""

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


@dataclass
class Service:
    vault: ServedVault
    registry: Registry
    authority: Authority
    admission: Admission
    buffers: ReceiveBuffers
    sending: ReceiveBuffers
    """For answers: who reads slowly keeps nobody from sending."""
    paces: AnswerPaces
    clock: Callable[[], int]
    refresh: Callable[[], Awaitable[None]]
    """After a certificate was issued: the CA that signed it may be a new one."""
    calling: CallRate = field(default_factory=lambda: CallRate(_CALLS))
    """By machine."""
    arriving: CallRate = field(default_factory=lambda: CallRate(_OF_ADDRESS))
    """Registrations and renewals, by address."""
    registering: CallRate = field(default_factory=lambda: CallRate(_REGISTRATIONS))
    renewing: CallRate = field(default_factory=lambda: CallRate(_REGISTRATIONS))
    """Of all together. Not the same: anybody may try to register."""
    commits: dict[tuple[bytes, bytes], Commit] = field(default_factory=dict)
    """By domain and point."""
    counted: dict[bytes, tuple[float, dict[str, int]]] = field(default_factory=dict)
    """Statistics by domain, and until when they are good."""
    _domains: dict[int, bytes] = field(default_factory=dict)
    _turns: dict[bytes, asyncio.Semaphore] = field(default_factory=dict)
    _calling: Counter[bytes] = field(default_factory=Counter)

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Around a call to the vault. Raises NotAuthorised if the caller lost its right waiting."""
        machine = caller.machine
        turns = self._turns.setdefault(machine, asyncio.Semaphore(TURNS))
        self._calling[machine] += 1
        try:
            async with turns:
                await self.admission.still(caller)
                yield
        finally:
            self._calling[machine] -= 1
            if not self._calling[machine]:
                del self._calling[machine], self._turns[machine]

    async def session_of(self, request: web.Request, caller: Caller) -> int:
        """The one in the path or the query; another domain's is as unknown as one never given."""
        named = request.match_info.get("session")
        number = int(named) if named is not None else bodies.number(request, "session", 1)
        if not await self.owns(caller, number):
            raise SessionEnded(f"the vault does not know session {number}", "run again")
        return number

    async def owns(self, caller: Caller, session: int) -> bool:
        if session not in self._domains:
            domain = await self.vault.domain_of(session)
            if domain is None:
                return False
            if len(self._domains) >= _MAX_KEPT:
                self._domains.clear()
            self._domains[session] = domain
        return self._domains[session] == caller.domain

    def begin_commit(self, caller: Caller, point: bytes, session: int, record: bytes) -> Commit:
        """Commit in a task of its own: it goes on whoever waits for it, while *caller* is good.

        Raises CallRefused if too many of the domain are under way.
        """
        under_way = [place for place, one in self.commits.items() if not one.task.done()]
        if sum(domain == caller.domain for domain, _ in under_way) >= _COMMITS:
            raise CallRefused(503, f"{_COMMITS} commits of this domain are under way", "try again")
        task = asyncio.ensure_future(self._commit(caller, session, record))
        place = caller.domain, point
        commit = self.commits[place] = Commit(session, record, task)

        def forget() -> None:
            if self.commits.get(place) is commit:
                del self.commits[place]

        def ended(task: "asyncio.Task[StoredPoint]") -> None:
            if not task.cancelled():
                task.exception()  # whoever asked may have gone, and that is no error
            keep = _COMMITTED if commit.asked_again else 0
            asyncio.get_running_loop().call_later(keep, forget)

        task.add_done_callback(ended)
        return commit

    async def _commit(self, caller: Caller, session: int, record: bytes) -> StoredPoint:
        async with self.turn(caller):
            work = self.vault.commit(session, record)
            return await self.admission.while_good(caller, work)

    async def settle(self, grace: float) -> None:
        """Give commits that are under way *grace* seconds; one that is cut short is made again."""
        tasks = {each.task for each in self.commits.values()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def as_json(body: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type=JSON, status=status)


def empty() -> web.Response:
    return web.Response(status=204)


async def begin(request: web.Request, content_type: str) -> web.StreamResponse:
    """An answer that is sent as it comes; from here on an error can only break it off."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    request[BEGUN] = response
    await response.prepare(request)
    return response


@asynccontextmanager
async def while_connected(request: web.Request) -> AsyncIterator[None]:
    """Raises ConnectionResetError soon after the moment from which nobody waits for the answer.

    Writing would tell as well, but a pause may keep an answer from that for ever.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    handle: asyncio.TimerHandle
    gone = False

    def look() -> None:
        nonlocal gone, handle
        gone = request.transport is None or request.transport.is_closing()
        if gone:
            task.cancel()
        else:
            handle = loop.call_later(_LOOK, look)

    handle = loop.call_later(_LOOK, look)
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise ConnectionResetError("nobody waits for the answer") from None
    finally:
        handle.cancel()


async def _granted(flow: Flow, size: int) -> None:
    """An answer holds memory: one that is paused for long is broken off, and asked for again."""
    if not flow.limited:
        return
    try:
        async with asyncio.timeout(_PATIENT):
            await flow.take(size)
    except TimeoutError:
        raise TransientError("the answer was paused for too long", "ask again") from None


async def write(response: web.StreamResponse, raw: bytes, flow: Flow | None = None) -> None:
    """In slices, each once *flow* grants it."""
    view = memoryview(raw)
    while view:
        piece = view[: _SLICE if flow is None else slice_of(flow) - _CHUNK]
        if flow is not None:
            await _granted(flow, on_wire(len(piece) + _CHUNK))
        await response.write(piece)
        response[WRITTEN] = response.get(WRITTEN, 0) + len(piece)
        view = view[len(piece) :]
