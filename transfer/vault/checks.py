"""What every vault checks before it believes a client."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from transfer.crypto import signing
from transfer.errors import FormatError, ItemBusy, Refused
from transfer.formats import frame, keyring, point
from transfer.formats.keyring import Keyring
from transfer.formats.point import Point
from transfer.formats.reference import Buffer, Kind, Reference
from transfer.vault.base import MAX_BODY, MAX_FRAMES, OWNER_SIZE

Epochs = frozenset[tuple[bytes, int]]  # epoch with its generation


class Arrived(NamedTuple):
    """A frame of a request; *sound* says that checksum and child list hold."""

    header: frame.Header
    references: tuple[Reference, ...]
    raw: memoryview
    sound: bool

    def acceptable(self, epochs: Epochs) -> bool:
        return self.sound and (self.header.epoch, self.header.generation) in epochs


def split(frames: Buffer) -> list[Arrived]:
    """Raises FormatError for a bad header, a frame cut short, or more than a request may hold."""
    view = memoryview(frames)
    if len(view) > MAX_BODY:
        raise FormatError(f"a request of {len(view)} bytes; at most {MAX_BODY} are taken")
    arrived: list[Arrived] = []
    for header, raw in frame.walk(view):
        if len(arrived) == MAX_FRAMES:
            raise FormatError(f"a request holds at most {MAX_FRAMES} frames")
        arrived.append(_check(header, raw))
    return arrived


def _check(header: frame.Header, raw: memoryview) -> Arrived:
    body = raw[frame.HEADER_SIZE :]
    storable = header.kind != Kind.POINT and header.may_be_copied
    sound = storable and frame.checksum_of(body) == header.checksum
    try:
        children = body[: header.children_size]
        references = frame.decode_children(header.tag, children) if sound else ()
    except FormatError:
        sound, references = False, ()
    return Arrived(header, references, raw, sound)


def intact(raw: bytes, reference: Reference) -> bool:
    """Whether *raw* is one whole frame, checksum right, of this reference."""
    try:
        found = frame.decode(raw)
    except FormatError:
        return False
    return found is not None and found[1] == len(raw) and found[0].header.reference == reference


def sound_keyring(raw: bytes, domain: bytes, version: int) -> Keyring:
    """The keyring, if the domain's own key signed it as *version*; else Refused or FormatError."""
    decoded = keyring.decode(raw)
    if (decoded.domain, decoded.version) != (domain, version):
        raise Refused("the keyring is another domain's, or another version")
    if signing.domain_id(decoded.public_key) != domain:
        raise Refused("the keyring's public key is not the domain's")
    if not signing.verify(decoded.public_key, decoded.signature, decoded.signed_part):
        raise Refused("the keyring's signature does not hold")
    return decoded


def new_keyring(raw: bytes, domain: bytes, version: int, newest: int) -> Keyring:
    """The keyring, if it may be stored as *version* after *newest* (0 for none); else Refused."""
    if version != newest + 1:
        raise Refused(
            f"keyring version {version} does not follow version {newest}",
            "another machine was faster; read the keyring again",
        )
    return sound_keyring(raw, domain, version)


def epochs_of(keyrings: Iterable[bytes]) -> Epochs:
    return frozenset(
        (epoch.epoch, epoch.generation) for raw in keyrings for epoch in keyring.decode(raw).epochs
    )


def owner(owner: bytes) -> bytes:
    if len(owner) not in (0, OWNER_SIZE):
        raise Refused(f"an owner of {len(owner)} bytes; it has {OWNER_SIZE}, or none")
    return owner


def may_replace(session: int, held_by: bytes, since: int, owner: bytes) -> None:
    """Raise ItemBusy unless *owner* is who opened the *session*, at *since* (ns)."""
    if not owner or owner != held_by:
        when = datetime.fromtimestamp(since // 10**9, UTC).isoformat()
        raise ItemBusy(
            f"session {session} has been writing this item since {when}",
            "wait until it ends; one that is silent for 7 days has ended",
        )


def signed_point(raw: bytes, domain: bytes, item: bytes, newest_keyring: bytes | None) -> Point:
    """The point, if the domain's key signed it for this item; else Refused."""
    decoded = point.decode(raw)
    if (decoded.domain, decoded.item) != (domain, item):
        raise Refused("the recovery point is of another item than the session")
    if newest_keyring is None:
        raise Refused("the domain has no keyring", "register the machine first")
    if not signature_holds(decoded, keyring.decode(newest_keyring).public_key):
        raise Refused("the recovery point's signature does not hold")
    return decoded


def signature_holds(decoded: Point, public_key: bytes) -> bool:
    return signing.verify(public_key, decoded.signature, decoded.signed_part)


def sealed_in(decoded: Point, epochs: Epochs) -> None:
    """Raise Refused unless a stored keyring names the epoch of the point's sealed part."""
    try:
        header = frame.decode_header(decoded.sealed)
    except FormatError:
        header = None
    if header is None or (header.epoch, header.generation) not in epochs:
        raise Refused("no keyring of this vault names the recovery point's epoch")
    newest = max(generation for _, generation in epochs)
    if decoded.generation != newest:
        # After a hard rotation whoever still has the old keys must not make the latest point.
        raise Refused(
            f"a recovery point of generation {decoded.generation}, and {newest} is the newest",
            "another machine has rotated the keys; run again",
        )
