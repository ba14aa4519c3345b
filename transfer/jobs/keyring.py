"""Keyrings as values: make one, open one, add wraps, rotate. The codec is in formats/keyring.py."""

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from transfer.crypto import signing, wrap
from transfer.errors import FormatError, IntegrityError, UsageError, WrongPassphrase
from transfer.formats import keyring as codec
from transfer.formats.keyring import Body, EpochName, Keyring, Secrets, Wrap
from transfer.pipeline.sealing import SealKeys

PASSPHRASE, RECOVERY = "passphrase", "recovery"


@dataclass(frozen=True)
class Secret:
    """How to get the secret that opens a keyring; *passphrase* is asked with True for a new one."""

    passphrase: Callable[[bool], str]
    recovery_key: str | None = None


@dataclass(frozen=True)
class OpenKeyring:
    """A keyring whose secrets are known."""

    keyring: Keyring
    secrets: Secrets
    key: bytes

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
    first = _wrap(domain, 1, PASSPHRASE, wrap.normalise_passphrase(passphrase).encode(), key)
    return _encode(domain, 1, [EpochName(epoch, 1)], [first], secrets, key)


def open_keyring(raw: bytes, secret: Secret) -> OpenKeyring:
    """Raises WrongPassphrase; FormatError or IntegrityError for a damaged or foreign keyring."""
    keyring = codec.decode(raw)
    body = keyring.body
    if signing.domain_id(body.public_key) != body.domain or not signing.verify(
        body.public_key, keyring.signature, keyring.signed_part
    ):
        raise IntegrityError("the keyring's signature does not hold", "fetch it from another copy")
    return _open_secrets(keyring, _unwrap(body, secret))


def open_with_key(raw: bytes, key: bytes) -> OpenKeyring:
    """Open a keyring of our own making with the keyring key that it was made with."""
    return _open_secrets(codec.decode(raw), key)


def _open_secrets(keyring: Keyring, key: bytes) -> OpenKeyring:
    body = keyring.body
    plain = wrap.decrypt_once(wrap.secrets_key(key, body.salt), body.secrets, _bound(body))
    if plain is None:
        raise FormatError("the keyring's secrets do not open: it is damaged")
    try:
        return OpenKeyring(keyring, msgspec.json.decode(plain, type=Secrets), key)
    except msgspec.MsgspecError as error:
        raise FormatError(f"the keyring's secrets do not parse: {error}") from error


def _unwrap(body: Body, secret: Secret) -> bytes:
    if secret.recovery_key is not None:
        kind, raw = RECOVERY, parse_recovery_key(secret.recovery_key)
    else:
        kind, raw = PASSPHRASE, wrap.normalise_passphrase(secret.passphrase(False)).encode()
    for each in body.wraps:
        if each.kind == kind and (key := _open_wrap(body.domain, each, raw)) is not None:
            return key
    name = "recovery key" if kind == RECOVERY else "passphrase"
    raise WrongPassphrase(
        f"wrong {name}: it opens no wrap of the keyring of domain {body.domain.hex()[:8]}",
        "a keyring is never replaced because it does not open; try the recovery key",
    )


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
    costs = (each.memory, each.passes, each.lanes)
    bound = _wrap_bound(domain, each.made_in, each.id, each.kind, costs)
    wrap_key, commitment = wrap.wrap_keys(raw, each.salt, *costs, bound)
    if not wrap.commitments_match(commitment, each.commitment):
        return None
    return wrap.decrypt_once(wrap_key, each.wrapped, bound)


def _bound(body: Body) -> bytes:
    return b"transfer keyring secrets" + body.domain + body.version.to_bytes(4, "little")


def _encode(
    domain: bytes, version: int, epochs: list[EpochName], wraps: list[Wrap], secrets: Secrets,
    key: bytes,
) -> bytes:  # fmt: skip
    public, salt = signing.public_key_of(secrets.signing_key), os.urandom(32)
    empty = Body(domain, version, public, epochs, wraps, salt, b"")
    sealed = wrap.encrypt_once(
        wrap.secrets_key(key, salt), msgspec.json.encode(secrets), _bound(empty)
    )
    signed = codec.signed_part(msgspec.structs.replace(empty, secrets=sealed))
    return signed + signing.sign(secrets.signing_key, signed)


def with_passphrase(opened: OpenKeyring, passphrase: str) -> bytes:
    """The next version, which this passphrase opens instead of the old ones."""
    body = opened.keyring.body
    raw = wrap.normalise_passphrase(passphrase).encode()
    new = _wrap(body.domain, body.version + 1, PASSPHRASE, raw, opened.key)
    kept = [each for each in body.wraps if each.kind != PASSPHRASE]
    return _next(opened, [new, *kept], opened.secrets, body.epochs, opened.key)


def with_recovery_key(opened: OpenKeyring) -> tuple[bytes, str]:
    """The next version, and the new recovery key as it is to be printed."""
    body = opened.keyring.body
    raw = os.urandom(20)
    new = _wrap(body.domain, body.version + 1, RECOVERY, raw, opened.key)
    kept = [each for each in body.wraps if each.kind != RECOVERY]
    keyring = _next(opened, [*kept, new], opened.secrets, body.epochs, opened.key)
    return keyring, _printed(raw)


def rotated(opened: OpenKeyring, passphrase: str | None) -> bytes:
    """The next version with a new epoch; with *passphrase* also a new generation and keyring key.

    A hard rotation drops all other wraps: whoever knew the old keyring key must not open this one.
    """
    body, secrets = opened.keyring.body, opened.secrets
    epoch, generation = os.urandom(8), opened.generation
    id_keys, key, wraps = secrets.id_keys, opened.key, body.wraps
    if passphrase is not None:
        generation, key = generation + 1, os.urandom(32)
        id_keys = id_keys | {generation: os.urandom(32)}
        raw = wrap.normalise_passphrase(passphrase).encode()
        wraps = [_wrap(body.domain, body.version + 1, PASSPHRASE, raw, key)]
    seal_keys = secrets.seal_keys | {epoch.hex(): os.urandom(32)}
    new = Secrets(secrets.signing_key, id_keys, seal_keys, epoch)
    return _next(opened, wraps, new, [*body.epochs, EpochName(epoch, generation)], key)


def _next(
    opened: OpenKeyring, wraps: list[Wrap], secrets: Secrets, epochs: list[EpochName], key: bytes
) -> bytes:
    body = opened.keyring.body
    return _encode(body.domain, body.version + 1, epochs, wraps, secrets, key)


def _printed(raw: bytes) -> str:
    """160 bits and a 40-bit checksum in base32, in groups of five."""
    text = base64.b32encode(raw + signing.domain_id(raw)[:5]).decode()
    return "-".join(text[at : at + 5] for at in range(0, len(text), 5))


def parse_recovery_key(text: str) -> bytes:
    compact = "".join(text.split()).replace("-", "").upper()
    try:
        raw = base64.b32decode(compact)
    except ValueError:
        raw = b""
    if len(raw) != 25 or signing.domain_id(raw[:20])[:5] != raw[20:]:
        raise UsageError("that is not a recovery key", "40 letters and digits; check for a slip")
    return raw[:20]
