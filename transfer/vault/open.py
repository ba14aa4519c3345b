"""A directory as a vault: make, open, verify, rebuild."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transfer.errors import DamagedData
from transfer.vault import rebuild, verification
from transfer.vault.base import VaultInfo
from transfer.vault.catalog import Catalog
from transfer.vault.directory import (
    CATALOG,
    CATALOG_ENDS,
    FORMAT,
    VaultFile,
    explained,
    is_vacant,
    next_incarnation,
    read_vault_file,
    release_lock,
    take_lock,
    write_vault_file,
)
from transfer.vault.durable import create as create_file
from transfer.vault.durable import make_directory, sync_directory
from transfer.vault.findings import Finding, VerifyReport
from transfer.vault.objects import DirectoryObjects
from transfer.vault.rebuild import RebuildReport
from transfer.vault.recovery import recover
from transfer.vault.scrub import Budget
from transfer.vault.stored import StoredVault
from transfer.waiting import or_undone, to_the_end

__all__ = [
    "Finding",
    "RebuildReport",
    "VerifyReport",
    "open_vault",
    "rebuild_catalog",
    "verify_vault",
]


async def open_vault(
    path: Path, *, create: bool = False, beside: bool = False,
    clock: Callable[[], int] = time.time_ns,
) -> StoredVault:  # fmt: skip
    """Open the vault in *path* for writing, or *create* one of a missing or empty directory.

    *beside* takes no lock, repairs nothing and stores nothing: for looking into a vault that
    another process has open. Raises NotFound for any other directory or none, LockHeld (which names
    the process), NewerFormat, DamagedData, AccessError where permission is lacking, NoSpace, and
    VaultUnavailable for a read-only or failing disk.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="vault")
    loop = asyncio.get_running_loop()
    try:
        opening = loop.run_in_executor(thread, _open, path, create, beside, thread, clock)
        return await or_undone(opening, StoredVault.close)
    except BaseException:
        thread.shutdown(wait=False)
        raise


def _open(
    path: Path, create: bool, beside: bool, thread: ThreadPoolExecutor, clock: Callable[[], int]
) -> StoredVault:
    with explained(path):
        if create and is_vacant(path):
            _make(path)
        content = read_vault_file(path, writing=not beside)
        lock = None if beside else take_lock(path)
        try:
            catalog = _catalog_of(path)
            try:
                objects = DirectoryObjects(path)
                if lock is not None:
                    recover(catalog, objects)
            except BaseException:
                catalog.close()
                raise
        except BaseException:
            if lock is not None:
                release_lock(lock)
            raise
    info = VaultInfo(content.vault, content.incarnation)
    return StoredVault(info, catalog, objects, thread, lock, clock)


def _make(path: Path) -> None:
    make_directory(path.absolute())
    path.chmod(0o700)
    lock = take_lock(path)
    try:
        if (path / "vault").exists():
            return  # another process was faster
        _new_catalog(path / CATALOG).close()
        # The vault file is last: it says that the rest is there.
        write_vault_file(path, VaultFile(FORMAT, os.urandom(16), 1))
    finally:
        release_lock(lock)


def _catalog_of(path: Path) -> Catalog:
    if not (path / CATALOG).exists():
        hint = f"run: transfer vault rebuild {path}"
        raise DamagedData(f"the vault {path} has no catalog", hint)
    return Catalog(path / CATALOG)


def _new_catalog(path: Path) -> Catalog:
    _remove_catalog(path)
    os.close(create_file(path))
    return Catalog(path, create=True)


def _remove_catalog(path: Path) -> None:
    # The main file first: what is left of a log would be taken for a new file's.
    for end in CATALOG_ENDS:
        path.with_name(path.name + end).unlink(missing_ok=True)


async def verify_vault(path: Path, budget: Budget | None = None) -> VerifyReport:
    """Read all of the vault, or what the *budget* is enough for, and mark what is damaged.

    Works beside a running server.
    """
    budget = budget or Budget()
    work = asyncio.create_task(asyncio.to_thread(_verify, path, budget))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        budget.stop()
        await to_the_end(asyncio.wait({work}))
        raise


def _verify(path: Path, budget: Budget) -> VerifyReport:
    with explained(path):
        read_vault_file(path)
        catalog = _catalog_of(path)
        try:
            return verification.verify(catalog, DirectoryObjects(path), budget)
        finally:
            catalog.close()


async def rebuild_catalog(path: Path) -> RebuildReport:
    """Make the catalog anew from packs and records; starts a new incarnation.

    A tombstone wins; a point is taken only if it is signed, and everything below its root is there
    or is known to have been. The old catalog stays until the new one is whole.
    """
    return await asyncio.to_thread(_rebuild, path)


def _rebuild(path: Path) -> RebuildReport:
    with explained(path):
        incarnation = read_vault_file(path).incarnation + 1
        lock = take_lock(path)
        try:
            new = path / f"new-{CATALOG}"
            catalog = _new_catalog(new)
            try:
                report = rebuild.fill(catalog, DirectoryObjects(path), incarnation)
            finally:
                catalog.close()
            # First of all: a vault whose numbers are new must never pass for the old one.
            next_incarnation(path)
            _remove_catalog(path / CATALOG)
            os.rename(new, path / CATALOG)
            sync_directory(path)
            return report
        finally:
            release_lock(lock)
