"""The catalog can be made again from packs and records: all that was committed, and no more."""

import errno
import os
import sqlite3

import pytest

from tests.suites.vault import (
    DOMAIN,
    EPOCH,
    begun,
    has,
    made_frame,
    made_keyring,
    made_point,
    made_tree,
)
from tests.vault.stored import opened, packs_of, point_vault, records_of
from transfer.errors import DamagedData, NoSpace, PointMissing, SessionEnded, VaultUnavailable
from transfer.formats import point, record
from transfer.formats.record import PointRecord, RecordKind
from transfer.vault import records
from transfer.vault.base import fetched
from transfer.vault.open import open_vault, rebuild_catalog, verify_vault


def lose_catalog(path):
    for one in path.glob("catalog.sqlite*"):
        one.unlink()


async def test_a_deleted_catalog_is_rebuilt(path):
    references, frames = await point_vault(path)
    async with opened(path) as vault:
        await vault.add_keyring(DOMAIN, 2, made_keyring(2, (EPOCH, b"epoch-02")))
        before = await vault.points(DOMAIN)
        old = (await vault.open_session(DOMAIN, None)).number
    lose_catalog(path)
    with pytest.raises(DamagedData) as caught:
        await open_vault(path)
    assert caught.value.hint == f"run: transfer vault rebuild {path}"
    report = await rebuild_catalog(path)
    assert report == (4, 2, [], 1, [], 2)
    async with opened(path) as vault:
        assert (await vault.info()).incarnation == 2
        assert await vault.points(DOMAIN) == before
        assert await vault.keyring(DOMAIN) == made_keyring(2, (EPOCH, b"epoch-02"))
        assert await vault.keyring(DOMAIN, 1) == made_keyring()
        session = await begun(vault)
        assert session > old
        assert await has(vault, session, *references) == [True] * 4
        assert await fetched(vault, session, references) == frames
        await vault.store(session, made_frame(9, epoch=b"epoch-02")[1])
        later = await vault.commit(session, made_point(references[-1], 2, 2))
        assert later.arrival_number == 2
    assert (await verify_vault(path)).damaged == []


async def test_a_session_of_before_a_rebuild_is_never_taken_for_one_of_after(path):
    await point_vault(path)
    async with opened(path) as vault:
        old = [(await vault.open_session(DOMAIN, None)).number for _ in range(5)]
    lose_catalog(path)
    await rebuild_catalog(path)
    async with opened(path) as vault:
        new = await begun(vault)
        assert new not in old
        with pytest.raises(SessionEnded):
            await vault.heartbeat(old[0])


async def test_what_was_sent_and_not_committed_comes_back_as_frames_alone(path):
    references, frames = made_tree()
    async with opened(path, create=True) as vault:
        await vault.store(await begun(vault), b"".join(frames))
    lose_catalog(path)
    report = await rebuild_catalog(path)
    assert (report.frames, report.points, report.points_left) == (4, 0, [])
    async with opened(path) as vault:
        assert await vault.points(DOMAIN) == []
        assert await has(vault, await begun(vault, None), *references) == [True] * 4


async def test_a_point_that_lacks_a_frame_is_not_adopted_and_is_named(path):
    _, frames = await point_vault(path)
    packs_of(path, "data")[0].unlink()
    report = await rebuild_catalog(path)
    (name,) = records_of(path, "points")
    (left,) = report.points_left
    assert report.points == 0
    assert name.name in left and "missing" in left
    async with opened(path) as vault:
        assert await vault.points(DOMAIN) == []
        await vault.store(await begun(vault), b"".join(frames))
    async with opened(path) as vault:
        assert len(await vault.points(DOMAIN)) == 1  # what it lacked has come


