"""Registration: how a machine and a far vault come to know each other, and stay so.

    credential -> key, and a keyring of a new domain, on the disk -> the vault's certificate -> done

Every step can be taken again: what a run needs to go on stands on the disk before the vault is
asked, and the vault gives the same key the same certificate. So a crash or a lost answer costs
nothing but another `transfer register FILE`.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec

from transfer.crypto import certificates, signing
from transfer.errors import (
    FormatError,
    IntegrityError,
    UsageError,
    VaultRolledBack,
)
from transfer.formats import messages
from transfer.formats.credential import (
    Credential,
    CredentialKind,
    check_time,
    proof_message,
)
from transfer.formats.documents import Bytes16
from transfer.jobs import keyring as keyrings
from transfer.jobs.far import (
    DEFAULT_REACH,
    FILE,
    Reach,
    Registration,
    far_vault,
    fingerprint,
    transport_to,
)
from transfer.jobs.keyring import OpenKeyring, Secret
from transfer.jobs.state import StateDirectory
from transfer.net import tls
from transfer.net.client import RemoteVault

_PENDING = "registering.json"


class Pending(msgspec.Struct, frozen=True):
    """A registration that the vault may have heard of; *keyring* is that of a new domain."""

    credential: Bytes16
    key: bytes
    keyring: bytes | None

    def __repr__(self) -> str:
        return f"<registration with credential {self.credential.hex()[:8]}>"


@dataclass
class RegisterResult:
    """*certificate_end* is RFC 3339, UTC."""

    machine: str
    machine_id: str
    domain: str
    vault: str
    url: str
    role: str
    certificate_end: str


async def register(
    state: Path, credential: Credential, secret: Secret, name: str | None = None,
    reach: Reach = DEFAULT_REACH,
) -> RegisterResult:  # fmt: skip
    """Make this machine known to the vault of *credential*; repeating it is harmless.

    Raises CredentialRefused, NameTaken, WrongPassphrase, UsageError for a machine that is
    registered already, VaultUnavailable, Untrusted.
    """
    return await _Registering(StateDirectory(state), credential, secret, reach).go(name)


class _Registering:
    def __init__(
        self, directory: StateDirectory, credential: Credential, secret: Secret, reach: Reach
    ) -> None:
        self._directory, self._credential = directory, credential
        self._secret, self._reach = secret, reach

    async def go(self, name: str | None) -> RegisterResult:
        credential, directory = self._credential, self._directory
        check_time(credential.expires, self._reach.clock())
        known, pending = directory.read(FILE, Registration), directory.read(_PENDING, Pending)
        if pending is None or pending.credential != credential.id:
            self._check_free(known)
            pending = None
        machine = directory.machine(name)
        if name is not None and name != machine.name:
            machine = directory.rename(machine, name)
        begun, opened = await self._begun(pending)
        answer = await self._asked(begun, opened, machine.id, machine.name)
        registration = self._checked(answer, begun, opened)
        if answer.machine != machine.id or answer.name != machine.name:
            directory.become(answer.machine, answer.name)
        directory.write(FILE, registration)
        await self._check_keyring(registration, begun, opened)
        directory.remove(_PENDING)
        ends = certificates.read(answer.certificate).ends
        return RegisterResult(
            answer.name, answer.machine.hex(), answer.domain.hex(), credential.vault.hex(),
            credential.url, answer.role, certificates.when(ends),
        )  # fmt: skip

    def _check_free(self, known: Registration | None) -> None:
        if known is None:
            return
        if known.vault != self._credential.vault:
            raise UsageError(
                f"this machine is registered with another vault, at {known.url}",
                "name another state directory with --state",
            )
        if self._credential.kind is CredentialKind.REGISTER:
            raise UsageError(
                f"this machine is registered with this vault already, at {known.url}",
                "`transfer status` shows it",
            )

    async def _begun(self, pending: Pending | None) -> tuple[Pending, OpenKeyring | None]:
        """What the vault will be asked with, on the disk; a new keyring is open."""
        new = self._credential.kind is CredentialKind.REGISTER
        if pending is None:
            raw, secret = None, self._secret
            if new:
                given = secret.passphrase(True)
                raw, secret = (
                    await asyncio.to_thread(keyrings.create, given),
                    Secret(lambda _: given),
                )
            pending = Pending(self._credential.id, certificates.new_key(), raw)
            self._directory.write(_PENDING, pending)
            self._secret = secret
        if pending.keyring is None:
            return pending, None
        return pending, await asyncio.to_thread(
            keyrings.open_keyring, pending.keyring, self._secret
        )

    async def _asked(
        self, begun: Pending, opened: OpenKeyring | None, machine: bytes, name: str
    ) -> messages.Registered:
        credential = self._credential
        csr = certificates.request(begun.key)
        message = proof_message(credential.vault, credential.id, machine, csr)
        proof = None if opened is None else signing.sign(opened.secrets.signing_key, message)
        asked = messages.Register(
            credential.id, credential.secret, machine, name, csr, begun.keyring, proof
        )
        context = tls.client_context(credential.cas, None, None, self._reach.clock)
        async with transport_to(
            credential.vault, credential.url, context, self._reach
        ) as transport:
            return await RemoteVault(transport).register(asked)

    def _checked(
        self, answer: messages.Registered, begun: Pending, opened: OpenKeyring | None
    ) -> Registration:
        """The certificate is for our key, and says what the answer says; so does a new keyring.

        What is kept from here on is believed by every run: none may use another domain's keyring,
        though the passphrase opens it as well.
        """
        if opened is not None and answer.domain != opened.domain:
            raise IntegrityError(
                "the vault puts this machine into another domain than its own",
                "ask the vault's administrator",
            )
        found = certificates.read(answer.certificate)
        identity = certificates.identity_of(found)
        if found.key != fingerprint(begun.key) or identity[:2] != (answer.machine, answer.domain):
            raise FormatError(
                "the vault's certificate is not for this machine", "ask the vault's administrator"
            )
        credential = self._credential
        return Registration(
            credential.vault, credential.url, list(credential.cas), answer.machine, answer.domain,
            answer.role, answer.certificate, begun.key,
        )  # fmt: skip

    async def _check_keyring(
        self, registration: Registration, begun: Pending, opened: OpenKeyring | None
    ) -> None:
        """Before the first frame: what is sealed from now on opens with what the vault has."""
        async with far_vault(self._directory, registration, self._reach) as (vault, _):
            raw = await vault.keyring(registration.domain)
        if raw is None:
            raise VaultRolledBack(
                "the vault has no keyring of this machine's domain", "ask who restored the vault"
            )
        if opened is None:
            await asyncio.to_thread(keyrings.open_keyring, raw, self._secret, registration.domain)
        elif begun.keyring != raw:
            raise IntegrityError("the vault gives back another keyring than it was given")
