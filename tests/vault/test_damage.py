"""Damage in a stored vault's files is found, named, marked, and healed by sending again."""

import shutil

import pytest

from tests.suites.vault import (
    DOMAIN,
    OWNER,
    PAGE,
    begun,
    has,
    made_frame,
    made_keyring,
    made_point,
    with_point,
)
from tests.vault.stored import flip, opened, packs_of, point_vault, records_of, sql
from transfer.errors import DamagedData
from transfer.formats import frame, pack, point
from transfer.vault import findings, schema
from transfer.vault.base import Outcome, fetched
from transfer.vault.catalog import put_frames
from transfer.vault.open import rebuild_catalog, verify_vault


@pytest.fixture
def old(monkeypatch):
    """Files need no age to count as old: no other process is about to enter them."""
    monkeypatch.setattr(findings, "_YOUNG", -1)


async def reasons(path):
    report = await verify_vault(path)
    return [(one.place.rpartition("/")[2], one.reason) for one in report.damaged]


async def test_a_sound_vault_has_no_findings(path, old):
    _, frames = await point_vault(path)
    assert await verify_vault(path) == (4, sum(map(len, frames)), [], [], 0, 1.0)


async def test_verify_finds_a_flipped_bit_and_names_the_points_above(path):
    references, frames = await point_vault(path)
    (hurt,) = packs_of(path, "data")
    flip(hurt, pack.HEADER_SIZE + len(frames[0]) - 1)
    report = await verify_vault(path)
    assert report.frames == 3
    assert references[0] in [one.reference for one in report.damaged]
    assert len(report.points_affected) == 1
    async with opened(path) as vault:
        session = await begun(vault)
        assert await vault.wanted(session) == [references[0]]
        await vault.store(session, frames[0])
        assert await vault.wanted(session) == []
    assert (await verify_vault(path)).points_affected == []


@pytest.mark.parametrize("seed", range(16))
async def test_a_flip_anywhere_in_a_pack_is_noticed(path, seed):
    await point_vault(path)
    (hurt,) = packs_of(path, ("data", "metadata")[seed % 2])
    size = hurt.stat().st_size
    flip(hurt, (seed * 104_729) % size, 1 << seed % 8)
    report = await verify_vault(path)
    assert report.damaged_total > 0


async def test_what_verify_marked_is_good_again_when_the_pack_is_back(path):
    references, _ = await point_vault(path)
    (hurt,) = packs_of(path, "data")
    flip(hurt, 200)
    assert (await verify_vault(path)).points_affected
    flip(hurt, 200)
    assert (await verify_vault(path)).damaged == []
    async with opened(path) as vault:
        session = await begun(vault)
        assert await vault.wanted(session) == []
        assert await has(vault, session, *references) == [True] * 4


async def test_fetch_never_gives_a_damaged_frame(path):
    references, frames = await point_vault(path)
    (hurt,) = packs_of(path, "data")
    flip(hurt, pack.HEADER_SIZE + 130)
    async with opened(path) as vault:
        session = await begun(vault)
        assert await fetched(vault, session, references) == [None, *frames[1:]]
        assert await has(vault, session, *references) == [False, True, False, False]
        assert await vault.store(session, frames[0]) == [Outcome.STORED]
        assert await fetched(vault, session, references) == frames


@pytest.mark.parametrize("met_by", ["fetch", "report", "wanted"])
async def test_who_met_damage_heals_with_it_what_nobody_has_met_yet(path, met_by):
    """A run that sends all again is not told that the other bad copies exist."""
    references, frames = await point_vault(path)
    (data,), (metadata,) = packs_of(path, "data"), packs_of(path, "metadata")
    flip(data, pack.HEADER_SIZE + 130)
    flip(metadata, pack.HEADER_SIZE + 200)
    async with opened(path) as vault:
        session = await begun(vault, owner=OWNER)
        assert await vault.store(session, frames[0]) == [Outcome.EXISTED]  # nobody has met it
        if met_by == "report":
            await vault.report_damaged(session, references[1:2])
        else:
            await fetched(vault, session, references[:1])
        if met_by == "wanted":
            session = await begun(vault, owner=OWNER)
            assert await vault.wanted(session)
        answers = await vault.store(session, b"".join(frames))
        bad = [True, met_by == "report", True, False]
        assert answers == [Outcome.STORED if one else Outcome.EXISTED for one in bad]
        await vault.commit(session, made_point(references[-1], 2, 2))
        assert await fetched(vault, await begun(vault, None), references) == frames


async def test_a_frame_that_has_another_good_copy_clears_nothing(path):
    references, _ = await point_vault(path)
    async with opened(path) as vault:
        session = await begun(vault)
        await vault.report_damaged(session, references[:1])
        await vault.store(session, made_frame(1, payload=b"the second copy!")[1])
        assert await vault.wanted(session) == []
    (first, _) = sorted(packs_of(path, "data"), key=lambda one: one.stat().st_mtime)
    flip(first, pack.HEADER_SIZE + 130)
    await verify_vault(path)
    async with opened(path) as vault:
        assert await has(vault, await begun(vault, None), *references) == [True] * 4


