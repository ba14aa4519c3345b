"""Keyring: a domain's keys, wrapped; stored in versions that are added and never changed.

    offset  size  field
         0     4  magic        b"TKEY"
         4     1  version      1
         5     3  reserved     zero
         8     4  length       of the body, at most 256 KiB
        12     n  body         Body as JSON
      12+n    64  signature    Ed25519 of all before, by the domain's signing key

In the clear stand: domain, version, public key, names of epochs with their generations, and the
wraps' parameters. The domain ID is the fingerprint of the public key, so a keyring cannot be
swapped for another domain's. Every wrap holds the same 32-byte keyring key; that key, with the
version's salt, opens the secrets. A reader refuses key derivation costs outside
MIN_MEMORY..MAX_MEMORY KiB and 1..MAX_PASSES before any work.
"""

from typing import NamedTuple

import msgspec

from transfer.errors import FormatError, NewerFormat

MAX_KEYRING = 256 * 1024
MIN_MEMORY, MAX_MEMORY, MAX_PASSES, MAX_LANES = 19 * 1024, 1024 * 1024, 16, 4
MAX_WRAPS = 64
_HEAD_SIZE, _SIGNATURE_SIZE = 12, 64


class EpochName(msgspec.Struct, frozen=True):
    epoch: bytes
    generation: int


class Wrap(msgspec.Struct, frozen=True):
    """The keyring key, for one passphrase or recovery key; *made_in* is its version then."""

    id: bytes
    kind: str
    made_in: int
    memory: int
    passes: int
    lanes: int
    salt: bytes
    commitment: bytes
    wrapped: bytes


class Body(msgspec.Struct, frozen=True):
    domain: bytes
    version: int
    public_key: bytes
    epochs: list[EpochName]
    wraps: list[Wrap]
    salt: bytes
    secrets: bytes
    needed: list[str] = []


class Secrets(msgspec.Struct, frozen=True):
    """What only the keyring key opens. Keys of generations by number, seal keys by epoch (hex)."""

    signing_key: bytes
    id_keys: dict[int, bytes]
    seal_keys: dict[str, bytes]
    current_epoch: bytes


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
    raw = msgspec.json.encode(body)
    return b"TKEY\x01\0\0\0" + len(raw).to_bytes(4, "little") + raw


def decode(raw: bytes) -> Keyring:
    """Raises FormatError for damage and for parameters out of bounds."""
    if not _HEAD_SIZE + _SIGNATURE_SIZE < len(raw) <= MAX_KEYRING or raw[:4] != b"TKEY":
        raise FormatError("not a keyring")
    if raw[4] != 1:
        raise NewerFormat(f"a keyring of version {raw[4]}", "use a newer version of transfer")
    end = _HEAD_SIZE + int.from_bytes(raw[8:12], "little")
    if len(raw) != end + _SIGNATURE_SIZE or raw[5:8] != bytes(3):
        raise FormatError("a keyring is cut short")
    try:
        body = msgspec.json.decode(raw[_HEAD_SIZE:end], type=Body)
    except msgspec.MsgspecError as error:
        raise FormatError(f"a keyring does not parse: {error}") from error
    if body.needed:
        raise NewerFormat(f"a keyring needs {body.needed}", "use a newer version of transfer")
    _check_limits(body)
    return Keyring(body, raw[:end], raw[end:])


def _check_limits(body: Body) -> None:
    sizes_hold = len(body.domain) == 16 and len(body.public_key) == 32 and body.version >= 1
    epochs_hold = 1 <= len(body.epochs) <= 4096 and all(len(e.epoch) == 8 for e in body.epochs)
    wraps_hold = 1 <= len(body.wraps) <= MAX_WRAPS and all(
        MIN_MEMORY <= wrap.memory <= MAX_MEMORY
        and 1 <= wrap.passes <= MAX_PASSES
        and 1 <= wrap.lanes <= MAX_LANES
        and len(wrap.salt) == len(wrap.commitment) == 32
        for wrap in body.wraps
    )
    if not (sizes_hold and epochs_hold and wraps_hold):
        raise FormatError("a keyring beyond the limits")
