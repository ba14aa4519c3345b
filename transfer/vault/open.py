"""A directory as a vault: make, open, verify, rebuild.

vault              JSON: format, features, vault ID, incarnation
catalog.sqlite     see catalog.py
lock               held while the vault is open for writing
packs/<domain>/<data|metadata>/<xx>/<pack ID>
records/{points,keyrings,tombstones}/...
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from transfer.errors import DamagedData, LockHeld, NotFound
from transfer.formats.features import Features, refuse
from transfer.vault import maintenance
from transfer.vault.base import VaultInfo
from transfer.vault.catalog import Catalog
from transfer.vault.maintenance import Damage, RebuildReport, VerifyReport
from transfer.vault.objects import DirectoryObjects, make_directory, write_durably
from transfer.vault.recovery import recover
from transfer.vault.stored import StoredVault

__all__ = [
    "Damage",
    "RebuildReport",
    "VerifyReport",
    "open_vault",
    "rebuild_catalog",
    "verify_vault",
]

FORMAT = "transfer vault 1"
_CATALOG = ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm")


class VaultFile(msgspec.Struct, frozen=True):
    format: str
    vault: bytes
    incarnation: int
    features: Features = Features()


async def open_vault(
    path: Path, *, create: bool = False, beside: bool = False,
    clock: Callable[[], int] = time.time_ns,
) -> StoredVault:  # fmt: skip
    """Open the vault in *path* for writing, or make one of a missing or empty directory.

    *beside* takes no lock and repairs nothing: for looking into a vault that another process has
    open. Raises NotFound for any other directory, LockHeld, NewerFormat, DamagedData.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="vault")
    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(thread, _open, path, create, beside, thread, clock)
    except BaseException:
        thread.shutdown(wait=False)
        raise


def _open(
    path: Path, create: bool, beside: bool, thread: ThreadPoolExecutor, clock: Callable[[], int]
) -> StoredVault:
    if create and _is_vacant(path):
        _make(path)
    content = read_vault_file(path, writing=not beside)
    lock = None if beside else take_lock(path)
    try:
        catalog = _catalog_of(path)
        objects = DirectoryObjects(path)
        if lock is not None:
            recover(catalog, objects)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    info = VaultInfo(content.vault, content.incarnation)
    return StoredVault(info, catalog, objects, thread, lock, clock)


def _is_vacant(path: Path) -> bool:
    """Missing, empty, or what a crash while making a vault leaves."""
    if not path.exists():
        return True
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else {"not a directory"}
    return all(name in (*_CATALOG, "lock") or name.startswith(".vault.") for name in names)


def _make(path: Path) -> None:
    make_directory(path.absolute())
    path.chmod(0o700)
    lock = take_lock(path)
    try:
        if (path / "vault").exists():
            return  # another process was faster
        _new_catalog(path).close()
        # The vault file is last: it says that the rest is there.
        _write_vault_file(path, VaultFile(FORMAT, os.urandom(16), 1))
    finally:
        os.close(lock)


def _write_vault_file(path: Path, content: VaultFile) -> None:
    write_durably(path / "vault", msgspec.json.format(msgspec.json.encode(content)) + b"\n")


def read_vault_file(path: Path, writing: bool = True) -> VaultFile:
    """Raises NotFound for what is no vault, NewerFormat for features this version lacks."""
    try:
        raw = (path / "vault").read_bytes()
    except OSError as error:
        hint = "name the vault's directory, or an empty one to make a vault"
        raise NotFound(f"{path} is not a vault", hint) from error
    try:
        content = msgspec.json.decode(raw, type=VaultFile)
    except msgspec.MsgspecError as error:
        raise NotFound(f"{path / 'vault'} is not a vault's: {error}") from error
    refuse(str(path), [content.format] if content.format != FORMAT else [])
    content.features.require(str(path), writing=writing)
    return content


def take_lock(path: Path) -> int:
    """A descriptor that holds the vault's exclusive lock until it is closed."""
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise LockHeld(f"another process has the vault {path} open") from error
    return lock


def _catalog_of(path: Path) -> Catalog:
    if not (path / _CATALOG[0]).exists():
        hint = f"run: transfer vault rebuild {path}"
        raise DamagedData(f"the vault {path} has no catalog", hint)
    return Catalog(path / _CATALOG[0])


def _new_catalog(path: Path) -> Catalog:
    for name in _CATALOG:
        (path / name).unlink(missing_ok=True)
    os.close(os.open(path / _CATALOG[0], os.O_WRONLY | os.O_CREAT, 0o600))
    return Catalog(path / _CATALOG[0])


async def verify_vault(path: Path) -> VerifyReport:
    """Read all of the vault, mark what is damaged; works beside a running server."""
    return await asyncio.to_thread(_verify, path)


def _verify(path: Path) -> VerifyReport:
    read_vault_file(path)
    catalog = _catalog_of(path)
    try:
        return maintenance.verify(catalog, DirectoryObjects(path))
    finally:
        catalog.close()


async def rebuild_catalog(path: Path) -> RebuildReport:
    """Make the catalog anew from packs and records; starts a new incarnation.

    A tombstone wins; a point is taken only if everything below its root is there.
    """
    return await asyncio.to_thread(_rebuild, path)


def _rebuild(path: Path) -> RebuildReport:
    content = read_vault_file(path)
    lock = take_lock(path)
    try:
        incarnation = content.incarnation + 1
        # Before the catalog goes: a rebuild that is cut short must not pass for the old vault.
        _write_vault_file(path, msgspec.structs.replace(content, incarnation=incarnation))
        catalog = _new_catalog(path)
        try:
            return maintenance.fill(catalog, DirectoryObjects(path), incarnation)
        finally:
            catalog.close()
    finally:
        os.close(lock)
