"""What a stored vault keeps after power cuts, damage and lost files."""

import errno
import os
import shutil
import sqlite3

import pytest
import sqlalchemy as sa

from tests.suites.vault import (
    DATA,
    DOMAIN,
    GENERATION,
    begun,
    has,
    id_of,
    made_frame,
    made_keyring,
    made_point,
    with_point,
)
from transfer.errors import DamagedData, LockHeld, NewerFormat, NoSpace, NotFound, NotStored
from transfer.formats import pack, point
from transfer.vault import frames as frame_store
from transfer.vault.base import Outcome
from transfer.vault.open import open_vault, rebuild_catalog, verify_vault


def packs_of(path):
    return sorted(one for one in (path / "packs").rglob("*") if one.is_file())


def data_packs(path):
    return [one for one in packs_of(path) if "data" in one.parts]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vault"


@pytest.fixture
def crash(path, tmp_path):
    """Copies the vault as a power cut would leave it, and gives the copy's path."""

    def copy(name="crashed"):
        return shutil.copytree(path, tmp_path / name)

    return copy


async def point_vault(path):
    vault = await open_vault(path, create=True)
    made = await with_point(vault)
    await vault.close()
    return made


async def test_what_was_acknowledged_survives_a_crash(path, crash):
    vault = await open_vault(path, create=True)
    references, frames = await with_point(vault)
    crashed = crash()
    await vault.close()
    again = await open_vault(crashed)
    session = await begun(again)
    assert await has(again, session, *references) == [True] * 4
    assert await again.fetch(session, references) == frames
    assert len(await again.points(DOMAIN)) == 1
    await again.close()
    for one in packs_of(crashed):
        raw = one.read_bytes()
        assert pack.digest_holds(raw, pack.decode_trailer(raw))


@pytest.mark.parametrize("torn", [1, 60, 111])
async def test_a_torn_frame_is_cut_and_a_whole_one_without_row_is_kept(path, crash, torn):
    vault = await open_vault(path, create=True)
    session = await begun(vault)
    await vault.store(session, made_frame(1)[1])
    crashed = crash()
    await vault.close()
    (only,) = packs_of(crashed)
    with only.open("ab") as file:
        file.write(made_frame(2)[1] + made_frame(3)[1][:torn])
    again = await open_vault(crashed)
    session = await begun(again, None)
    known = await again.have(session, DATA, GENERATION, [id_of(n) for n in (1, 2, 3)])
    assert known == [True, True, False]
    await again.close()
    assert (await verify_vault(crashed)).damaged == []


async def test_a_new_pack_that_no_row_names_is_adopted(path):
    vault = await open_vault(path, create=True)
    await begun(vault)
    await vault.close()
    header = pack.PackHeader(DOMAIN, pack.PackClass.DATA, b"p" * 16)
    place = path / "packs" / DOMAIN.hex() / "data" / "70" / ("70" * 16)
    place.parent.mkdir(parents=True)
    reference, raw = made_frame(1)
    place.write_bytes(pack.encode_header(header) + raw)
    (place.parent / ("71" * 16)).write_bytes(b"TPCK")  # cut while its header was written
    again = await open_vault(path)
    assert await again.fetch(await begun(again, None), [reference]) == [raw]
    await again.close()


@pytest.mark.parametrize("how", ["missing", "short"])
async def test_frames_of_a_lost_pack_are_missing_and_wanted(path, how):
    references, frames = await point_vault(path)
    (lost,) = data_packs(path)
    lost.unlink() if how == "missing" else os.truncate(lost, pack.HEADER_SIZE)
    vault = await open_vault(path)
    session = await begun(vault)
    assert await has(vault, session, *references) == [False] * 4
    assert set(await vault.wanted(session)) == set(references[:2])
    assert await vault.store(session, b"".join(frames[:2])) == [Outcome.STORED] * 2
    assert await vault.wanted(session) == []
    await vault.close()


async def test_a_deleted_catalog_is_rebuilt(path):
    references, frames = await point_vault(path)
    for one in path.glob("catalog.sqlite*"):
        one.unlink()
    with pytest.raises(DamagedData):
        await open_vault(path)
    report = await rebuild_catalog(path)
    assert (report.frames, report.points, report.points_left, report.incarnation) == (4, 1, 0, 2)
    vault = await open_vault(path)
    assert (await vault.info()).incarnation == 2
    assert len(await vault.points(DOMAIN)) == 1
    assert await vault.keyring(DOMAIN) == made_keyring()
    opened = await vault.open_session(DOMAIN, None)
    assert opened.number > 1  # the counter is above any seen
    assert await has(vault, opened.number, *references) == [True] * 4
    assert await vault.fetch(opened.number, references) == frames
    await vault.close()


async def test_a_rebuild_adopts_no_point_that_lacks_a_frame(path):
    await point_vault(path)
    data_packs(path)[0].unlink()
    report = await rebuild_catalog(path)
    assert (report.points, report.points_left) == (0, 1)


async def test_a_tombstone_outlives_a_rebuild(path):
    await point_vault(path)
    vault = await open_vault(path)
    (stored,) = await vault.points(DOMAIN)
    await vault.delete_point(DOMAIN, point.decode(stored.record).point_id)
    await vault.close()
    assert (await rebuild_catalog(path)).points == 0


async def test_a_point_record_without_row_is_adopted_at_the_next_opening(path):
    await point_vault(path)
    with sqlite3.connect(path / "catalog.sqlite") as connection:
        connection.execute("DELETE FROM points")
    connection.close()
    vault = await open_vault(path)
    assert len(await vault.points(DOMAIN)) == 1
    await vault.close()


