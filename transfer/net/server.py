"""VaultServer: a vault behind HTTPS, from its first connection to its last.

/healthz says that the process lives, /readyz that it takes calls, and both to anybody; /metrics is
for whoever is on this machine. Everything else is in routes.py.
"""

import asyncio
import ipaddress
import ssl
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web

from transfer.errors import NotAuthorised, TransferError
from transfer.net import tls
from transfer.net.admission import Admission, address_of
from transfer.net.answer_paces import AnswerPaces
from transfer.net.buffers import ReceiveBuffers
from transfer.net.connections import DEFAULTS, Connections, Limits
from transfer.net.metrics import CONTENT_TYPE, Metrics
from transfer.net.problems import problem_of
from transfer.net.routes import Done, application, as_response
from transfer.net.service import ServedVault, Service
from transfer.vault.authority import Authority, ServerIdentity
from transfer.vault.registry import Registry

_RENEW_EVERY = 3600.0  # seconds between two looks at the server's own certificate
_SOON = 5.0  # seconds


class Settings(NamedTuple):
    """*receive* bytes of bodies are held at once, *share* of them for one machine.

    Of answers *send* bytes, a quarter of them for one machine.
    """

    receive: int = 96 * 2**20
    share: int = 48 * 2**20
    send: int = 64 * 2**20
    connections: Limits = DEFAULTS


class VaultServer:
    """Serves *vault*, which stays its caller's to close. *log* is called with each request."""

    def __init__(
        self, vault: ServedVault, registry: Registry, authority: Authority, *,
        clock: Callable[[], int] = time.time_ns, log: Callable[[Done], None] | None = None,
        settings: Settings | None = None, admission: Admission | None = None,
    ) -> None:  # fmt: skip
        self._authority = authority
        settings = settings or Settings()
        buffers = ReceiveBuffers(settings.receive, settings.share)
        sending = ReceiveBuffers(settings.send, settings.send // 4)
        self._service = Service(
            vault, registry, authority, admission or Admission(registry), buffers, sending,
            AnswerPaces(), clock,
            self.refresh,
        )  # fmt: skip
        self._metrics, self._ready = Metrics(), False
        app = application(self._service, self._metrics, log)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._readiness)
        app.router.add_get("/metrics", self._numbers)
        self._connections = Connections(app, settings.connections)
        self._watch(buffers)
        self._renewing: asyncio.Task[None] | None = None
        self._asked: asyncio.Future[bytes | None] | None = None
        self._context: ssl.SSLContext | None = None
        self._shown: tuple[list[bytes], list[bytes]] = ([], [])

    def _watch(self, buffers: ReceiveBuffers) -> None:
        connections = self._connections
        for name, help, value in (
            ("connections", "Connections that are open", lambda: connections.open),
            ("connections_refused", "Closed because there were too many",
             lambda: connections.refused),
            ("connections_cut", "Closed because they were too slow", lambda: connections.cut),
            ("receive_bytes", "Memory lent to bodies", lambda: buffers.in_use),
            ("receive_waiting", "Requests that wait for memory", lambda: buffers.waiting),
        ):  # fmt: skip
            self._metrics.watch(name, help, value)

    async def start(self, host: str, port: int) -> int:
        """Take calls; the port, which 0 lets the system choose. Raises OSError."""
        identity, authorities = await asyncio.to_thread(self._look)
        self._context = tls.server_context(authorities, identity.chain, identity.key)
        self._shown = identity.chain, authorities
        found = await self._connections.start(self._context, host, port)
        self._renewing = asyncio.create_task(self._renew())
        self._ready = True
        return found

    def _look(self) -> tuple[ServerIdentity, list[bytes]]:
        return self._authority.server(self._authority.hosts()), self._authority.trusted()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_EVERY)
            try:
                await self.refresh()
            except (TransferError, OSError) as error:
                # A full disk now shall not be the reason for an end of the certificate in a year.
                print(f"the server's certificate: {error}", file=sys.stderr)

    async def refresh(self) -> None:
        """New connections see a new certificate once the old one is due or the CA has changed, and
        machines are known by what the new CA signs.
        """
        identity, authorities = await asyncio.to_thread(self._look)
        if self._context is not None and (identity.chain, authorities) != self._shown:
            tls.trust(self._context, authorities)
            tls.load_identity(self._context, identity.chain, identity.key)
            self._shown = identity.chain, authorities

    async def stop(self, grace: float = 30.0) -> None:
        """Take no more calls, and end those that are under way within *grace* seconds."""
        self._ready = False
        if self._renewing is not None:
            self._renewing.cancel()
        await self._connections.stop(grace)
        await self._service.settle(grace)

    async def _health(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def _readiness(self, request: web.Request) -> web.StreamResponse:
        """The vault's thread answers, soon; all who ask at once share one question to it."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.ensure_future(self._service.vault.domain_of(1))
        await asyncio.wait({self._asked}, timeout=_SOON)
        asked = self._asked
        good = self._ready and asked.done() and asked.exception() is None
        return web.Response(text="ready\n" if good else "no\n", status=200 if good else 503)

    async def _numbers(self, request: web.Request) -> web.StreamResponse:
        try:
            local = ipaddress.ip_address(address_of(request)).is_loopback
        except ValueError:
            local = False
        if not local:
            error = NotAuthorised("metrics are for this machine", "ask from there")
            return as_response(problem_of(error))
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})
