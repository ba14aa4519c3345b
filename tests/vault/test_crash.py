"""What opening a stored vault makes of what a crash, or a failing disk, has left."""

import errno
import os
import shutil

import pytest

from tests.suites.vault import (
    DATA,
    DOMAIN,
    GENERATION,
    OWNER,
    begun,
    has,
    id_of,
    made_frame,
    made_point,
    with_point,
)
from tests.vault.stored import flip, opened, packs_of, point_vault, records_of, sql
from transfer.errors import DamagedData, NoSpace, NotStored, PointMissing
from transfer.formats import pack, point
from transfer.vault.base import Outcome, fetched
from transfer.vault.open import open_vault, verify_vault


@pytest.fixture
def crash(path, tmp_path):
    """Copies the vault as the end of its process would leave it, and gives the copy's path."""

    def copy(name="crashed"):
        return shutil.copytree(path, tmp_path / name)

    return copy


async def test_what_was_acknowledged_survives_a_crash(path, crash):
    async with opened(path, create=True) as vault:
        references, frames = await with_point(vault)
        crashed = crash()
    async with opened(crashed) as again:
        session = await begun(again)
        assert await has(again, session, *references) == [True] * 4
        assert await fetched(again, session, references) == frames
        assert len(await again.points(DOMAIN)) == 1
    for one in packs_of(crashed):
        raw = one.read_bytes()
        assert pack.digest_holds(raw, pack.decode_trailer(raw))


@pytest.mark.parametrize("torn", [1, 60, 111])
async def test_a_torn_frame_is_cut_and_a_whole_one_without_row_is_kept(path, crash, torn):
    async with opened(path, create=True) as vault:
        await vault.store(await begun(vault), made_frame(1)[1])
        crashed = crash()
    (only,) = packs_of(crashed)
    with only.open("ab") as file:
        file.write(made_frame(2)[1] + made_frame(3)[1][:torn])
    async with opened(crashed) as again:
        session = await begun(again, None)
        known = await again.have(session, DATA, GENERATION, [id_of(n) for n in (1, 2, 3)])
        assert known == [True, True, False]
    assert (await verify_vault(crashed)).damaged == []


async def test_a_new_pack_that_no_row_names_is_adopted(path):
    async with opened(path, create=True) as vault:
        await begun(vault)
    header = pack.PackHeader(DOMAIN, pack.PackClass.DATA, b"p" * 16)
    place = path / "packs" / DOMAIN.hex() / "data" / "70" / ("70" * 16)
    place.parent.mkdir(parents=True)
    reference, raw = made_frame(1)
    place.write_bytes(pack.encode_header(header) + raw)
    (place.parent / ("70" * 15 + "71")).write_bytes(b"TPCK")  # cut while its header was written
    async with opened(path) as again:
        assert await fetched(again, await begun(again, None), [reference]) == [raw]
    assert packs_of(path) == [place]


async def test_nothing_is_taken_from_a_pack_under_another_ones_name(path):
    """Nor is the pack that its header names cut or closed for it."""
    references, frames = await point_vault(path)
    (data,) = packs_of(path, "data")
    before = data.read_bytes()
    other = data.parent / (data.name[:2] + "00" * 15)
    other.write_bytes(before[: pack.HEADER_SIZE] + made_frame(77)[1])
    foreign = path / "packs" / ("ab" * 16) / "data" / data.parent.name / data.name
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(before)
    misplaced = data.parent.with_name("00" if data.parent.name != "00" else "01") / ("ee" * 16)
    misplaced.parent.mkdir()
    header = pack.PackHeader(DOMAIN, pack.PackClass.DATA, b"\xee" * 16)
    misplaced.write_bytes(pack.encode_header(header) + made_frame(78)[1])
    async with opened(path) as vault:
        session = await begun(vault, None)
        assert await has(vault, session, made_frame(77)[0], made_frame(78)[0]) == [False, False]
        assert await fetched(vault, session, [made_frame(77)[0]]) == [None]
        stranger = (await vault.open_session(b"\xab" * 16, None)).number
        assert await fetched(vault, stranger, references[:1]) == [None]
        assert await fetched(vault, session, references) == frames
        assert await has(vault, session, *references) == [True] * 4
    assert data.read_bytes() == before


@pytest.mark.parametrize("how", ["missing", "short", "no pack any more"])
async def test_frames_of_a_lost_pack_are_missing_and_wanted(path, crash, how):
    async with opened(path, create=True) as vault:
        references, frames = await with_point(vault)
        crashed = crash() if how == "no pack any more" else path
    (lost,) = packs_of(crashed, "data")
    if how == "missing":
        lost.unlink()
    elif how == "short":
        os.truncate(lost, pack.HEADER_SIZE)
    else:
        flip(lost, 9)
    async with opened(crashed) as vault:
        session = await begun(vault)
        assert await has(vault, session, *references) == [False] * 4
        assert set(await vault.wanted(session)) == set(references[:2])
        assert await vault.store(session, b"".join(frames[:2])) == [Outcome.STORED] * 2
        assert await vault.wanted(session) == []


async def test_a_vault_without_any_of_its_packs_waits_for_their_disk(path):
    references, frames = await point_vault(path)
    (path / "packs").rename(path / "away")
    with pytest.raises(DamagedData, match="none of the packs") as caught:
        await open_vault(path)
    assert "mount" in caught.value.hint
    (path / "away").rename(path / "packs")
    async with opened(path) as vault:
        assert await fetched(vault, await begun(vault, None), references) == frames


