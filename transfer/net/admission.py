"""Admission: which machine calls, and whether it may. Its certificate is looked up at each request.

TLS has proved that the caller holds the certificate's key, once, when the connection was made. What
may have changed since (a revocation, the end of a year) is asked of the vault's records, at most
KEEP seconds late, also on connections that stay open for days. A call that lasts is looked at again
every WATCH seconds, so 5 seconds after a revocation nothing of the machine is under way.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from aiohttp import web

from transfer.crypto import certificates
from transfer.crypto.certificates import Certificate, Role
from transfer.errors import FormatError, NotAuthorised, NotRegistered
from transfer.formats.record import MachineRecord
from transfer.vault.registry import Registry

T = TypeVar("T")
KEEP, WATCH = 4.0, 1.0  # seconds
_MAX_KEPT = 10_000  # certificates


class Caller(NamedTuple):
    """A machine whose certificate was good a moment ago."""

    certificate: Certificate
    record: MachineRecord
    address: str

    @property
    def machine(self) -> bytes:
        return self.record.machine

    @property
    def domain(self) -> bytes:
        return self.record.domain

    @property
    def may_write(self) -> bool:
        return self.record.role == Role.MACHINE

    def check_domain(self, domain: bytes) -> None:
        """Raise NotAuthorised for another's: whether that one exists is nobody's business."""
        if domain != self.domain:
            raise NotAuthorised(
                f"machine {self.record.name} is not of domain {domain.hex()[:8]}",
                "`transfer status` shows its own",
            )

    def check_writes(self) -> None:
        if not self.may_write:
            raise NotAuthorised(
                f"machine {self.record.name} may read, and not write",
                "a machine that backs up registers with an ordinary credential",
            )


class Admission:
    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry, self._clock = registry, clock
        self._kept: dict[bytes, tuple[float, MachineRecord]] = {}
        self._last: dict[bytes, bytes] = {}
        """The certificate that each machine showed last: a newer one ends the older at once."""

    async def admit(self, request: web.Request) -> Caller:
        """Raises NotRegistered without a certificate, NotAuthorised for one that is not good."""
        return await self._looked_up(shown(request), address_of(request))

    async def still(self, caller: Caller) -> None:
        """The same question again, for a request that took its time."""
        await self._looked_up(caller.certificate, caller.address)

    async def while_good(self, caller: Caller, work: Awaitable[T]) -> T:
        """What *work* gives; it is cancelled once *caller* has lost the right to it."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=WATCH))[0]:
                await self.still(caller)
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            # Else an error holds this frame, which holds the task, which holds the error: a body
            # of 16 MiB would stay until Python looks for such rings.
            del task, work

    async def _looked_up(self, certificate: Certificate, address: str) -> Caller:
        kept = self._kept.get(certificate.der)
        if kept is not None and kept[0] > self._clock():
            return Caller(certificate, kept[1], address)
        asked = self._clock()  # what changes while the answer is on its way is not in it
        record = await asyncio.to_thread(self._registry.authorise, certificate, address)
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
            self._last.clear()
        if (before := self._last.get(record.machine)) != certificate.der and before is not None:
            self._kept.pop(before, None)
        self._last[record.machine] = certificate.der
        self._kept[certificate.der] = asked + KEEP, record
        return Caller(certificate, record, address)


def shown(request: web.Request) -> Certificate:
    """The certificate that the caller proved to hold."""
    tls = request.transport and request.transport.get_extra_info("ssl_object")
    raw = tls.getpeercert(binary_form=True) if tls else None
    if raw is None:
        raise NotRegistered(
            "this call needs a machine's certificate", "register: transfer register FILE"
        )
    try:
        return certificates.read(raw)
    except FormatError as error:
        raise NotAuthorised(f"the certificate: {error}", "register again") from error


def address_of(request: web.Request) -> str:
    peer = request.transport and request.transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""
