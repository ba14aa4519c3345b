"""A full disk: NoSpace, what was acknowledged stays, and it goes on when there is room."""

import contextlib
import os
import resource
import subprocess

import pytest

from tests.suites.vault import OWNER, begun, has, made_frame, made_point
from tests.vault.stored import opened, packs_of, sql
from transfer.errors import NoSpace, NotStored, TransferError
from transfer.vault.base import Outcome, fetched
from transfer.vault.open import open_vault, verify_vault

SIZE = 3 * 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], capture_output=True
    )
    if mounted.returncode:
        if os.environ.get("TRANSFER_TESTS_ALL"):
            pytest.fail(f"mount: {mounted.stderr.decode()}")
        pytest.skip(f"mount: {mounted.stderr.decode()}")
    yield place
    subprocess.run(["umount", place], check=True)


def frames_of(first, count, size=60_000):
    return [made_frame(first + number, payload=os.urandom(size)) for number in range(count)]


async def filled(vault, session):
    """What was acknowledged, one by one, until the disk is full."""
    stored = {}
    for reference, raw in frames_of(1, 100):
        try:
            assert await vault.store(session, raw) == [Outcome.STORED]
        except NoSpace:
            return stored
        stored[reference] = raw
    raise AssertionError("the disk is too large")


async def test_a_full_file_system_loses_nothing_and_takes_more_when_there_is_room(small_disk):
    path, ballast = small_disk / "vault", small_disk / "ballast"
    ballast.write_bytes(bytes(2**20))
    async with opened(path, create=True) as vault:
        session = await begun(vault, owner=OWNER)
        stored = await filled(vault, session)
        assert len(stored) > 5
        with contextlib.suppress(TransferError):  # room for a small thing may still be there
            await vault.commit(session, made_point(None))
        assert await fetched(vault, session, list(stored)) == list(stored.values())
        ballast.unlink()
        more = frames_of(1000, 3)
        assert await vault.store(session, b"".join(raw for _, raw in more)) == [Outcome.STORED] * 3
        stored |= more
    async with opened(path) as vault:
        session = await begun(vault, owner=OWNER)
        assert await has(vault, session, *stored) == [True] * len(stored)
        assert await fetched(vault, session, list(stored)) == list(stored.values())
        await vault.commit(session, made_point(None))
    assert (await verify_vault(path)).damaged == []


async def test_a_vault_is_not_half_made_on_a_full_disk(small_disk):
    (small_disk / "ballast").write_bytes(bytes(SIZE - 16384))
    with pytest.raises((NoSpace, NotStored)):
        await open_vault(small_disk / "vault", create=True)
    (small_disk / "ballast").unlink()
    async with opened(small_disk / "vault", create=True) as vault:
        await begun(vault)


async def test_retries_on_a_full_disk_leave_no_empty_packs(small_disk):
    (small_disk / "ballast").write_bytes(bytes(2**20))
    async with opened(small_disk / "vault", create=True) as vault:
        session = await begun(vault)
        await filled(vault, session)
        count = len(packs_of(small_disk / "vault"))
        for _ in range(5):
            with pytest.raises(NoSpace):
                await vault.store(session, frames_of(5000, 1)[0][1])
        assert len(packs_of(small_disk / "vault")) == count


@contextlib.contextmanager
def file_size_limit(size):
    """Files of this process grow to *size* bytes and no further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_pack_that_may_not_grow_is_a_full_disk(path):
    """For those who may not mount: a limit on file sizes."""
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        (first, one), (second, two) = frames_of(1, 2, 400_000)
        await vault.store(session, one)
        with file_size_limit(600_000), pytest.raises(NoSpace):
            await vault.store(session, two)
        assert await has(vault, session, first, second) == [True, False]
        assert await vault.store(session, two) == [Outcome.STORED]
        assert await fetched(vault, session, [first, second]) == [one, two]
    assert (await verify_vault(path)).damaged == []


async def test_a_full_catalog_is_a_full_disk_and_no_row_lacks_its_frame(path):
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        made = frames_of(1, 200, 100)
        with vault._catalog.begin() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        with vault._catalog._engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(NoSpace, match="catalog"):
            await vault.store(session, b"".join(raw for _, raw in made))
        assert not any(await has(vault, session, *(one for one, _ in made)))
        with vault._catalog._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert await vault.store(session, made[0][1]) == [Outcome.STORED]
    async with opened(path) as vault:  # what had become durable is entered now
        known = await has(vault, await begun(vault, None), *(one for one, _ in made))
        assert known == [True] * 200
    assert (await verify_vault(path)).damaged == []


async def test_after_an_io_error_of_the_catalog_the_vault_takes_nothing_until_opened_again(path):
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        (first, one), (second, two) = frames_of(1, 2, 100)
        await vault.store(session, one)
        log = (path / "catalog.sqlite-wal").stat().st_size
        # Not a full disk for SQLite: a write that fails for another reason.
        with file_size_limit(log), pytest.raises(NotStored, match="catalog"):
            await vault.store(session, two)
        for call in (vault.store(session, two), vault.commit(session, made_point(None))):
            with pytest.raises(NotStored, match="failed"):
                await call
    async with opened(path) as vault:
        session = await begun(vault, None)
        assert await has(vault, session, first) == [True]
        assert await fetched(vault, session, [first]) == [one]
        assert await vault.store(session, two) in ([Outcome.STORED], [Outcome.EXISTED])
        assert await fetched(vault, session, [second]) == [two]
    assert (await verify_vault(path)).damaged == []
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
