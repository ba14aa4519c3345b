"""A vault behind HTTPS in this process, and machines that use it: all of it real, on loopback."""

import os
import time
from contextlib import asynccontextmanager

from tests.suites.vault import DOMAIN, SIGNING_KEY, made_keyring
from transfer.crypto import certificates, signing
from transfer.formats import keyring as keyring_format
from transfer.formats.credential import CredentialKind, proof_message
from transfer.jobs import keyring as keyrings
from transfer.jobs.keyring import Secret
from transfer.net import tls
from transfer.net.admission import Admission
from transfer.net.client import RemoteVault
from transfer.net.server import VaultServer
from transfer.net.transport import Transport
from transfer.vault.admission import Registration
from transfer.vault.authority import Authority
from transfer.vault.open import open_vault
from transfer.vault.registry import Registry

HOUR = 3600 * 10**9


class Far:
    """A running server; `vault` is what stands behind it."""

    def __init__(self, path, vault, vault_id, clock, **options):
        self.path, self.vault, self.vault_id, self.clock = path, vault, vault_id, clock
        self.authority = Authority(path, vault_id, clock)
        self.registry = Registry(path, self.authority, clock)
        self.requests = []
        self.later = 0.0  # seconds, for what the server remembers of certificates
        admission = Admission(self.registry, lambda: time.monotonic() + self.later)
        options = {"log": self.requests.append, "admission": admission} | options
        self._options = options
        self.server = self._new_server()
        self.port = 0
        self.opened = []

    async def start(self, port=0):
        self.port = await self.server.start("127.0.0.1", port)
        return self

    def _new_server(self):
        return VaultServer(
            self.vault, self.registry, self.authority, clock=self.clock, **self._options
        )

    async def again(self):
        """The server that was stopped, as a new process: it remembers nothing."""
        self.server = self._new_server()
        return await self.start(self.port)

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def reader_of(self, name, reader):
        """(certificate, key) of a new machine that may read what *name* has."""
        machine, key = os.urandom(16), certificates.new_key()
        csr = certificates.request(key)
        made = self.registry.make_credential(CredentialKind.READ, name, 48 * HOUR, self.url)
        asked = Registration(made.id, made.secret, machine, reader, csr)
        return self.registry.register(asked).certificate, key

    def registered(self, name, signing_key=SIGNING_KEY, keyring=None):
        """(certificate, key) of a new machine with a domain of its own."""
        keyring = keyring or made_keyring(signing_key=signing_key)
        machine, key = os.urandom(16), certificates.new_key()
        csr = certificates.request(key)
        made = self.registry.make_credential(CredentialKind.REGISTER, None, 48 * HOUR, self.url)
        proof = signing.sign(signing_key, proof_message(self.vault_id, made.id, machine, csr))
        asked = Registration(made.id, made.secret, machine, name, csr, keyring, proof)
        return self.registry.register(asked).certificate, key

    def context(self, identity=None):
        certificate, key = identity or (None, None)
        return tls.client_context(self.authority.trusted(), certificate, key, self.clock)

    def client(self, identity, **options):
        options = {"patience": 5.0} | options
        name = certificates.server_name(self.vault_id)
        remote = RemoteVault(Transport(self.url, name, self.context(identity), **options))
        self.opened.append(remote)
        return remote


@asynccontextmanager
async def far_vault(path, clock, **options):
    vault = await open_vault(path, create=True, clock=clock)
    try:
        found = await Far(path, vault, (await vault.info()).vault, clock, **options).start()
        try:
            yield found
        finally:
            for remote in found.opened:
                await remote.close()
            await found.server.stop(grace=1)
    finally:
        await vault.close()


def stranger():
    """Another domain's (signing key, keyring)."""
    raw = keyrings.create("a passphrase of a stranger")
    opened = keyrings.open_keyring(raw, Secret(lambda _: "a passphrase of a stranger"))
    return opened.secrets.signing_key, raw


class ByDomain:
    """What a vault of many domains is to the suite: each domain's machine asks for itself."""

    def __init__(self, far):
        signing_key, keyring = stranger()
        self._own = far.client(far.registered("own"))
        self._other = far.client(far.registered("other", signing_key, keyring))
        self._other_domain = keyring_format.decode(keyring).domain
        self._sessions = {}

    async def open_session(self, domain, item, owner=b"", resume=None):
        mine = domain == DOMAIN
        remote = self._own if mine else self._other
        opened = await remote.open_session(
            domain if mine else self._other_domain, item, owner, resume
        )
        self._sessions[opened.number] = remote
        return opened

    async def points(self, domain, after=0, limit=None):
        if domain == DOMAIN:
            return await self._own.points(domain, after, limit)
        return await self._other.points(self._other_domain, after, limit)

    def __getattr__(self, name):
        def call(first=None, *rest, **named):
            remote = self._sessions.get(first, self._own) if isinstance(first, int) else self._own
            given = () if first is None else (first,)
            return getattr(remote, name)(*given, *rest, **named)

        return call