@pytest.mark.parametrize("forged", ["signature", "keyring"])
async def test_what_the_domain_did_not_sign_is_not_adopted(path, forged):
    await point_vault(path)
    if forged == "signature":
        raw = made_point(None, 9, 9, signing_key=bytes(32))
        name = records.point_name(DOMAIN, point.decode(raw).point_id)
        content = record.encode_point(PointRecord(raw, 9, 9, 9))
    else:
        raw = made_keyring(2, (b"forged!!",), signing_key=bytes(32))
        name, content = records.keyring_name(DOMAIN, 2), record.encode(RecordKind.KEYRING, raw)
    (path / "records" / name).write_bytes(content)
    lose_catalog(path)
    report = await rebuild_catalog(path)
    assert report.points == 1
    assert len(report.points_left) == (forged == "signature")
    async with opened(path) as vault:
        assert await vault.keyring(DOMAIN) == made_keyring()
        assert len(await vault.points(DOMAIN)) == 1


async def test_a_tombstone_outlives_a_rebuild(path):
    await point_vault(path)
    async with opened(path) as vault:
        (stored,) = await vault.points(DOMAIN)
        await vault.delete_point(DOMAIN, point.decode(stored.record).point_id)
    lose_catalog(path)
    report = await rebuild_catalog(path)
    assert (report.points, report.points_left) == (0, [])
    async with opened(path) as vault:
        with pytest.raises(PointMissing):
            await vault.commit(await begun(vault), stored.record)


async def test_a_keyring_whose_first_version_is_lost_still_comes_back(path):
    await point_vault(path)
    async with opened(path) as vault:
        await vault.add_keyring(DOMAIN, 2, made_keyring(2))
    records_of(path, "keyrings")[0].unlink()
    report = await rebuild_catalog(path)
    assert report.points == 1
    async with opened(path) as vault:
        assert await vault.keyring(DOMAIN) == made_keyring(2)


async def test_files_that_are_no_packs_are_named(path):
    await point_vault(path)
    (data,) = packs_of(path, "data")
    data.with_name("letter.txt").write_text("mine")
    (data.parent / (data.name[:2] + "00" * 15)).write_bytes(data.read_bytes())
    report = await rebuild_catalog(path)
    assert report.packs == 2
    assert len(report.unreadable) == 2


async def test_a_rebuild_that_is_cut_short_leaves_the_old_catalog(path, monkeypatch):
    references, frames = await point_vault(path)

    def full(*_):
        raise NoSpace("no space")

    with monkeypatch.context() as patched:
        patched.setattr("transfer.vault.rebuild.adopt_records", full)
        with pytest.raises(NoSpace):
            await rebuild_catalog(path)
    async with opened(path) as vault:
        assert (await vault.info()).incarnation == 1
        assert await fetched(vault, await begun(vault, None), references) == frames
    assert (await rebuild_catalog(path)).points == 1
    assert not list(path.glob("new-*"))


async def test_a_log_of_the_old_catalog_is_not_taken_for_the_new_ones(path):
    await point_vault(path)
    with sqlite3.connect(path / "catalog.sqlite") as lingering:
        lingering.execute("UPDATE points SET arrival_number = 99, row_check = 0")
        log = (path / "catalog.sqlite-wal").read_bytes()
        lose_catalog(path)
        (path / "catalog.sqlite-wal").write_bytes(log)
    lingering.close()
    await rebuild_catalog(path)
    async with opened(path) as vault:
        (stored,) = await vault.points(DOMAIN)
        assert stored.arrival_number == 1


async def test_a_cut_exchange_of_catalogs_asks_for_another_rebuild(path, monkeypatch):
    await point_vault(path)
    real = os.rename

    def rename(old, new):
        if new.name == "catalog.sqlite":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        with pytest.raises(VaultUnavailable):
            await rebuild_catalog(path)
    with pytest.raises(DamagedData, match="no catalog"):
        await open_vault(path)
    assert (await rebuild_catalog(path)).incarnation == 3
    async with opened(path) as vault:
        assert len(await vault.points(DOMAIN)) == 1
