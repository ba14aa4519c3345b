"""Whether a machine may register, and as what. Nothing is written here.

A credential is refused if its secret is wrong, it has expired, or a newer one of its scope was
made. `register` takes any number of machines, each of which proves that its domain is its own.
`for` and `read` are bound to the first machine and key that use them. Whoever repeats a call, with
the same key and credential, is told the same again: an answer may be lost.
"""

import hashlib
import hmac
from typing import NamedTuple

from transfer.crypto import certificates, signing
from transfer.crypto.certificates import Identity, Role
from transfer.errors import CredentialRefused, FormatError, NameTaken, Refused
from transfer.formats import credential, keyring
from transfer.formats.credential import CredentialKind
from transfer.formats.record import (
    CertificateState,
    CredentialRecord,
    IssuedCertificate,
    MachineRecord,
    checked_name,
)
from transfer.vault import checks
from transfer.vault.identities import Identities

MAX_MACHINES = 100_000
_NEW_ONE = "ask the vault's administrator for a new credential"


class Registration(NamedTuple):
    """What a machine sends: *credential* is an ID, *csr* DER.

    *keyring* is the first version of the domain's, *proof* the signature by the domain's key over
    `credential.proof_message`; only a machine with a domain of its own has them.
    """

    credential: bytes
    secret: bytes
    machine: bytes
    name: str
    csr: bytes
    keyring: bytes | None = None
    proof: bytes | None = None

    def __repr__(self) -> str:
        return f"<Registration of {self.name!r}>"  # no secret in a log or a traceback


class Admission(NamedTuple):
    """*credential* as it is to be from now on; *machine* is there if it registered before."""

    credential: CredentialRecord
    machine: MachineRecord | None
    identity: Identity
    name: str
    key: bytes  # SHA-256 of the public key
    issued: IssuedCertificate | None  # for this credential and key


def admit(identities: Identities, vault: bytes, asked: Registration, now: int) -> Admission:
    """Raises CredentialRefused, NameTaken, Refused; UsageError for a name that is none, and
    FormatError for a request, a keyring or a machine ID that is none.
    """
    found = _valid_credential(identities, asked, now)
    key = certificates.key_of(asked.csr)
    identity, name = _who(identities, vault, found, asked)
    bound = _bound(found, key, identity.machine)
    try:
        machine = identities.machine(identity.machine)
    except FormatError as error:
        raise _damaged(error) from error
    issued = None
    if machine is not None:
        issued = _issued_before(machine, found, key)
    else:
        _check_new(identities, identity, name, own_domain=found.target is None)
    return Admission(bound, machine, identity, name, key, issued)


def _valid_credential(identities: Identities, asked: Registration, now: int) -> CredentialRecord:
    try:
        found = identities.credential(asked.credential)
    except FormatError as error:
        raise _damaged(error) from error
    expected = found.secret_hash if found is not None else bytes(32)
    right = hmac.compare_digest(expected, hashlib.sha256(asked.secret).digest())
    if found is None or not right:
        raise CredentialRefused("the vault does not know this credential", _NEW_ONE)
    credential.check_time(found.expires, now)
    if any(one.scope == found.scope for one in _newer(identities, found)):
        raise CredentialRefused(
            "the vault credential was superseded: a newer one was made", "use the newest"
        )
    return found


def _newer(identities: Identities, found: CredentialRecord) -> list[CredentialRecord]:
    try:
        return identities.newer_credentials(found.number)
    except FormatError as error:
        raise CredentialRefused(
            f"the vault cannot read whether a newer credential was made: {error}", _NEW_ONE
        ) from error


def _damaged(error: FormatError) -> CredentialRefused:
    return CredentialRefused(
        f"the vault cannot read who this is: {error}", "on the vault run: transfer vault verify DIR"
    )


def _who(
    identities: Identities, vault: bytes, found: CredentialRecord, asked: Registration
) -> tuple[Identity, str]:
    if found.target is None:
        domain = _own_domain(vault, asked)
        return Identity(asked.machine, domain, Role.MACHINE), checked_name(asked.name)
    if asked.keyring is not None or asked.proof is not None:
        # The vault would keep it, unasked whose it is.
        raise FormatError("a machine that joins another's domain brings no keyring")
    try:
        target = identities.machine(found.target)
    except FormatError as error:
        raise _damaged(error) from error
    if target is None:
        raise CredentialRefused("the machine that the credential names is gone", _NEW_ONE)
    if found.kind is CredentialKind.FOR:
        return Identity(target.machine, target.domain, Role(target.role)), target.name
    return Identity(asked.machine, target.domain, Role.READER), checked_name(asked.name)


def _own_domain(vault: bytes, asked: Registration) -> bytes:
    """The domain of the keyring that came along, of which the machine has the signing key."""
    if asked.keyring is None or asked.proof is None:
        raise FormatError("a new machine brings its domain's keyring, and a proof that it is its")
    domain = keyring.decode(asked.keyring).domain
    public_key = checks.sound_keyring(asked.keyring, domain, 1).public_key
    message = credential.proof_message(vault, asked.credential, asked.machine, asked.csr)
    if not signing.verify(public_key, asked.proof, message):
        raise CredentialRefused(
            "nothing proves that the keyring is this machine's own", "register with your own"
        )
    return domain


def _bound(found: CredentialRecord, key: bytes, machine: bytes) -> CredentialRecord:
    """The credential, used by this key and machine, if it is one for a single use."""
    if found.kind is CredentialKind.REGISTER:
        return found
    if found.used_key is not None and (found.used_key, found.used_by) != (key, machine):
        raise CredentialRefused("the vault credential was used before", _NEW_ONE)
    return CredentialRecord(
        found.id, found.secret_hash, found.kind, found.target, found.number, found.made,
        found.expires, key, machine,
    )  # fmt: skip


def _issued_before(
    machine: MachineRecord, found: CredentialRecord, key: bytes
) -> IssuedCertificate | None:
    """The certificate for this credential and key; None if there shall be a first one."""
    if machine.revoked is not None:
        raise CredentialRefused(
            f"machine {machine.name} was revoked", "register it as another machine, with new state"
        )
    for one in machine.certificates:
        if (one.key, one.number) == (key, found.number):
            if one.state is CertificateState.REVOKED:
                raise CredentialRefused("the certificate of this credential was revoked", _NEW_ONE)
            return one
    if found.kind is not CredentialKind.FOR:
        raise CredentialRefused(
            f"machine {machine.name} is registered, with another key",
            f"to register it again ask for a credential --for {machine.name}",
        )
    return None


def _check_new(identities: Identities, identity: Identity, name: str, own_domain: bool) -> None:
    if len(identity.machine) != 16:
        raise FormatError(f"a machine ID of {len(identity.machine)} bytes; it has 16")
    known = identities.machines()
    if len(known) >= MAX_MACHINES:
        raise Refused(f"the vault has {len(known)} machines, and takes no more")
    if any(one.name == name and one.revoked is None for one in known):
        raise NameTaken(
            f"another machine of the vault is called {name}",
            "choose another with --name; a lost machine registers again with a credential --for it",
        )
    if own_domain and any(one.domain == identity.domain for one in known):
        raise CredentialRefused(
            "the domain belongs to another machine of the vault",
            "to join its domain ask for a credential --read MACHINE",
        )
