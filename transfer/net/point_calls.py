"""Calls about sessions, points and keyrings."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
from aiohttp import web

from transfer.errors import NotFound
from transfer.formats import messages
from transfer.formats import point as points_format
from transfer.formats.keyring import MAX_KEYRING
from transfer.formats.messages import LINES, MAX_CONTROL, OCTETS
from transfer.formats.point import MAX_POINT
from transfer.net import bodies
from transfer.net.admission import Caller
from transfer.net.service import Commit, Service, as_json, begin, empty, write
from transfer.policy.token_bucket import MAX_RATE
from transfer.vault.base import StoredPoint

PATIENT = 5.0  # seconds that a commit may take before its caller is told to ask again
_PAGE = 64  # points; each may have 64 KiB


async def open_session(
    service: Service, request: web.Request, caller: Caller
) -> web.StreamResponse:
    asked = await bodies.document(request, messages.NewSession, MAX_CONTROL)
    caller.check_domain(asked.domain)
    if asked.item is not None:
        caller.check_writes()
    async with service.turn(caller):
        opened = await service.vault.open_session(
            asked.domain, asked.item, asked.owner, asked.resume
        )
    return as_json(messages.Session(*opened))


async def heartbeat(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    """With the pace of answers that are under way, if that has changed."""
    session = await service.session_of(request, caller)
    pace = bodies.optional_number(request, "pace", None, MAX_RATE)
    if pace is not None:
        service.paces.change(session, pace)
    async with service.turn(caller):
        await service.vault.heartbeat(session)
    return empty()


async def end_session(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    """Of one that nobody knows nothing is left to end."""
    number = int(request.match_info["session"])
    if await service.owns(caller, number):
        async with service.turn(caller):
            await service.vault.end_session(number)
    return empty()


async def commit(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    session = await service.session_of(request, caller)
    record = await bodies.whole(request, MAX_POINT)
    point = points_format.decode(record).point_id
    known = service.commits.get((caller.domain, point))
    if known is None or known.failed or (known.session, known.record) != (session, record):
        known = service.begin_commit(caller, point, session, record)
    return await _committed(point, known)


async def committing(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    point = bytes.fromhex(request.match_info["point"])
    known = service.commits.get((caller.domain, point))
    if known is None:
        raise NotFound("no commit of this point is under way", "commit it again")
    return await _committed(point, known)


async def _committed(point: bytes, commit: Commit) -> web.StreamResponse:
    done, _ = await asyncio.wait({commit.task}, timeout=PATIENT)
    if not done:
        commit.asked_again = True
        progress = f"/{messages.VERSION}/points/{point.hex()}"
        return as_json(messages.Committing(progress), status=202)
    return as_json(messages.ListedPoint(*commit.task.result()))


async def points(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    caller.check_domain(bodies.identifier(request, "domain"))
    after = bodies.optional_number(request, "after", 0)
    limit = bodies.optional_number(request, "limit", 2**63 - 1)
    pages = _pages(service, caller, after, limit)
    first = await anext(pages)
    response = await begin(request, LINES)
    await write(response, _lines(first))
    async for page in pages:
        await write(response, _lines(page))
    await response.write_eof()
    return response


def _lines(page: Sequence[StoredPoint]) -> bytes:
    return b"".join(msgspec.json.encode(messages.ListedPoint(*each)) + b"\n" for each in page)


async def _pages(
    service: Service, caller: Caller, after: int = 0, limit: int = 2**63 - 1
) -> AsyncIterator[Sequence[StoredPoint]]:
    """At least one, which may be empty."""
    while True:
        wanted = min(_PAGE, limit)
        async with service.turn(caller):
            page = await service.vault.points(caller.domain, after, wanted)
        yield page
        limit -= len(page)
        if len(page) < wanted or not limit:
            return
        after = page[-1].arrival_number


async def items(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    caller.check_domain(bodies.identifier(request, "domain"))
    found: dict[bytes, messages.Item] = {}
    async for page in _pages(service, caller):
        for each in page:
            item = points_format.decode(each.record).item
            before = found[item].points if item in found else 0
            found[item] = messages.Item(item, before + 1, each.arrival_time)
    return as_json(messages.Items(list(found.values())))


async def keyring(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    domain = bodies.identifier(request, "domain")
    caller.check_domain(domain)
    version = bodies.optional_number(request, "version", None)
    async with service.turn(caller):
        raw = await service.vault.keyring(domain, version)
    if raw is None:
        raise NotFound("there is no such keyring", "register again")
    return web.Response(body=raw, content_type=OCTETS)


async def add_keyring(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    domain, version = bodies.identifier(request, "domain"), bodies.number(request, "version", 1)
    caller.check_domain(domain)
    raw = await bodies.whole(request, MAX_KEYRING)
    async with service.turn(caller):
        await service.vault.add_keyring(domain, version, raw)
    return empty()
