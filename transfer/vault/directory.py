"""The directory of a stored vault: its vault file, its lock, and what can be wrong with it.

vault              JSON: format, features, vault ID, incarnation, check
catalog.sqlite     see schema.py
lock               held while the vault is open for writing; names the process
scrub              how far the last verification came; see scrub.py
packs/             see objects.py
records/           see records.py
"""

import errno
import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from transfer.errors import (
    AccessError,
    DamagedData,
    FormatError,
    LockHeld,
    NoSpace,
    NotFound,
    TransferError,
    UsageError,
    VaultUnavailable,
)
from transfer.formats import documents
from transfer.formats.documents import Bytes16, Number
from transfer.formats.features import Features, refuse
from transfer.vault.durable import write_durably

FORMAT = "transfer vault 1"
CATALOG = "catalog.sqlite"
# What SQLite puts beside it; the journal only while a new one is not in WAL mode yet.
CATALOG_ENDS = ("", "-journal", "-wal", "-shm")
# The temporary name is a rebuild's.
CATALOGS = {f"{name}{end}" for name in (CATALOG, "new-" + CATALOG) for end in CATALOG_ENDS}
_MAX_VAULT_FILE = 64 * 1024


class VaultFile(msgspec.Struct, frozen=True):
    format: str
    vault: Bytes16
    incarnation: Number
    features: Features = Features()


class _Needs(msgspec.Struct, frozen=True):
    """Read first: a later version's file need not look like ours."""

    format: str
    features: Features = Features()
    check: int = 0


def write_vault_file(path: Path, content: VaultFile) -> None:
    _write(path, msgspec.json.decode(msgspec.json.encode(content)))


def next_incarnation(path: Path) -> int:
    """Begin one; fields that this version does not know are kept."""
    fields = msgspec.json.decode((path / "vault").read_bytes())
    fields["incarnation"] += 1
    _write(path, fields)
    return int(fields["incarnation"])


def _write(path: Path, fields: dict[str, Any]) -> None:
    whole = fields | {"check": _check(fields)}
    write_durably(path / "vault", msgspec.json.format(msgspec.json.encode(whole)) + b"\n")


def _check(fields: dict[str, Any]) -> int:
    """CRC-32 of all fields but the check itself, as compact JSON in order of their names."""
    rest = {name: value for name, value in fields.items() if name != "check"}
    return zlib.crc32(msgspec.json.encode(rest, order="deterministic"))


def read_vault_file(path: Path, writing: bool = True) -> VaultFile:
    """Raises NotFound for what is no vault, DamagedData, NewerFormat; OSError as it comes."""
    try:
        with (path / "vault").open("rb") as file:
            raw = file.read(_MAX_VAULT_FILE)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _no_vault(path) from error
    what = f"the vault file {path / 'vault'}"
    try:
        needs = documents.decode(raw, _Needs, what)
        refuse(str(path), [needs.format] if needs.format != FORMAT else [])
        needs.features.require(str(path), writing=writing)
        if needs.check != _check(msgspec.json.decode(raw)):
            raise FormatError(f"{what}: its check does not hold")
        return documents.decode(raw, VaultFile, what)
    except (FormatError, ValueError) as error:
        if not (path / CATALOG).exists() and not (path / "packs").exists():
            raise _no_vault(path) from error
        hint = (
            "put this one file back from any copy of the vault; it never changes but in a rebuild"
        )
        raise DamagedData(str(error), hint) from error


def _no_vault(path: Path) -> NotFound:
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        return NotFound(
            f"{path} {what}", "name a vault's directory, or make one: transfer vault init"
        )
    return NotFound(
        f"{path} is not a vault", "name a vault's directory, or an empty one to make one"
    )


def is_vacant(path: Path) -> bool:
    """Missing, empty, or what a crash while making a vault leaves."""
    if not path.exists():
        return True
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else {"not a directory"}
    return all(name in CATALOGS or name == "lock" or name.startswith(".vault.") for name in names)


def take_lock(path: Path) -> int:
    """A descriptor that holds the vault's exclusive lock until it is closed. Raises LockHeld."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        lock = os.open(path / "lock", flags, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UsageError(f"{path / 'lock'} is a symlink", "remove it; a lock is a file") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    except BlockingIOError as error:
        holder = os.pread(lock, 20, 0).strip().decode("ascii", "replace")
        os.close(lock)
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise LockHeld(f"{who} has the vault {path} open", "wait, or stop it") from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def release_lock(lock: int) -> None:
    os.ftruncate(lock, 0)  # the next holder is named by itself, or not at all
    os.close(lock)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the operating system refuses below *path*, as an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise _explanation(path, error) from error


def _explanation(path: Path, error: OSError) -> TransferError:
    where = error.filename if isinstance(error.filename, str) else path
    what = f"the vault {path}: {where}: {error.strerror}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return NoSpace(f"the disk is full: {what}", "make room, then run again")
        case errno.EACCES | errno.EPERM:
            return AccessError(what, "run as the user who owns the vault")
        case errno.EROFS:
            return VaultUnavailable(what, "mount the file system writable")
        case errno.ENOENT | errno.ENOTDIR | errno.EISDIR | errno.ENAMETOOLONG | errno.ELOOP:
            return NotFound(what, "name a vault's directory")
    return VaultUnavailable(what, "look at the vault's disk")
