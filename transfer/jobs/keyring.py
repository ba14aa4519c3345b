"""Keyrings as values: make one, open one, add wraps, rotate. The codec is in formats/keyring.py.

    passphrase or recovery key --Argon2id, HKDF--> wrap key -> keyring key -> secrets

Each change gives a whole new version; what stood in an older one stays as it is, and still opens
with what opened it then. A soft change keeps the keyring key, so old wraps stay good as long as
they are copied; a hard rotation takes a new one, which no old wrap holds.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from transfer.crypto import recovery_key, signing, wrap
from transfer.errors import FormatError, IntegrityError, UsageError, WrongPassphrase
from transfer.formats import keyring as codec
from transfer.formats.keyring import Body, EpochName, Keyring, Secrets, Wrap
from transfer.pipeline.sealing import SealKeys

PASSPHRASE, RECOVERY = "passphrase", "recovery"
_NAMES = {PASSPHRASE: "passphrase", RECOVERY: "recovery key"}
_ANOTHER_COPY = "bring it back from another copy of the vault; it is never made anew"


@dataclass(frozen=True)
class Secret:
    """How to get the secret that opens a keyring; *passphrase* is asked with True for a new one."""

    passphrase: Callable[[bool], str]
    recovery_key: str | None = field(default=None, repr=False)

    def read(self) -> tuple[str, bytes]:
        """Its kind, and what is derived from. Raises UsageError for what cannot be one."""
        if self.recovery_key is not None:
            return RECOVERY, recovery_key.parsed(self.recovery_key)
        return PASSPHRASE, _raw(self.passphrase(False))


@dataclass(frozen=True)
class OpenKeyring:
    """A keyring whose secrets are known."""

    keyring: Keyring = field(repr=False)
    secrets: Secrets = field(repr=False)
    key: bytes = field(repr=False)

    @property
    def domain(self) -> bytes:
        return self.keyring.domain

    @property
    def generation(self) -> int:
        return max(self.secrets.id_keys)

    @property
    def first_key(self) -> bytes:
        return self.secrets.id_keys[min(self.secrets.id_keys)]

    def seal_keys(self) -> SealKeys:
        seal_keys = {bytes.fromhex(name): key for name, key in self.secrets.seal_keys.items()}
        return SealKeys(
            self.domain,
            self.generation,
            self.secrets.current_epoch,
            self.secrets.id_keys,
            seal_keys,
        )


def create(passphrase: str) -> bytes:
    """A new domain's first keyring."""
    epoch, signing_key = os.urandom(8), os.urandom(32)
    secrets = Secrets(signing_key, {1: os.urandom(32)}, {epoch.hex(): os.urandom(32)}, epoch)
    domain = signing.domain_id(signing.public_key_of(signing_key))
    key = os.urandom(32)
    first = _wrap(domain, 1, PASSPHRASE, _raw(passphrase), key)
    return _encode(domain, 1, [EpochName(epoch, 1)], [first], secrets, key)


def open_keyring(raw: bytes, secret: Secret, domain: bytes | None = None) -> OpenKeyring:
    """Open the keyring of *domain*, or of whichever it is; all else is checked before any work.

    Raises WrongPassphrase; FormatError for damage, IntegrityError for a signature of another key
    or another domain's keyring, NewerFormat.
    """
    try:
        keyring = codec.decode(raw)
    except FormatError as error:
        raise FormatError(f"the keyring is damaged: {error}", _ANOTHER_COPY) from error
    body = keyring.body
    if domain is not None and body.domain != domain:
        raise IntegrityError(
            f"this is the keyring of domain {body.domain.hex()[:8]}, not of {domain.hex()[:8]}",
            _ANOTHER_COPY,
        )
    if signing.domain_id(body.public_key) != body.domain or not signing.verify(
        body.public_key, keyring.signature, keyring.signed_part
    ):
        raise IntegrityError(
            f"the keyring of domain {body.domain.hex()[:8]}: its signature does not hold",
            _ANOTHER_COPY,
        )
    return _open_secrets(keyring, _unwrap(body, *secret.read()))


def open_with_key(raw: bytes, key: bytes) -> OpenKeyring:
    """Open a keyring of our own making with the keyring key that it was made with."""
    return _open_secrets(codec.decode(raw), key)


def _open_secrets(keyring: Keyring, key: bytes) -> OpenKeyring:
    body = keyring.body
    plain = wrap.decrypt_once(wrap.secrets_key(key, body.salt), body.secrets, _bound(body))
    if plain is None:
        raise FormatError("the keyring's secrets do not open: it is damaged", _ANOTHER_COPY)
    secrets = codec.decode_secrets(plain, body.epochs)
    if signing.public_key_of(secrets.signing_key) != body.public_key:
        raise FormatError("the keyring's signing key is not its domain's", _ANOTHER_COPY)
    return OpenKeyring(keyring, secrets, key)


def _unwrap(body: Body, kind: str, raw: bytes) -> bytes:
    """The keyring key; raises WrongPassphrase. The codec bounds what all wraps together cost."""
    key = _find(body, kind, raw)
    if key is not None:
        return key
    which = f"version {body.version} of the keyring of domain {body.domain.hex()[:8]}"
    if any(each.kind == kind for each in body.wraps):
        raise WrongPassphrase(
            f"wrong {_NAMES[kind]}: it does not open {which}",
            "a newer one may have replaced it; a keyring is never made anew because it does not "
            "open",
        )
    raise WrongPassphrase(
        f"there is no {_NAMES[kind]} of {which}",
        "a hard rotation ends all recovery keys; use the passphrase, and print a new one",
    )


