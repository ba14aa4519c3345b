"""The far vault that a machine is registered with: what is known of it, and a connection to it.

The certificate is renewed at two thirds of its life, by whichever run comes first; the new key is
on the disk before the vault hears of it, and the old certificate is good until the new one is used.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec

from transfer.crypto import certificates
from transfer.errors import FormatError, NotRegistered, VaultUnavailable
from transfer.formats import messages
from transfer.formats.documents import Bytes16
from transfer.jobs.state import StateDirectory
from transfer.net import tls
from transfer.net.client import RemoteVault
from transfer.net.transport import PATIENCE, Transport
from transfer.waiting import to_the_end

FILE = "registration.json"
Clock = Callable[[], int]


class Registration(msgspec.Struct, frozen=True):
    """What a registered machine knows of its vault; *next_key* is that of a renewal under way."""

    vault: Bytes16
    url: str
    authorities: list[bytes]
    machine: Bytes16
    domain: Bytes16
    role: str
    certificate: bytes
    key: bytes
    next_key: bytes | None = None

    def __repr__(self) -> str:
        return f"<registration with vault {self.vault.hex()[:8]}>"


@dataclass(frozen=True)
class Reach:
    """How a far vault is reached: *connections* for data, *patience* in seconds."""

    connections: int | None = None
    patience: float = PATIENCE
    clock: Clock = time.time_ns


DEFAULT_REACH = Reach()


def registration_of(directory: StateDirectory) -> Registration:
    """Raises NotRegistered."""
    found = directory.read(FILE, Registration)
    if found is None:
        raise NotRegistered(
            "this machine is registered with no vault",
            "transfer register FILE, with a credential of the vault; or name a directory with "
            "--vault DIR",
        )
    return found


def fingerprint(key: bytes) -> bytes:
    return certificates.key_of(certificates.request(key))


@asynccontextmanager
async def transport_to(
    vault: bytes, url: str, context: ssl.SSLContext, reach: Reach
) -> AsyncIterator[Transport]:
    transport = Transport(
        url, certificates.server_name(vault), context,
        connections=reach.connections, patience=reach.patience,
    )  # fmt: skip
    try:
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def far_vault(
    directory: StateDirectory, registration: Registration, reach: Reach = DEFAULT_REACH
) -> AsyncIterator[tuple[RemoteVault, messages.VaultView]]:
    """The vault that this machine is registered with, and what it says of itself at first.

    The machine's certificate is renewed when due.
    """
    found = await _renewed(directory, registration, reach)
    async with _connected(found, reach) as vault:
        view = await vault.view()
        await _note_authorities(directory, found, view.authorities, reach.clock())
        yield vault, view


@asynccontextmanager
async def _alone(directory: StateDirectory) -> AsyncIterator[Registration]:
    """The registration as it stands now, which no other run changes within the block.

    Of two runs that renew at the same time the later certificate would end the earlier one, and
    that might be the one that is kept.
    """
    with ExitStack() as stack:
        entered = asyncio.to_thread(stack.enter_context, directory.alone("registration"))
        await to_the_end(entered)
        yield registration_of(directory)


@asynccontextmanager
async def _connected(registration: Registration, reach: Reach) -> AsyncIterator[RemoteVault]:
    context = tls.client_context(
        registration.authorities, registration.certificate, registration.key, reach.clock
    )
    async with transport_to(registration.vault, registration.url, context, reach) as transport:
        yield RemoteVault(transport)


async def _renewed(
    directory: StateDirectory, registration: Registration, reach: Reach
) -> Registration:
    if not _is_due(registration, reach):
        return registration
    async with _alone(directory) as found:
        return await _renew(directory, found, reach) if _is_due(found, reach) else found


def _is_due(registration: Registration, reach: Reach) -> bool:
    return certificates.renewal_due(certificates.read(registration.certificate), reach.clock())


async def _renew(
    directory: StateDirectory, registration: Registration, reach: Reach
) -> Registration:
    next_key = registration.next_key or certificates.new_key()
    asking = msgspec.structs.replace(registration, next_key=next_key)
    directory.write(FILE, asking)
    try:
        async with _connected(asking, reach) as vault:
            new = await vault.renew(certificates.request(next_key))
    except VaultUnavailable:
        if certificates.read(registration.certificate).ends < reach.clock():
            raise
        return asking  # the old one serves; the next run asks again
    if certificates.read(new).key != fingerprint(next_key):
        raise FormatError("the vault's certificate is not for this machine's key")
    done = msgspec.structs.replace(asking, certificate=new, key=next_key, next_key=None)
    directory.write(FILE, done)
    return done


async def _note_authorities(
    directory: StateDirectory, registration: Registration,
    announced: list[messages.Announced], now: int,
) -> None:  # fmt: skip
    """From the next run on a new authority is trusted, if one that is trusted vouches for it."""
    pairs = [(each.certificate, each.cross) for each in announced]
    if certificates.accepted(registration.authorities, pairs, now) == registration.authorities:
        return
    async with _alone(directory) as found:
        if found.vault == registration.vault:
            trusted = certificates.accepted(found.authorities, pairs, now)
            directory.write(FILE, msgspec.structs.replace(found, authorities=trusted))
