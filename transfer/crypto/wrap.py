"""Wrap a keyring key for a passphrase or a printed recovery key; open secrets with it.

    Argon2id(secret, salt, memory, passes, lanes)              -> 32 bytes
    HKDF-Expand-SHA256(those, "transfer wrap 1" + bound, 64)   -> wrap key, commitment
    AES-256-GCM(wrap key, keyring key, bound)                  -> what the keyring stores
    HKDF-SHA256(keyring key, salt of the version, "transfer keyring 1") -> key of the secrets

*bound* is JSON without blanks: [domain, version, wrap ID, kind, [memory, passes, lanes]], bytes in
base64; version is the one the wrap was made in. Nonces are zero, as no key here is used twice. The
commitment is compared first, in constant time: AES-GCM alone would let one ciphertext open under
many keys.
"""

import hmac
import unicodedata

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from transfer.errors import UsageError

MEMORY, PASSES, LANES = 64 * 1024, 3, 1  # KiB; RFC 9106's second choice with one lane
MIN_CODE_POINTS = 16
_NONCE = bytes(12)  # each key here is used for one message only


def normalise_passphrase(raw: str | bytes) -> str:
    """No BOM, one trailing line end (LF or CR LF) removed, then NFC: the same on every keyboard.

    Raises UsageError for what is not UTF-8 or, after that, shorter than MIN_CODE_POINTS. A prompt
    gives bytes that its terminal could not decode as lone surrogates; they are no UTF-8 either.
    """
    try:
        text = (raw.encode() if isinstance(raw, str) else raw).decode()
    except UnicodeError:
        # Not chained: a UnicodeError carries the passphrase.
        raise UsageError("the passphrase is not UTF-8", "save its file as UTF-8") from None
    text = text.removeprefix("\ufeff")
    text = text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
    text = unicodedata.normalize("NFC", text)
    if len(text) < MIN_CODE_POINTS:
        raise UsageError(
            f"the passphrase has {len(text)} characters, and needs at least {MIN_CODE_POINTS}",
            "a sentence of a few words is easiest to keep",
        )
    return text


def wrap_keys(
    secret: bytes, salt: bytes, memory: int, passes: int, lanes: int, bound: bytes
) -> tuple[bytes, bytes]:
    """(wrap key, commitment) from *secret*; *bound* names domain, version, wrap and parameters."""
    derive = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
    expand = HKDFExpand(SHA256(), 64, b"transfer wrap 1" + bound)
    both = expand.derive(derive.derive(secret))
    return both[:32], both[32:]


def commitments_match(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)


def secrets_key(keyring_key: bytes, salt: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, b"transfer keyring 1").derive(keyring_key)


def encrypt_once(key: bytes, plain: bytes, bound: bytes) -> bytes:
    """For a *key* that encrypts nothing else, ever."""
    return AESGCM(key).encrypt(_NONCE, plain, bound)


def decrypt_once(key: bytes, sealed: bytes, bound: bytes) -> bytes | None:
    """None when *sealed* was not made with this key and these bound values."""
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, bound)
    except InvalidTag:
        return None
