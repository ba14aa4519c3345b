"""Machines as clients of a far vault, without a network: what they send, and what they keep."""

import copy
import hashlib

from tests.suites.vault import made_keyring
from transfer.crypto import certificates, signing
from transfer.formats import credential, keyring
from transfer.formats.credential import CredentialKind
from transfer.vault.authority import Authority
from transfer.vault.registry import Registration, Registry

VAULT, URL = b"v" * 16, "https://vault.example:8443"
HOUR, DAY = 3600 * 10**9, 24 * 3600 * 10**9
ADDRESS = "192.0.2.7"


def keyring_of(name):
    """A domain's first keyring, and its signing key."""
    signing_key = hashlib.sha256(name.encode()).digest()
    public_key = signing.public_key_of(signing_key)
    body = keyring.decode(made_keyring()).body
    changed = keyring.Body(
        signing.domain_id(public_key), 1, public_key, body.epochs, body.wraps, body.salt,
        body.secrets,
    )  # fmt: skip
    signed = keyring.signed_part(changed)
    return signed + signing.sign(signing_key, signed), signing_key


class Machine:
    """Keeps its ID, its keys and its certificate, as a state directory does."""

    def __init__(self, name):
        self.name, self.id = name, hashlib.sha256(b"machine " + name.encode()).digest()[:16]
        self.keyring, self.signing_key = keyring_of(name)
        self.domain = keyring.decode(self.keyring).domain
        self.certificate = None
        self.new_request()

    def new_request(self):
        self.csr = certificates.request(certificates.new_key())

    def registration(self, given):
        if given.kind is not CredentialKind.REGISTER:
            return Registration(given.id, given.secret, self.id, self.name, self.csr)
        message = credential.proof_message(given.vault, given.id, self.id, self.csr)
        proof = signing.sign(self.signing_key, message)
        return Registration(
            given.id, given.secret, self.id, self.name, self.csr, self.keyring, proof
        )

    def register(self, registry, given):
        asked = self.registration(given)
        registry.examine(asked)
        answer = registry.register(asked)
        self.id, self.name, self.domain = answer.machine, answer.name, answer.domain
        self.certificate = certificates.read(answer.certificate)
        return answer

    def call(self, registry, renewing=False):
        return registry.authorise(self.certificate, ADDRESS, renewing)

    def renew(self, registry):
        self.call(registry, renewing=True)
        self.new_request()
        self.certificate = certificates.read(registry.renew(self.certificate, self.csr))

    def stolen(self):
        """What a thief has: the certificate of today."""
        return copy.copy(self)


class FarVault:
    """The parts of a far vault that know who is who, in *path*."""

    def __init__(self, path, clock):
        path.mkdir(exist_ok=True)
        self.path, self.clock = path, clock
        self.authority = Authority(path, VAULT, clock)
        self.registry = Registry(path, self.authority, clock)

    def credential(self, kind=CredentialKind.REGISTER, machine=None, valid=48 * HOUR):
        return self.registry.make_credential(kind, machine, valid, URL)

    def registered(self, name):
        machine = Machine(name)
        machine.register(self.registry, self.credential())
        return machine