async def test_a_row_whose_check_fails_is_never_a_yes(path):
    references, _ = await point_vault(path)
    with sqlite3.connect(path / "catalog.sqlite") as connection:
        connection.execute("UPDATE frames SET length = length + 1 WHERE tag = 16")
    connection.close()
    vault = await open_vault(path)
    session = await begun(vault)
    assert await has(vault, session, *references[:2]) == [False, False]
    await vault.close()
    await verify_vault(path)  # enters them again
    vault = await open_vault(path)
    assert await has(vault, await begun(vault, None), *references) == [True] * 4
    await vault.close()


async def test_verify_finds_a_flipped_bit_and_names_the_points_above(path):
    references, frames = await point_vault(path)
    sound = await verify_vault(path)
    assert sound == (4, sum(map(len, frames)), [], [])
    (hurt,) = data_packs(path)
    raw = bytearray(hurt.read_bytes())
    raw[pack.HEADER_SIZE + len(frames[0]) - 1] ^= 1
    hurt.write_bytes(raw)
    report = await verify_vault(path)
    assert report.frames == 3
    assert references[0] in [one.reference for one in report.damaged]
    assert len(report.points_affected) == 1
    vault = await open_vault(path)
    session = await begun(vault)
    assert await vault.wanted(session) == [references[0]]
    await vault.store(session, frames[0])
    assert await vault.wanted(session) == []
    await vault.close()
    assert (await verify_vault(path)).points_affected == []


async def test_fetch_never_gives_a_damaged_frame(path):
    references, frames = await point_vault(path)
    (hurt,) = data_packs(path)
    raw = bytearray(hurt.read_bytes())
    raw[pack.HEADER_SIZE + 130] ^= 1
    hurt.write_bytes(raw)
    vault = await open_vault(path)
    session = await begun(vault)
    assert await vault.fetch(session, references) == [None, *frames[1:]]
    assert await has(vault, session, *references) == [False, True, False, False]
    assert await vault.store(session, frames[0]) == [Outcome.STORED]
    assert await vault.fetch(session, references) == frames
    await vault.close()


class FailingDisk:
    """Stands for an os function; fails its next *times* calls."""

    def __init__(self, real, code):
        self.real, self.code, self.times = real, code, 0

    def __call__(self, *args):
        if self.times:
            self.times -= 1
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*args)


@pytest.mark.parametrize(
    ("function", "code", "error"),
    [("fdatasync", errno.EIO, NotStored), ("pwrite", errno.ENOSPC, NoSpace)],
)
async def test_a_failed_write_closes_the_pack_at_its_last_durable_frame(
    path, monkeypatch, function, code, error
):
    vault = await open_vault(path, create=True)
    session = await begun(vault)
    (first, one), (second, two) = made_frame(1), made_frame(2)
    await vault.store(session, one)
    disk = FailingDisk(getattr(os, function), code)
    monkeypatch.setattr(os, function, disk)
    disk.times = 1
    with pytest.raises(error):
        await vault.store(session, two)
    assert await has(vault, session, first, second) == [True, False]
    assert await vault.store(session, two) == [Outcome.STORED]
    assert len(packs_of(path)) == 2
    await vault.close()
    assert (await verify_vault(path)).damaged == []


async def test_a_failed_catalog_transaction_stores_nothing_and_leaves_no_row_without_frame(
    path, monkeypatch
):
    vault = await open_vault(path, create=True)
    session = await begun(vault)
    reference, raw = made_frame(1)

    def fail(*_):
        raise sa.exc.OperationalError("INSERT", {}, OSError("disk I/O error"))

    with monkeypatch.context() as broken:
        broken.setattr(frame_store, "put_rows", fail)
        with pytest.raises(NotStored):
            await vault.store(session, raw)
    assert await has(vault, session, reference) == [False]
    assert await vault.store(session, raw) == [Outcome.STORED]
    assert await vault.fetch(session, [reference]) == [raw]
    await vault.close()
    assert (await verify_vault(path)).frames == 2
    assert (await verify_vault(path)).damaged == []


async def test_a_vault_has_one_writer(path):
    vault = await open_vault(path, create=True)
    with pytest.raises(LockHeld):
        await open_vault(path)
    beside = await open_vault(path, beside=True)
    assert (await beside.statistics())["points"] == 0
    await beside.close()
    await vault.close()
    await vault.close()
    await (await open_vault(path)).close()


async def test_only_a_missing_or_empty_directory_becomes_a_vault(path, tmp_path):
    with pytest.raises(NotFound):
        await open_vault(path)
    path.mkdir()
    (path / "letter.txt").write_text("mine")
    with pytest.raises(NotFound):
        await open_vault(path, create=True)
    assert [one.name for one in path.iterdir()] == ["letter.txt"]
    vault = await open_vault(tmp_path / "new" / "vault", create=True)
    await vault.close()


async def test_a_vault_of_the_future_is_refused_by_name(path):
    await point_vault(path)
    content = (path / "vault").read_text()
    (path / "vault").write_text(content.replace('"read": []', '"read": ["telepathy"]'))
    with pytest.raises(NewerFormat, match="telepathy"):
        await open_vault(path)


async def test_only_the_owner_can_look_in(path):
    await point_vault(path)
    for one in [path, *path.rglob("*")]:
        assert one.stat().st_mode & 0o077 == 0, one


async def test_packs_are_closed_when_full(path, monkeypatch):
    monkeypatch.setattr(pack, "FULL_PACK", 400)
    vault = await open_vault(path, create=True)
    session = await begun(vault)
    for number in range(1, 9):
        await vault.store(session, made_frame(number)[1])
    assert len(packs_of(path)) > 1
    record = made_point(None)
    await vault.commit(session, record)
    await vault.close()
    assert (await verify_vault(path)).frames == 8
