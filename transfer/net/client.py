"""RemoteVault: a vault behind HTTPS, with the interface of one that is near.

It never believes an answer further than its own checks go: sizes before they are read, counts
against what was asked. Whether a frame is what its ID says is for the workers that open it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

import aiohttp
import msgspec

from transfer.errors import (
    FormatError,
    NotFound,
    Refused,
    TransferError,
    VaultUnavailable,
)
from transfer.formats import documents, frame, messages
from transfer.formats.keyring import MAX_KEYRING
from transfer.formats.messages import FRAMES, JSON, MAX_LINE
from transfer.formats.reference import Buffer, Reference
from transfer.net.frame_reader import FrameReader
from transfer.net.pacing import pace_of
from transfer.net.tcp_info import Traffic
from transfer.net.transport import Limits, Query, Request, Transport, pieces
from transfer.policy.concurrency import START
from transfer.throttle.dispatch import ClassName
from transfer.throttle.throttle import Throttle
from transfer.vault.base import (
    MAX_FRAMES,
    Arrived,
    Outcome,
    SessionInfo,
    StoredPoint,
    VaultInfo,
)
from transfer.waiting import task_group

Body = TypeVar("Body", bound=msgspec.Struct)
_FAREWELL, _AGAIN = 5.0, 0.5  # seconds
_MAX_LISTING = 256 * 2**20  # bytes of points; 100,000 of them have some 200 MiB


class RemoteVault:
    """See `Vault`. It acts for one machine, in that machine's domain."""

    def __init__(self, transport: Transport, limits: Limits | None = None) -> None:
        self._transport = transport
        self.limits = limits or Limits.of(Throttle(), "backup")
        self._fetching: Counter[int] = Counter()  # answers under way, by session

    @asynccontextmanager
    async def limited(
        self, throttle: Throttle, name: ClassName = "backup"
    ) -> AsyncIterator["RemoteVault"]:
        """The same vault over the same connections, for a run with limits of its own."""
        with self._transport.following(throttle):
            vault = RemoteVault(self._transport, Limits.of(throttle, name))
            changed = asyncio.Event()
            throttle.on_change(changed.set)
            telling = asyncio.create_task(vault._tell_pace(changed))
            try:
                yield vault
            finally:
                telling.cancel()
                await asyncio.wait({telling})

    async def _tell_pace(self, changed: asyncio.Event) -> None:
        """Whatever was sent after a change would have been on the wire, read or not.

        The end of a pause has to be heard: answers that are under way wait for it.
        """
        left = 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN if left else None):
                    await changed.wait()
                changed.clear()
                left = 2  # a fetch that was on its way meanwhile said what was before
            told = [await self._told_pace(session) for session in list(self._fetching)]
            left = left - 1 if all(told) else 1

    async def _told_pace(self, session: int) -> bool:
        """Whether there is nothing left to tell."""
        query: Query = {"pace": pace_of(self.limits.throttle.rate("down"))}
        beat = _post(f"/sessions/{session}/heartbeat", query, control=True)
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._transport.once(beat, self.limits)
        except (VaultUnavailable, TimeoutError):
            return False
        except TransferError:
            pass  # such as the session's end, of which its fetches hear as well
        return True

    @property
    def traffic(self) -> Traffic | None:
        """Of all connections since the start; None where the system does not tell."""
        return self._transport.traffic

    @property
    def transport(self) -> Transport:
        return self._transport

    @property
    def connections(self) -> int:
        """For calls that carry data."""
        return self._transport.connections

    async def close(self) -> None:
        await self._transport.close()

    async def view(self) -> messages.VaultView:
        """The vault as this machine may see it."""
        raw = await self._get("/vault", {})
        return documents.decode(raw, messages.VaultView, "the vault's description")

    async def register(self, asked: messages.Register) -> messages.Registered:
        raw = await self._send("/register", {}, asked)
        return documents.decode(raw, messages.Registered, "the vault's answer")

    async def renew(self, csr: bytes) -> bytes:
        """The certificate of the key that signed *csr* (PKCS #10, DER)."""
        raw = await self._send("/renew", {}, messages.Renew(csr))
        return documents.decode(raw, messages.Renewed, "the vault's answer").certificate

    async def info(self) -> VaultInfo:
        view = await self.view()
        return VaultInfo(view.vault, view.incarnation)

    async def domains(self) -> list[bytes]:
        return (await self.view()).domains

    async def keyring(self, domain: bytes, version: int | None = None) -> bytes | None:
        query: dict[str, str | int] = {"domain": domain.hex()}
        if version is not None:
            query["version"] = version
        try:
            return await self._get("/keyring", query, MAX_KEYRING)
        except NotFound:
            return None

    async def add_keyring(self, domain: bytes, version: int, keyring: bytes) -> None:
        query: Query = {"domain": domain.hex(), "version": version}
        request = _post("/keyring", query, keyring, control=True)
        tries = 0

        async def once() -> None:
            nonlocal tries
            tries += 1
            try:
                await self._transport.once(request, self.limits)
            except Refused:
                # An answer that was lost: the version that is in the way is this one.
                if tries == 1 or await self.keyring(domain, version) != keyring:
                    raise

        await self._transport.repeated(once)

    async def open_session(
        self, domain: bytes, item: bytes | None, owner: bytes = b"", resume: int | None = None
    ) -> SessionInfo:
        body = messages.NewSession(domain, item, owner, resume)
        raw = await self._send("/sessions", {}, body)
        opened = documents.decode(raw, messages.Session, "the vault's session")
        return SessionInfo(opened.number, opened.fence, opened.keyring_version, opened.incarnation)

    async def heartbeat(self, session: int) -> None:
        await self._call(_post(f"/sessions/{session}/heartbeat", {}, control=True))

    async def end_session(self, session: int) -> None:
        """Said once: a run that ends because the vault is away shall not wait for it again.

        A session whose end was not heard is fenced by its owner's next, or expires.
        """
        request = _post(f"/sessions/{session}/end", {}, control=True)
        with suppress(VaultUnavailable, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._transport.once(request, self.limits)

    async def have(
        self, session: int, tag: int, generation: int, ids: Sequence[bytes]
    ) -> list[bool]:
        found: list[bool] = []
        for at in range(0, len(ids), messages.MAX_ASKED):
            some = ids[at : at + messages.MAX_ASKED]
            query = {"session": session, "tag": tag, "generation": generation}
            raw = await self._call(_post("/have", query, messages.encode_ids(some)))
            found += messages.decode_bitmap(raw, len(some))
        return found

    async def store(self, session: int, frames: Buffer) -> list[Outcome]:
        request = _frames_request(session, frames)
        # Not inside the handler: what the broken call holds must go before it is made again.
        with suppress(VaultUnavailable):
            return _outcomes(await self._transport.once(request, self.limits))
        return await self._transport.repeated(lambda: self._store_rest(session, frames))

    async def _store_rest(self, session: int, frames: Buffer) -> list[Outcome]:
        """After a call that broke: whole frames that arrived were stored, and are not sent again.

        What is there now is called stored: before the call it was not.
        """
        sent = list(frame.walk(frames))
        there = await self._there(session, [header for header, _ in sent])
        rest = b"".join(raw for header, raw in sent if header.reference not in there)
        request = _frames_request(session, rest)
        answers = _outcomes(await self._transport.once(request, self.limits)) if rest else []
        left = iter(answers)
        return [
            Outcome.STORED if header.reference in there else next(left, Outcome.REJECTED)
            for header, _ in sent
        ]

    async def _there(self, session: int, headers: Iterable[frame.Header]) -> set[Reference]:
        kinds: dict[tuple[int, int], list[bytes]] = {}
        for header in headers:
            kinds.setdefault((header.tag, header.generation), []).append(header.id)
        there: set[Reference] = set()
        for (tag, generation), ids in kinds.items():
            answers = await self.have(session, tag, generation, ids)
            there |= {Reference(tag, id) for id, has in zip(ids, answers, strict=True) if has}
        return there

    async def fetch(self, session: int, references: Sequence[Reference], arrived: Arrived) -> None:
        left = dict.fromkeys(Reference(*reference) for reference in references)
        count = len(left)

        def take(reference: Reference, raw: bytes) -> None:
            del left[reference]  # what a broken answer brought whole is not asked for again
            arrived(reference, raw)

        async def once() -> None:
            asked = list(left)
            for at in range(0, len(asked), MAX_FRAMES):
                await self._fetch_parts(session, asked[at : at + MAX_FRAMES], take)

        with self._counted(session):
            await self._transport.repeated(once, lambda: count - len(left))

    async def _fetch_parts(
        self, session: int, asked: Sequence[Reference], arrived: Arrived
    ) -> None:
        """Over as many connections as this fetch may have beside others."""
        ways = max(1, self.connections // max(START, self._fetching.total()))
        size = -(-len(asked) // ways)
        parts = [asked[at : at + size] for at in range(0, len(asked), size)]
        if len(parts) == 1:
            return await self._fetch_some(session, asked, arrived)
        async with task_group() as group:
            for part in parts:
                group.create_task(self._fetch_some(session, part, arrived))

    async def _fetch_some(self, session: int, asked: Sequence[Reference], arrived: Arrived) -> None:
        body = messages.encode_asked(asked)
        query: Query = {"session": session, "order": "any"}
        request = _post("/fetch", query, body)._replace(carries="down")
        expected = set(asked)
        async with self._transport.answer(request, self.limits) as response:
            reader, began = FrameReader(), time.monotonic()
            try:
                async for piece in pieces(response, self.limits.down):
                    for header, raw in reader.feed(piece):
                        reference = header.reference
                        if reference not in expected:
                            raise FormatError(f"the vault sent {reference}: nobody asked for it")
                        expected.discard(reference)
                        arrived(reference, raw)
                reader.end()
            finally:
                self._note_read(began)

    def _note_read(self, began: float) -> None:
        now, throttle = time.monotonic(), self.limits.throttle
        received = sum(each.granted for each in throttle.stats("down").classes.values())
        self.limits.waits.read(now - began, now, received, throttle.rate("down"))

    @contextmanager
    def _counted(self, session: int) -> Iterator[None]:
        self._fetching[session] += 1
        try:
            yield
        finally:
            self._fetching[session] -= 1
            self._fetching += Counter()  # without those that have none

    async def commit(self, session: int, point: bytes) -> StoredPoint:
        request = _post("/points", {"session": session}, point, control=True)
        raw = await self._call(request)
        while True:
            if b'"progress"' not in raw:
                stored = documents.decode(raw, messages.ListedPoint, "the vault's answer")
                return StoredPoint(stored.record, stored.arrival_number, stored.arrival_time)
            waiting = documents.decode(raw, messages.Committing, "the vault's answer")
            try:
                raw = await self._call(Request("GET", waiting.progress, control=True))
            except NotFound:  # the vault was restarted meanwhile
                raw = await self._call(request)

    async def points(
        self, domain: bytes, after: int = 0, limit: int | None = None
    ) -> list[StoredPoint]:
        query: dict[str, str | int] = {"domain": domain.hex(), "after": after}
        if limit is not None:
            query["limit"] = limit
        request = _get("/points", query)

        async def once() -> list[StoredPoint]:
            async with self._transport.answer(request, self.limits) as response:
                return [
                    StoredPoint(each.record, each.arrival_number, each.arrival_time)
                    async for each in _points(response, self.limits)
                ]

        return await self._transport.repeated(once)

    async def report_damaged(self, session: int, references: Sequence[Reference]) -> None:
        for at in range(0, len(references), messages.MAX_ASKED):
            some = messages.encode_asked(references[at : at + messages.MAX_ASKED])
            await self._call(_post("/damaged", {"session": session}, some))

    async def wanted(self, session: int) -> list[Reference]:
        raw = await self._get(f"/sessions/{session}/wanted", {}, messages.MAX_PROBLEM)
        return messages.decode_asked(raw)

    async def statistics(self, domain: bytes | None = None) -> dict[str, int]:
        """Of this machine's domain, whatever is asked for."""
        raw = await self._get("/statistics", {})
        try:
            return msgspec.json.decode(raw, type=dict[str, int])
        except ValueError as error:
            raise FormatError(f"the vault's statistics do not parse: {error}") from error

    async def _call(self, request: Request) -> bytes:
        return await self._transport.call(request, self.limits)

    async def _get(self, path: str, query: Query, limit: int = messages.MAX_CONTROL) -> bytes:
        return await self._call(_get(path, query, limit))

    async def _send(self, path: str, query: Query, body: msgspec.Struct) -> bytes:
        return await self._call(_post(path, query, documents.encode(body), JSON, control=True))


def _get(path: str, query: Query, limit: int = messages.MAX_CONTROL) -> Request:
    return Request("GET", f"/{messages.VERSION}{path}", query, control=True, limit=limit)


def _post(
    path: str, query: Query, body: Buffer = b"",
    content_type: str = messages.OCTETS, control: bool = False,
) -> Request:  # fmt: skip
    path = f"/{messages.VERSION}{path}"
    return Request("POST", path, query, body, content_type, control, limit=2 * MAX_LINE)


def _frames_request(session: int, frames: Buffer) -> Request:
    return _post("/frames", {"session": session}, frames, FRAMES)._replace(carries="up")


def _outcomes(raw: bytes) -> list[Outcome]:
    found = documents.decode(raw, messages.Outcomes, "the vault's answer")
    return [Outcome(each) for each in found.outcomes]


async def _points(
    response: aiohttp.ClientResponse, limits: Limits
) -> AsyncIterator[messages.ListedPoint]:
    buffer, size = bytearray(), 0
    async for piece in pieces(response, limits.down):
        buffer += piece
        size += len(piece)
        *lines, rest = bytes(buffer).split(b"\n")
        buffer = bytearray(rest)
        if len(buffer) > MAX_LINE or size > _MAX_LISTING:
            raise FormatError("the vault's list of points is beyond the limits")
        for line in lines:
            yield documents.decode(line, messages.ListedPoint, "a point in the vault's list")
    if buffer:
        raise FormatError("the vault's list of points is cut short")