def _find(body: Body, kind: str, raw: bytes) -> bytes | None:
    """The keyring key, if a wrap of *kind* opens; the newest is tried first."""
    wraps = [each for each in body.wraps if each.kind == kind]
    for each in sorted(wraps, key=lambda each: each.made_in, reverse=True):
        key = _open_wrap(body.domain, each, raw)
        if key is not None:
            return key
    return None


def _raw(passphrase: str) -> bytes:
    return wrap.normalise_passphrase(passphrase).encode()


def _wrap_bound(
    domain: bytes, version: int, id: bytes, kind: str, costs: tuple[int, int, int]
) -> bytes:
    return msgspec.json.encode([domain, version, id, kind, costs])


def _wrap(domain: bytes, version: int, kind: str, raw: bytes, key: bytes) -> Wrap:
    id, salt = os.urandom(8), os.urandom(32)
    costs = (wrap.MEMORY, wrap.PASSES, wrap.LANES)
    bound = _wrap_bound(domain, version, id, kind, costs)
    wrap_key, commitment = wrap.wrap_keys(raw, salt, *costs, bound)
    wrapped = wrap.encrypt_once(wrap_key, key, bound)
    return Wrap(id, kind, version, *costs, salt, commitment, wrapped)


def _open_wrap(domain: bytes, each: Wrap, raw: bytes) -> bytes | None:
    """The keyring key, or None for another secret. Raises FormatError for a damaged wrap."""
    costs = (each.memory, each.passes, each.lanes)
    bound = _wrap_bound(domain, each.made_in, each.id, each.kind, costs)
    wrap_key, commitment = wrap.wrap_keys(raw, each.salt, *costs, bound)
    if not wrap.commitments_match(commitment, each.commitment):
        return None
    key = wrap.decrypt_once(wrap_key, each.wrapped, bound)
    if key is None:
        raise FormatError("a wrap of the keyring is damaged", _ANOTHER_COPY)
    return key


def _bound(body: Body) -> bytes:
    return b"transfer keyring secrets" + body.domain + body.version.to_bytes(4, "little")


def _encode(
    domain: bytes, version: int, epochs: list[EpochName], wraps: list[Wrap], secrets: Secrets,
    key: bytes,
) -> bytes:  # fmt: skip
    public, salt = signing.public_key_of(secrets.signing_key), os.urandom(32)
    empty = Body(domain, version, public, epochs, wraps, salt, b"")
    sealed = wrap.encrypt_once(
        wrap.secrets_key(key, salt), codec.encode_secrets(secrets, epochs), _bound(empty)
    )
    signed = codec.signed_part(msgspec.structs.replace(empty, secrets=sealed))
    return signed + signing.sign(secrets.signing_key, signed)


def with_passphrase(opened: OpenKeyring, passphrase: str) -> bytes:
    """The next version, which this passphrase opens instead of the old ones."""
    new = _wrap_next(opened, PASSPHRASE, _raw(passphrase), opened.key)
    kept = [each for each in opened.keyring.body.wraps if each.kind != PASSPHRASE]
    return _next(opened, [new, *kept], opened.secrets, opened.keyring.epochs, opened.key)


def with_recovery_key(opened: OpenKeyring) -> tuple[bytes, str]:
    """The next version, and as it is to be printed the recovery key that replaces the old ones."""
    raw = os.urandom(recovery_key.SIZE)
    new = _wrap_next(opened, RECOVERY, raw, opened.key)
    kept = [each for each in opened.keyring.body.wraps if each.kind != RECOVERY]
    keyring = _next(opened, [*kept, new], opened.secrets, opened.keyring.epochs, opened.key)
    return keyring, recovery_key.printed(raw)


def soft_rotated(opened: OpenKeyring) -> bytes:
    """The next version, with a new epoch: IDs stay, and so do all wraps."""
    epoch, old = os.urandom(8), opened.secrets
    seal_keys = old.seal_keys | {epoch.hex(): os.urandom(32)}
    new = Secrets(old.signing_key, old.id_keys, seal_keys, epoch)
    epochs = [*opened.keyring.epochs, EpochName(epoch, opened.generation)]
    return _next(opened, opened.keyring.body.wraps, new, epochs, opened.key)


def hard_rotated(opened: OpenKeyring, passphrase: str) -> bytes:
    """The next version, with a new generation, epoch and keyring key, for *passphrase* only.

    Whoever had the old keyring key has the signing key too, and can sign a version that copies an
    old wrap and names keys of their own. What opened an old wrap must therefore not be used again:
    raises UsageError for the passphrase that the keyring has now.
    """
    raw = _raw(passphrase)
    if _find(opened.keyring.body, PASSPHRASE, raw) is not None:
        raise UsageError(
            "a hard rotation needs another passphrase than the present one",
            "whoever could read the old keyring may know it, or have a wrap that it opens",
        )
    epoch, generation, old = os.urandom(8), opened.generation + 1, opened.secrets
    id_keys = old.id_keys | {generation: os.urandom(32)}
    seal_keys = old.seal_keys | {epoch.hex(): os.urandom(32)}
    new = Secrets(old.signing_key, id_keys, seal_keys, epoch)
    epochs = [*opened.keyring.epochs, EpochName(epoch, generation)]
    key = os.urandom(32)
    return _next(opened, [_wrap_next(opened, PASSPHRASE, raw, key)], new, epochs, key)


def _wrap_next(opened: OpenKeyring, kind: str, raw: bytes, key: bytes) -> Wrap:
    return _wrap(opened.domain, opened.keyring.version + 1, kind, raw, key)


def _next(
    opened: OpenKeyring, wraps: list[Wrap], secrets: Secrets, epochs: list[EpochName], key: bytes
) -> bytes:
    body = opened.keyring.body
    body.features.require("the keyring", writing=True)
    return _encode(body.domain, body.version + 1, epochs, wraps, secrets, key)
