"""Calls about machines: register, renew, and what a machine may know of its vault."""

import asyncio
import time

import msgspec
from aiohttp import web

from transfer.errors import Refused
from transfer.formats import keyring as keyring_format
from transfer.formats import messages
from transfer.formats.messages import JSON, MAX_CONTROL
from transfer.net import bodies
from transfer.net.admission import Caller, address_of, shown
from transfer.net.service import Service, as_json
from transfer.vault.registry import Registration

_STATISTICS = 10.0  # seconds for which they are kept
_WORTH = 100  # times as long as it took to count: counting takes at most 1 % of the vault's thread


async def register(service: Service, request: web.Request) -> web.StreamResponse:
    await service.arriving.check(address_of(request))
    await service.registering.check("all")
    asked = await bodies.document(request, messages.Register, MAX_CONTROL)
    registration = Registration(
        asked.credential, asked.secret, asked.machine, asked.name, asked.request,
        asked.keyring, asked.proof,
    )  # fmt: skip
    await asyncio.to_thread(service.registry.examine, registration)
    if asked.keyring is not None:
        await _first_keyring(service, asked.keyring)
    found = await asyncio.to_thread(service.registry.register, registration)
    await service.refresh()
    return as_json(
        messages.Registered(found.certificate, found.machine, found.name, found.domain, found.role)
    )


async def _first_keyring(service: Service, keyring: bytes) -> None:
    """Before the certificate: a machine never exists without what opens its data."""
    domain = keyring_format.decode(keyring).domain
    try:
        await service.vault.add_keyring(domain, 1, keyring)
    except Refused:
        if await service.vault.keyring(domain, 1) != keyring:
            raise


async def renew(service: Service, request: web.Request) -> web.StreamResponse:
    caller = shown(request)
    await service.arriving.check(address_of(request))
    await service.renewing.check("all")
    asked = await bodies.document(request, messages.Renew, MAX_CONTROL)
    certificate = await asyncio.to_thread(service.registry.renew, caller, asked.request)
    await service.refresh()
    return as_json(messages.Renewed(certificate))


async def view(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    info = await service.vault.info()
    announced = await asyncio.to_thread(service.authority.announced)
    async with service.turn(caller):
        has_keyring = await service.vault.keyring(caller.domain) is not None
    record = caller.record
    return as_json(
        messages.VaultView(
            info.vault, info.incarnation, service.clock(), record.machine, record.name,
            record.domain, record.role, [record.domain] if has_keyring else [],
            [messages.Announced(*each) for each in announced],
        )
    )  # fmt: skip


async def statistics(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    kept = service.counted.get(caller.domain)
    if kept is None or kept[0] < time.monotonic():
        async with service.turn(caller):
            began = time.monotonic()
            found = await service.vault.statistics(caller.domain)
        now = time.monotonic()
        until = now + max(_STATISTICS, _WORTH * (now - began))
        kept = service.counted[caller.domain] = until, found
    return web.Response(body=msgspec.json.encode(kept[1]), content_type=JSON)