async def test_an_open_pack_is_never_cut_below_what_was_promised(path, crash):
    """A bad sector may be read another day; bytes that were cut off never."""
    async with opened(path, create=True) as vault:
        references, frames = await with_point(vault)
        crashed = crash()
    (data,) = packs_of(crashed, "data")
    flip(data, -1)
    damaged = data.read_bytes()
    for _ in range(2):
        async with opened(crashed) as vault:
            session = await begun(vault, owner=OWNER)
            assert await has(vault, session, *references[:2]) == [True, False]
            assert await vault.wanted(session) == [references[1]]
        assert data.read_bytes() == damaged
    flip(data, -1)
    await verify_vault(crashed)
    async with opened(crashed) as vault:
        assert await has(vault, await begun(vault, None), *references[:2]) == [True, True]
        assert await fetched(vault, await begun(vault, None), references) == frames
    assert pack.decode_trailer(data.read_bytes()) is not None


async def test_a_sector_that_cannot_be_read_costs_its_frame_alone(path, crash, monkeypatch):
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        made = [made_frame(n, payload=b"%d" % n * 6000) for n in range(1, 5)]
        await vault.store(session, b"".join(raw for _, raw in made))
        crashed = crash()
    (data,) = packs_of(crashed)
    size, bad = data.stat().st_size, data.stat().st_size // 2
    real = os.pread

    def pread(descriptor, length, offset):
        if os.fstat(descriptor).st_size == size and offset <= bad < offset + length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, length, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", pread)
        async with opened(crashed) as vault:
            known = await has(vault, await begun(vault, None), *(one for one, _ in made))
            assert sorted(known) == [False, True, True, True]
    assert data.stat().st_size == size
    await verify_vault(crashed)
    async with opened(crashed) as vault:
        assert await has(vault, await begun(vault, None), *(one for one, _ in made)) == [True] * 4


async def test_a_point_record_without_row_is_adopted_at_the_next_opening(path):
    await point_vault(path)
    sql(path, "DELETE FROM points")
    async with opened(path) as vault:
        assert len(await vault.points(DOMAIN)) == 1


@pytest.mark.parametrize("left", ["record", "row"])
async def test_adopting_never_brings_back_a_deleted_point(path, left):
    await point_vault(path)
    async with opened(path) as vault:
        (stored,) = await vault.points(DOMAIN)
        await vault.delete_point(DOMAIN, point.decode(stored.record).point_id)
    (tombstone,) = records_of(path, "tombstones")
    if left == "record":
        sql(path, "DELETE FROM tombstones")
        tombstone.write_bytes(b"not even readable")
    else:
        tombstone.unlink()
    for _ in range(2):
        async with opened(path) as vault:
            assert await vault.points(DOMAIN) == []
            with pytest.raises(PointMissing):
                await vault.commit(await begun(vault, owner=OWNER), stored.record)


async def test_a_record_under_another_points_name_is_not_adopted(path):
    """Else the record of a deleted point would come back under a new name."""
    await point_vault(path)
    async with opened(path) as vault:
        (stored,) = await vault.points(DOMAIN)
        await vault.delete_point(DOMAIN, point.decode(stored.record).point_id)
    (record,) = records_of(path, "points")
    record.rename(record.with_name("77" * 32))
    async with opened(path) as vault:
        assert await vault.points(DOMAIN) == []


async def test_a_commit_that_was_cut_before_its_row_goes_on_with_its_record(path, monkeypatch):
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        with monkeypatch.context() as patched:
            patched.setattr("transfer.vault.adoption.enter_point", FailingDisk(None, errno.EIO, 1))
            with pytest.raises(OSError):
                await vault.commit(session, made_point(None))
        assert await vault.points(DOMAIN) == []
        (record,) = records_of(path, "points")
        before = record.read_bytes()
        stored = await vault.commit(session, made_point(None))
        assert (record.read_bytes(), stored.arrival_number) == (before, 1)
        other = await vault.open_session(DOMAIN, b"k" * 16)
        later = await vault.commit(other.number, made_point(None, name=2, item=b"k" * 16))
        assert later.arrival_number == 2


class FailingDisk:
    """Stands for an os function; fails its next *times* calls."""

    def __init__(self, real, code, times=0):
        self.real, self.code, self.times = real, code, times

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
    async with opened(path, create=True) as vault:
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
    assert (await verify_vault(path)).damaged == []


async def test_a_pack_in_which_nothing_became_durable_is_removed(path, monkeypatch):
    """Retries on a failing or full disk shall not fill it."""
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        disk = FailingDisk(os.fdatasync, errno.EIO, 3)
        monkeypatch.setattr(os, "fdatasync", disk)
        for _ in range(3):
            with pytest.raises(NotStored):
                await vault.store(session, made_frame(1)[1])
            assert packs_of(path) == []
        assert await vault.store(session, made_frame(1)[1]) == [Outcome.STORED]
    assert (await verify_vault(path)).damaged == []


async def test_packs_are_closed_when_full(path, monkeypatch):
    monkeypatch.setattr(pack, "FULL_PACK", 400)
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        for number in range(1, 9):
            await vault.store(session, made_frame(number)[1])
        assert len(packs_of(path)) > 1
        await vault.commit(session, made_point(None))
    assert (await verify_vault(path)).frames == 8


async def test_opening_looks_at_packs_some_at_a_time(path, monkeypatch):
    monkeypatch.setattr(pack, "FULL_PACK", 1)
    monkeypatch.setattr("transfer.vault.recovery._PACKS", 1)
    made = [made_frame(number) for number in range(1, 40)]
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        for _, raw in made:
            await vault.store(session, raw)
    places = packs_of(path)
    places[0].unlink()
    sql(path, f"DELETE FROM packs WHERE pack = x'{places[-1].name}'")
    async with opened(path) as vault:
        known = await has(vault, await begun(vault, None), *(one for one, _ in made))
        assert sorted(known) == [False] + [True] * 38
