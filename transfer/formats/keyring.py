"""Keyring: a domain's keys, wrapped; stored in versions that are added and never changed.

    offset  size  field
         0     4  magic        b"TKEY"
         4     1  version      1
         5     3  reserved     zero
         8     4  length       of the body; the whole has at most 256 KiB
        12     n  body         Body as JSON
      12+n    64  signature    Ed25519 of all before, by the domain's signing key

In the clear stand: domain, version, public key, names of epochs with their generations, the wraps'
parameters, and features. The domain ID is the fingerprint of the public key, so a keyring cannot be
swapped for another domain's. Every wrap holds the same 32-byte keyring key; that key, with the
version's salt, opens the secrets, which hold one key for each epoch and each generation named in
the clear, and no others.

Epochs stand in the order in which they began: generations never descend, no name comes twice.

Key derivation is work that a hostile vault may ask for before it is known to be one. A reader
refuses costs outside MIN_MEMORY..MAX_MEMORY KiB and 1..MAX_PASSES, and wraps that together cost
more than MAX_WORK, the dearest single one (memory x passes), before any work.

A keyring with an unknown feature that is needed to write opens, but gets no new version.
"""

from itertools import pairwise
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from transfer.errors import FormatError, NewerFormat
from transfer.formats import documents
from transfer.formats.documents import Bytes8, Bytes16, Bytes32, Generation, Label
from transfer.formats.features import Features

MAX_KEYRING = 256 * 1024
MIN_MEMORY, MAX_MEMORY, MAX_PASSES, MAX_LANES = 19 * 1024, 1024 * 1024, 16, 4
MAX_WORK = MAX_MEMORY * MAX_PASSES  # KiB passes; 85 times what our own wraps cost
MAX_WRAPS, MAX_EPOCHS = 64, 4096
_HEAD_SIZE, _SIGNATURE_SIZE = 12, 64
_TAG_SIZE = 16  # of AES-GCM, behind all that is encrypted
_HEAD = b"TKEY\x01\0\0\0"

Version = Annotated[int, Meta(ge=1, le=2**32 - 1)]
EpochHex = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]


class EpochName(msgspec.Struct, frozen=True):
    epoch: Bytes8
    generation: Generation


class Wrap(msgspec.Struct, frozen=True):
    """The keyring key, for one passphrase or recovery key; *made_in* is its version then."""

    id: Bytes8
    kind: Label
    made_in: Version
    memory: Annotated[int, Meta(ge=MIN_MEMORY, le=MAX_MEMORY)]
    passes: Annotated[int, Meta(ge=1, le=MAX_PASSES)]
    lanes: Annotated[int, Meta(ge=1, le=MAX_LANES)]
    salt: Bytes32
    commitment: Bytes32
    wrapped: Annotated[bytes, Meta(min_length=32 + _TAG_SIZE, max_length=32 + _TAG_SIZE)]


class Body(msgspec.Struct, frozen=True):
    domain: Bytes16
    version: Version
    public_key: Bytes32
    epochs: Annotated[list[EpochName], Meta(min_length=1, max_length=MAX_EPOCHS)]
    wraps: Annotated[list[Wrap], Meta(min_length=1, max_length=MAX_WRAPS)]
    salt: Bytes32
    secrets: Annotated[bytes, Meta(min_length=_TAG_SIZE, max_length=MAX_KEYRING)]
    features: Features = Features()


class _Needs(msgspec.Struct, frozen=True):
    """Read first: a body that needs more than we know need not look like ours."""

    features: Features = Features()


class Secrets(msgspec.Struct, frozen=True):
    """What only the keyring key opens. Keys of generations by number, seal keys by epoch (hex)."""

    signing_key: Bytes32
    id_keys: dict[Generation, Bytes32]
    seal_keys: dict[EpochHex, Bytes32]
    current_epoch: Bytes8

    def __repr__(self) -> str:
        return f"<Secrets, epoch {self.current_epoch.hex()}>"  # no key in a log or a traceback


class Keyring(NamedTuple):
    body: Body
    signed_part: bytes
    signature: bytes

    @property
    def domain(self) -> bytes:
        return self.body.domain

    @property
    def version(self) -> int:
        return self.body.version

    @property
    def public_key(self) -> bytes:
        return self.body.public_key

    @property
    def epochs(self) -> list[EpochName]:
        return self.body.epochs


def signed_part(body: Body) -> bytes:
    """Raises ValueError or FormatError for a body that no reader would take."""
    raw = documents.encode(body)
    _check(body)
    if _HEAD_SIZE + len(raw) + _SIGNATURE_SIZE > MAX_KEYRING:
        raise ValueError(f"a keyring's body of {len(raw)} bytes is beyond the limit")
    return _HEAD + len(raw).to_bytes(4, "little") + raw


def encode(keyring: Keyring) -> bytes:
    return keyring.signed_part + keyring.signature


def decode(raw: bytes) -> Keyring:
    """Raises FormatError for damage and for parameters out of bounds, NewerFormat.

    Whether the signature holds is the caller's to ask.
    """
    if not _HEAD_SIZE + _SIGNATURE_SIZE < len(raw) <= MAX_KEYRING or raw[:4] != _HEAD[:4]:
        raise FormatError("not a keyring")
    if raw[4] != 1:
        raise NewerFormat(f"a keyring of version {raw[4]}", "use a newer version of transfer")
    end = _HEAD_SIZE + int.from_bytes(raw[8:12], "little")
    if len(raw) != end + _SIGNATURE_SIZE or raw[:8] != _HEAD:
        raise FormatError("a keyring is cut short")
    needs = documents.decode(raw[_HEAD_SIZE:end], _Needs, "a keyring")
    needs.features.require("the keyring", writing=False)
    body = documents.decode(raw[_HEAD_SIZE:end], Body, "a keyring")
    _check(body)
    return Keyring(body, raw[:end], raw[end:])


def _check(body: Body) -> None:
    if sum(wrap.memory * wrap.passes for wrap in body.wraps) > MAX_WORK:
        raise FormatError("a keyring asks for more work than any reader does")
    if any(left.generation > right.generation for left, right in pairwise(body.epochs)):
        raise FormatError("a keyring's epochs are out of order")
    epochs = {name.epoch for name in body.epochs}
    wraps = {wrap.id for wrap in body.wraps}
    if len(epochs) != len(body.epochs) or len(wraps) != len(body.wraps):
        raise FormatError("a keyring names an epoch or a wrap twice")
    if any(wrap.made_in > body.version for wrap in body.wraps):
        raise FormatError("a keyring has a wrap of a later version of it")


def encode_secrets(secrets: Secrets, epochs: list[EpochName]) -> bytes:
    """What is encrypted. Raises as `decode_secrets` and ValueError."""
    raw = documents.encode(secrets)
    _check_secrets(secrets, epochs)
    return raw


def decode_secrets(plain: bytes, epochs: list[EpochName]) -> Secrets:
    """Raises FormatError, also for secrets that do not belong to what stands in the clear."""
    secrets = documents.decode(plain, Secrets, "the secret part of a keyring")
    _check_secrets(secrets, epochs)
    return secrets


def _check_secrets(secrets: Secrets, epochs: list[EpochName]) -> None:
    seals, generations = {name.epoch.hex() for name in epochs}, {n.generation for n in epochs}
    if secrets.seal_keys.keys() != seals or secrets.id_keys.keys() != generations:
        raise FormatError("a keyring's secrets are not those of its epochs and generations")
    current = {name.epoch for name in epochs if name.generation == epochs[-1].generation}
    if secrets.current_epoch not in current:
        raise FormatError("a keyring's current epoch is none of its newest generation")