async def test_clearing_that_was_cut_short_is_made_up_before_the_next_answer(path, monkeypatch):
    references, _ = await point_vault(path)

    class Cut(BaseException):
        pass

    def cut(*_):
        raise Cut

    async with opened(path) as vault:
        session = await begun(vault, None)
        await vault.report_damaged(session, references[:1])
        with monkeypatch.context() as patched:
            patched.setattr("transfer.vault.damage._clear", cut)
            with pytest.raises(Cut):
                await has(vault, session, references[2])
    async with opened(path) as vault:
        session = await begun(vault, None)
        assert await has(vault, session, *references) == [False, True, False, False]


async def test_many_bad_frames_cost_one_look_at_the_nodes(path, monkeypatch):
    from transfer.vault import damage

    looks = []
    real = damage._above
    monkeypatch.setattr(damage, "_above", lambda *args: looks.append(1) or real(*args))
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        frames = [made_frame(number) for number in range(1, 21)]
        page = made_frame(99, PAGE, [one for one, _ in frames])
        await vault.store(session, b"".join(raw for _, raw in [*frames, page]))
        for reference, _ in frames:
            await vault.report_damaged(session, [reference])
        assert looks == []
        assert await has(vault, session, page[0]) == [False]
    assert looks == [1]


async def test_suspect_copies_are_suspect_after_a_rebuild_and_the_point_is_still_there(path):
    references, frames = await point_vault(path)
    async with opened(path) as vault:
        await vault.report_damaged(await begun(vault, None), references[:1])
    assert len(records_of(path, "damage")) == 1
    report = await rebuild_catalog(path)
    assert (report.points, report.points_left, report.frames) == (1, [], 3)
    async with opened(path) as vault:
        session = await begun(vault)
        assert await has(vault, session, *references) == [False, True, False, False]
        assert await vault.wanted(session) == references[:1]
        assert await fetched(vault, session, references[:1]) == frames[:1]
        await vault.store(session, made_frame(1, payload=b"sealed once more")[1])
        assert await vault.wanted(session) == []
    await rebuild_catalog(path)
    async with opened(path) as vault:
        assert await has(vault, await begun(vault, None), *references) == [True] * 4


async def test_a_point_above_a_pack_that_is_known_to_be_lost_survives_a_rebuild(path):
    references, _ = await point_vault(path)
    packs_of(path, "data")[0].unlink()
    async with opened(path) as vault:
        assert set(await vault.wanted(await begun(vault))) == set(references[:2])
    report = await rebuild_catalog(path)
    assert (report.points, report.points_left) == (1, [])
    async with opened(path) as vault:
        session = await begun(vault, None)
        assert await fetched(vault, session, references[:1]) == [None]
        assert await has(vault, session, *references) == [False] * 4


async def test_a_rebuild_knows_from_a_packs_index_what_was_damaged_in_it(path):
    references, frames = await point_vault(path)
    (hurt,) = packs_of(path, "data")
    flip(hurt, pack.HEADER_SIZE + 130)
    report = await rebuild_catalog(path)
    assert (report.frames, report.points, report.points_left) == (3, 1, [])
    async with opened(path) as vault:
        session = await begun(vault)
        assert await vault.wanted(session) == references[:1]
        assert await fetched(vault, session, references) == [None, *frames[1:]]


async def test_a_copy_that_reads_well_again_is_good_after_a_rebuild(path):
    references, _ = await point_vault(path)
    (hurt,) = packs_of(path, "data")
    flip(hurt, pack.HEADER_SIZE + 130)
    await verify_vault(path)
    flip(hurt, pack.HEADER_SIZE + 130)
    await rebuild_catalog(path)
    async with opened(path) as vault:
        assert await has(vault, await begun(vault, None), *references) == [True] * 4


async def test_verify_names_packs_that_were_swapped_moved_or_lost(path, old):
    references, frames = await point_vault(path)
    (data,), (metadata,) = packs_of(path, "data"), packs_of(path, "metadata")
    kept = data.read_bytes()
    data.write_bytes(metadata.read_bytes())
    assert (data.name, "not the pack that its name says") in await reasons(path)
    async with opened(path) as vault:
        session = await begun(vault, None)
        assert await fetched(vault, session, references) == [None, None, *frames[2:]]
    data.write_bytes(kept)
    foreign = path / "packs" / ("ab" * 16) / "data" / data.parent.name / data.name
    shutil.copytree(data.parent, foreign.parent)
    assert await reasons(path) == [(data.name, "not the pack that its name says")]
    foreign.unlink()
    stray = data.with_name("letter.txt")
    stray.write_text("mine")
    assert await reasons(path) == [("letter.txt", "no pack can have this name")]
    stray.unlink()
    data.unlink()
    assert (data.name, "the pack is missing") in await reasons(path)


async def test_verify_names_a_pack_that_the_catalog_does_not_know(path, old):
    await point_vault(path)
    (data,) = packs_of(path, "data")
    sql(path, f"DELETE FROM packs WHERE pack = x'{data.name}'")
    ((place, reason),) = await reasons(path)
    assert place == data.name and "does not know this pack" in reason
    async with opened(path):
        pass
    assert await reasons(path) == []


