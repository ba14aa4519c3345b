"""Calls about frames: which are there, bring some, give some back, some are damaged."""

from collections.abc import AsyncIterator

from aiohttp import web

from transfer.formats import messages
from transfer.formats.frame import MAX_FRAME
from transfer.formats.messages import FRAMES, OCTETS
from transfer.formats.reference import ID_SIZE, REFERENCE_SIZE, Reference
from transfer.net import bodies
from transfer.net.admission import Caller
from transfer.net.problems import CallRefused
from transfer.net.service import Service, as_json, begin, empty, while_connected, write
from transfer.policy.token_bucket import MAX_RATE
from transfer.vault.base import MAX_FRAMES

_GROUP = 2 * 2**20  # bytes of frames that are read ahead of what is being sent
_MAX_GROUP = 256  # frames


async def have(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    session = await service.session_of(request, caller)
    tag = bodies.number(request, "tag", 0, 255)
    generation = bodies.number(request, "generation", 1, 2**32 - 1)
    asked = messages.decode_ids(await bodies.whole(request, messages.MAX_ASKED * ID_SIZE))
    async with service.turn(caller):
        found = await service.vault.have(session, tag, generation, asked)
    return web.Response(body=messages.encode_bitmap(found), content_type=OCTETS)


async def store(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    session = await service.session_of(request, caller)
    async with (
        bodies.frames(request, service.buffers, caller.machine) as (frames, complete),
        service.turn(caller),
    ):
        outcomes = await service.vault.store(session, frames) if frames else []
    if not complete:
        raise CallRefused(408, "the body ended early; its whole frames are stored")
    return as_json(messages.Outcomes([int(each) for each in outcomes]))


async def fetch(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    session = await service.session_of(request, caller)
    bodies.choice(request, "order", ("any", "asked"))  # either way frames come as asked
    pace = bodies.optional_number(request, "pace", None, MAX_RATE)
    raw = await bodies.whole(request, MAX_FRAMES * REFERENCE_SIZE)
    asked = list(dict.fromkeys(messages.decode_asked(raw, MAX_FRAMES)))
    # The pace first: it is for those, too, whose end this may have to wait for.
    with service.paces.flow(session, pace) as flow:
        async with while_connected(request), service.sending.room(caller.machine, MAX_FRAME):
            # The first group before the first byte: what is wrong can still be told.
            groups = _groups(service, caller, session, asked)
            first = await anext(groups)
            response = await begin(request, FRAMES)
            await write(response, first, flow)
            async for group in groups:
                await write(response, group, flow)
    await response.write_eof()
    return response


async def _groups(
    service: Service, caller: Caller, session: int, asked: list[Reference]
) -> AsyncIterator[bytes]:
    """Frames in groups of at most _GROUP bytes, or of one; at least one, which may be empty."""
    at = 0
    while at < len(asked) or at == 0:
        async with service.turn(caller):
            some = asked[at : at + _MAX_GROUP]
            found = await service.vault.fetch_some(session, some, _GROUP)
        at += len(found) or 1
        yield b"".join(each for each in found if each is not None)


async def damaged(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    """A reader's word marks nothing: what its vault can check, it checks at each fetch.

    It gets other copies all the same.
    """
    session = await service.session_of(request, caller)
    raw = await bodies.whole(request, messages.MAX_ASKED * REFERENCE_SIZE)
    reported = messages.decode_asked(raw)
    vault = service.vault
    async with service.turn(caller):
        await (vault.report_damaged if caller.may_write else vault.pass_over)(session, reported)
    return empty()


async def wanted(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    session = await service.session_of(request, caller)
    async with service.turn(caller):
        found = await service.vault.wanted(session)
    return web.Response(body=messages.encode_asked(found), content_type=OCTETS)
