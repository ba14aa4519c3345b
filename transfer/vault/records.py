"""Records of a stored vault: their names, and reading one as what its name says that it is.

    keyrings/<domain>/<version>      points/<domain>/<point ID>
    damage/<domain>/<random>         tombstones/<domain>/<point ID>

What reads a record raises FormatError for one that is missing, damaged, forged, of a newer version,
or was moved to another one's name.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transfer.errors import FormatError, NewerFormat, Refused
from transfer.formats import point, record
from transfer.formats.keyring import Keyring
from transfer.formats.point import Point
from transfer.formats.record import Damage, PointRecord, RecordKind
from transfer.vault import checks
from transfer.vault.objects import DirectoryObjects


def keyring_name(domain: bytes, version: int) -> str:
    return f"keyrings/{domain.hex()}/{version:08}"


def point_name(domain: bytes, point_id: bytes) -> str:
    return f"points/{domain.hex()}/{point_id.hex()}"


def tombstone_name(domain: bytes, point_id: bytes) -> str:
    return f"tombstones/{domain.hex()}/{point_id.hex()}"


def domains(objects: DirectoryObjects, kind: str) -> list[bytes]:
    """Domains that have records of a kind."""
    return [id for name in objects.directories(kind) if (id := _last_part(name, 16))]


def ids(objects: DirectoryObjects, kind: str, domain: bytes) -> Iterator[bytes]:
    """The point IDs in the names of a domain's points or tombstones.

    A name is enough for a tombstone: one that cannot be read any more buries its point as well.
    """
    for name in objects.records(f"{kind}/{domain.hex()}"):
        if point_id := _last_part(name, 32):
            yield point_id


def versions(objects: DirectoryObjects, domain: bytes) -> list[int]:
    names = [name.rpartition("/")[2] for name in objects.records(f"keyrings/{domain.hex()}")]
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def _last_part(name: str, size: int) -> bytes | None:
    try:
        found = bytes.fromhex(name.rpartition("/")[2])
    except ValueError:
        return None
    return found if len(found) == size else None


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (FormatError, NewerFormat, Refused) as error:
        raise FormatError(f"record {name}: {error}") from error


def _read(objects: DirectoryObjects, name: str) -> bytes:
    raw = objects.read_record(name)
    if raw is None:
        raise FormatError("it is missing, or cannot be read")
    return raw


def load_keyring(objects: DirectoryObjects, domain: bytes, version: int) -> tuple[bytes, Keyring]:
    """As it was added, and decoded; the domain's key signed it."""
    with _named(name := keyring_name(domain, version)):
        raw = record.decode(_read(objects, name), RecordKind.KEYRING)
        return raw, checks.sound_keyring(raw, domain, version)


def load_point(
    objects: DirectoryObjects, domain: bytes, point_id: bytes, public_key: bytes | None = None
) -> tuple[PointRecord, Point]:
    """Signed by the domain, where its *public_key* is given."""
    with _named(name := point_name(domain, point_id)):
        stored = record.decode_point(_read(objects, name))
        decoded = point.decode(stored.point)
        if (decoded.domain, decoded.point_id) != (domain, point_id):
            raise FormatError("it is another point's")
        if public_key is not None and not checks.signature_holds(decoded, public_key):
            raise FormatError("the point's signature does not hold")
        return stored, decoded


def check_tombstone(objects: DirectoryObjects, domain: bytes, point_id: bytes) -> None:
    with _named(name := tombstone_name(domain, point_id)):
        found = record.decode_tombstone(_read(objects, name))
        if (found.domain, found.point_id) != (domain, point_id):
            raise FormatError("it is another point's")


def load_damage(objects: DirectoryObjects, name: str, domain: bytes) -> Damage:
    with _named(name):
        found = record.decode_damage(_read(objects, name))
        if found.domain != domain:
            raise FormatError("it is another domain's")
        return found


def public_key(objects: DirectoryObjects, domain: bytes) -> bytes | None:
    """The domain's, from any keyring of it that is sound."""
    for version in reversed(versions(objects, domain)):
        try:
            return load_keyring(objects, domain, version)[1].public_key
        except FormatError:
            continue
    return None