async def test_verify_names_frames_whose_pack_is_in_no_list_and_nowhere(path):
    references, _ = await point_vault(path)
    (data,) = packs_of(path, "data")
    sql(path, f"DELETE FROM packs WHERE pack = x'{data.name}'")
    data.unlink()
    ((place, reason),) = await reasons(path)
    assert place == data.name and "the pack is missing" in reason
    async with opened(path) as vault:
        session = await begun(vault)
        assert await has(vault, session, *references) == [False] * 4
        assert set(await vault.wanted(session)) == set(references[:2])


async def test_verify_names_records_that_are_damaged_forged_or_moved(path, old):
    await point_vault(path)
    async with opened(path) as vault:
        await vault.add_keyring(DOMAIN, 2, made_keyring(2))
        await vault.commit(await begun(vault), made_point(None, 2, 2))
        (first, second) = await vault.points(DOMAIN)
        await vault.delete_point(DOMAIN, point.decode(second.record).point_id)
    assert await reasons(path) == []
    dead = point.decode(second.record).point_id.hex()
    for kind, name in (("points", None), ("keyrings", "00000001"), ("tombstones", dead)):
        (record,) = [
            one for one in records_of(path, kind) if one.name == (name or one.name) != dead
            or (kind, one.name) == ("tombstones", dead)
        ]  # fmt: skip
        flip(record, -3)
        assert [place for place, _ in await reasons(path)] == [record.name], kind
        flip(record, -3)
    tombstone = path / "records/tombstones" / DOMAIN.hex() / dead
    shutil.copy(tombstone, tombstone.with_name("77" * 32))
    assert [place for place, _ in await reasons(path)] == ["77" * 32] * 2  # and it has no row
    tombstone.with_name("77" * 32).unlink()
    live = path / "records/points" / DOMAIN.hex() / point.decode(first.record).point_id.hex()
    shutil.copy(live.with_name(dead), live)
    report = await verify_vault(path)
    assert [one.reason.rpartition(": ")[2] for one in report.damaged] == ["it is another point's"]
    assert report.points_affected == [point.decode(first.record).point_id]


async def test_verify_names_missing_and_unknown_records(path, old):
    await point_vault(path)
    async with opened(path) as vault:
        await vault.add_keyring(DOMAIN, 2, made_keyring(2))
        (stored,) = await vault.points(DOMAIN)
    sql(path, "DELETE FROM points", "DELETE FROM keyrings WHERE version = 2")
    found = await reasons(path)
    lone = {point.decode(stored.record).point_id.hex(), "00000002"}
    assert {place for place, _ in found} == lone
    assert {reason for _, reason in found} == {"the catalog has no row for this record"}
    async with opened(path):
        pass
    for one in (*records_of(path, "points"), *records_of(path, "keyrings")):
        one.unlink()
    assert {place for place, _ in await reasons(path)} == lone | {"00000001"}
    async with opened(path) as vault:
        with pytest.raises(DamagedData, match="keyring version 2"):
            await vault.keyring(DOMAIN)


async def test_verify_names_a_node_that_is_wrongly_called_complete(path):
    references, _ = await point_vault(path)
    async with opened(path) as vault:
        session = await begun(vault)
        await vault.report_damaged(session, references[:1])
        await vault.wanted(session)
        with vault._catalog.begin() as connection:
            rows = connection.execute(schema.frames.select().where(schema.frames.c.tag > 31))
            nodes = list(schema.checked(schema.FrameRow, rows))
            put_frames(connection, [row._replace(complete=True) for row in nodes])
    report = await verify_vault(path)
    assert [one.reference for one in report.damaged] == [references[2]]
    assert len(report.points_affected) == 1
    async with opened(path) as vault:
        assert await has(vault, await begun(vault, None), *references[2:]) == [False, False]


async def test_verify_beside_an_open_vault_is_seen_by_it_at_once(path):
    async with opened(path, create=True) as vault:
        references, frames = await with_point(vault)
        session = await begun(vault, owner=OWNER)
        assert (await verify_vault(path)).damaged == []
        (hurt,) = packs_of(path, "data")
        flip(hurt, pack.HEADER_SIZE + frame.HEADER_SIZE)
        assert len((await verify_vault(path)).points_affected) == 1
        assert await has(vault, session, *references) == [False, True, False, False]
        assert await vault.wanted(session) == references[:1]
        await vault.store(session, frames[0])
        await vault.commit(session, made_point(references[-1], 2, 2))


async def test_findings_are_counted_and_not_all_kept(path, monkeypatch):
    monkeypatch.setattr(findings, "MAX_FINDINGS", 3)
    async with opened(path, create=True) as vault:
        made = [made_frame(number)[1] for number in range(1, 20)]
        await vault.store(await begun(vault), b"".join(made))
    packs_of(path)[0].unlink()
    report = await verify_vault(path)
    assert (len(report.damaged), report.damaged_total) == (3, 20)
