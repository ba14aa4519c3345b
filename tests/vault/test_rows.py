"""Whatever bit of the catalog flips: no answer is a wrong yes, and what can be made again is."""

import os
import random

import pytest

from tests.suites.vault import (
    DOMAIN,
    EPOCH,
    OTHER_ITEM,
    STORED,
    begun,
    has,
    made_frame,
    made_keyring,
    made_point,
    made_tree,
)
from tests.vault.stored import flip, opened, packs_of, point_vault, sql
from transfer.errors import (
    DamagedData,
    PointMissing,
    Refused,
    SessionEnded,
    TransferError,
    VaultUnavailable,
)
from transfer.formats import point
from transfer.vault import catalog, ledger, schema, sessions
from transfer.vault.base import fetched
from transfer.vault.open import open_vault, rebuild_catalog, verify_vault
from transfer.vault.schema import PointRow, PointState

FLIPS = 1000 if os.environ.get("TRANSFER_TESTS_ALL") else 80
REFERENCES, FRAMES = made_tree()
RECORD = made_point(REFERENCES[-1])


@pytest.mark.parametrize("change", ["length = length + 1", "stored_by = 9", "epoch = x'00'"])
async def test_a_frame_with_a_damaged_row_is_not_there_until_verify_enters_it(path, change):
    await point_vault(path)
    sql(path, f"UPDATE frames SET {change} WHERE tag = 16")
    async with opened(path) as vault:
        assert await has(vault, await begun(vault, None), *REFERENCES[:2]) == [False, False]
    report = await verify_vault(path)
    assert [one.reference for one in report.damaged] == REFERENCES[:2]
    assert (await verify_vault(path)).damaged == []
    async with opened(path) as vault:
        assert await has(vault, await begun(vault, None), *REFERENCES) == [True] * 4


async def test_a_flipped_complete_is_not_believed(path):
    async with opened(path, create=True) as vault:
        await vault.store(await begun(vault), FRAMES[0] + FRAMES[2] + FRAMES[3])
    sql(path, "UPDATE frames SET complete = 1")
    async with opened(path) as vault:
        session = await begun(vault, None)
        assert await has(vault, session, *REFERENCES) == [True, False, False, False]


@pytest.mark.parametrize("column", ["item", "arrival_number", "state", "since", "row_check"])
async def test_a_damaged_point_row_is_made_again_from_its_record(path, column):
    await point_vault(path)
    async with opened(path) as vault:
        (before,) = await vault.points(DOMAIN)
    sql(path, f"UPDATE points SET {column} = 2")
    async with opened(path) as vault:
        assert await vault.points(DOMAIN) == [before]


async def test_a_point_row_that_is_damaged_meanwhile_is_made_again_at_the_next_look(path):
    await point_vault(path)
    async with opened(path) as vault:
        (before,) = await vault.points(DOMAIN)
        sql(path, "UPDATE points SET arrival_number = 7")
        assert await vault.points(DOMAIN) == [before]
        assert await vault.commit(await begun(vault), before.record) == before


@pytest.mark.parametrize("state", [PointState.PENDING, PointState.TRASHED])
async def test_a_point_in_any_other_state_is_not_listed(path, state):
    await point_vault(path)
    async with opened(path) as vault:
        with vault._catalog.begin() as connection:
            (row,) = catalog.rows_of(connection, PointRow, schema.points, DOMAIN)
            catalog.put(connection, schema.points, [row._replace(state=state)])
        assert await vault.points(DOMAIN) == []
    async with opened(path) as vault:
        assert await vault.points(DOMAIN) == []


@pytest.mark.parametrize("column", ["item", "owner", "state", "last_seen", "number"])
async def test_a_session_whose_row_is_damaged_has_ended_and_holds_nothing(path, column):
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        sql(path, f"UPDATE sessions SET {column} = {session + 1}")
        for number in (session, session + 1):
            with pytest.raises(SessionEnded):
                await vault.heartbeat(number)
            with pytest.raises(SessionEnded):
                await vault.commit(number, made_point(None))
        await begun(vault)
        assert await vault.points(DOMAIN) == []


async def test_an_ended_session_does_not_rise_by_a_flip(path):
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        await vault.end_session(session)
        sql(path, "UPDATE sessions SET state = 1")
        with pytest.raises(SessionEnded):
            await vault.commit(session, made_point(None))


@pytest.mark.parametrize("column", ["domain", "length", "closed", "pack_class", "pack"])
async def test_a_damaged_pack_row_costs_one_more_look_at_the_pack(path, column):
    await point_vault(path)
    (data,) = packs_of(path, "data")
    sql(path, f"UPDATE packs SET {column} = x'01' WHERE pack = x'{data.name}'")
    async with opened(path) as vault:
        session = await begun(vault, None)
        assert await fetched(vault, session, REFERENCES) == FRAMES
        assert await has(vault, session, *REFERENCES) == [True] * 4
    assert (await verify_vault(path)).damaged == []


@pytest.mark.parametrize("table", ["keyrings", "epochs"])
async def test_damaged_rows_of_keyrings_come_again_from_the_records(path, table):
    await point_vault(path)
    sql(path, f"UPDATE {table} SET row_check = row_check + 1")
    async with opened(path) as vault:
        assert await vault.keyring(DOMAIN) == made_keyring()
        session = await begun(vault)
        assert await vault.store(session, made_frame(9, epoch=EPOCH)[1]) == [STORED]


async def test_no_keyring_takes_the_place_of_one_whose_row_is_damaged(path):
    """What was sealed with its keys would open no more."""
    async with opened(path, create=True) as vault:
        await vault.add_keyring(DOMAIN, 1, made_keyring())
        await vault.add_keyring(DOMAIN, 2, made_keyring(2, (EPOCH, b"epoch-02")))
        sql(path, "UPDATE keyrings SET row_check = row_check + 1 WHERE version = 2")
        with pytest.raises(Refused, match="another keyring version 2"):
            await vault.add_keyring(DOMAIN, 2, made_keyring(2, (EPOCH, b"another!")))
        await vault.add_keyring(DOMAIN, 2, made_keyring(2, (EPOCH, b"epoch-02")))
        assert await vault.keyring(DOMAIN) == made_keyring(2, (EPOCH, b"epoch-02"))


async def test_a_deleted_point_stays_deleted_without_its_tombstones_row(path):
    await point_vault(path)
    async with opened(path) as vault:
        (stored,) = await vault.points(DOMAIN)
        await vault.delete_point(DOMAIN, point.decode(stored.record).point_id)
        sql(path, "DELETE FROM tombstones")
        with pytest.raises(PointMissing):
            await vault.commit(await begun(vault), stored.record)


async def test_an_older_copy_of_the_catalog_gives_no_number_twice(path):
    await point_vault(path)
    older = (path / "catalog.sqlite").read_bytes()
    async with opened(path) as vault:
        for _ in range(9):
            session = await begun(vault, None)
        later = await vault.commit(await begun(vault), made_point(None, 2, 2))
    (path / "catalog.sqlite").write_bytes(older)
    async with opened(path) as vault:
        assert later in await vault.points(DOMAIN)
        new = await begun(vault)
        assert new > session
        assert (await vault.commit(new, made_point(None, 3, 3))).arrival_number == 3


@pytest.mark.parametrize("change", ["UPDATE counters SET value = 0", "DELETE FROM counters"])
async def test_a_damaged_counter_gives_no_number_twice(path, change):
    await point_vault(path)
    sql(path, change)
    async with opened(path) as vault:
        with pytest.raises(DamagedData) as caught:
            await begun(vault)
    assert f"transfer vault rebuild {path}" in caught.value.hint
    await rebuild_catalog(path)
    async with opened(path) as vault:
        await begun(vault)


@pytest.mark.parametrize(
    "change",
    [
        "PRAGMA user_version = 5",
        "PRAGMA application_id = 1",
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = replace(sql, 'tag', 'gat')",
    ],
)
async def test_another_schema_than_was_written_is_not_used(path, change):
    await point_vault(path)
    sql(path, *change.split("; "))
    with pytest.raises(DamagedData):
        await open_vault(path)
    assert (await rebuild_catalog(path)).points == 1


def disorder(path, table):
    """Exchange the first and the last entry of the table's page, as a flipped bit there can."""
    ((root,),) = sql(path, f"SELECT rootpage FROM sqlite_master WHERE name = '{table}'")
    ((size,),) = sql(path, "PRAGMA page_size")
    raw = bytearray((path / "catalog.sqlite").read_bytes())
    page = memoryview(raw)[(root - 1) * size : root * size]
    assert page[0] == 10  # a leaf, so the whole table
    first, last = 8, 8 + 2 * (int.from_bytes(page[3:5], "big") - 1)
    swapped = bytes(page[first : first + 2]), bytes(page[last : last + 2])
    page[last : last + 2], page[first : first + 2] = swapped
    (path / "catalog.sqlite").write_bytes(raw)


async def test_rows_out_of_order_are_taken_for_no_others(path):
    """SQLite gives such as nobody asked for, and does not find those that it was asked for."""
    await point_vault(path)
    disorder(path, "frames")
    async with opened(path) as vault:
        session = await begun(vault, None)
        for reference, frame in zip(REFERENCES, FRAMES, strict=True):
            assert await fetched(vault, session, [reference]) in ([frame], [None])
    assert (await rebuild_catalog(path)).points == 1
    async with opened(path) as vault:
        assert await fetched(vault, await begun(vault, None), REFERENCES) == FRAMES


async def answers_rightly(vault):
    """Every yes is true: what is there is whole, and what is complete is complete."""
    domains = await vault.domains()
    assert domains in ([], [DOMAIN])
    reader = (await vault.open_session(DOMAIN, None)).number
    raws = await fetched(vault, reader, REFERENCES)  # after this the vault knows what it lacks
    there = await has(vault, reader, *REFERENCES)
    for yes, raw, frame in zip(there, raws, FRAMES, strict=True):
        assert raw == frame or (raw is None and not yes)
    children = {2: (0, 1), 3: (2,)}
    assert all(there[child] for node in children if there[node] for child in children[node])
    assert [one.record for one in await vault.points(DOMAIN)] in ([], [RECORD])
    stored = await vault.points(DOMAIN)
    assert all(one.arrival_number == 1 for one in stored)


async def test_any_flipped_bit_of_the_catalog_is_harmless_or_reported(path):
    await point_vault(path)
    catalog_file = path / "catalog.sqlite"
    sound, draw, reported = catalog_file.read_bytes(), random.Random(1), 0
    used = [at for at, byte in enumerate(sound) if byte]
    for _ in range(FLIPS):
        catalog_file.write_bytes(sound)
        flip(catalog_file, draw.choice(used), 1 << draw.randrange(8))
        try:
            async with opened(path) as vault:
                await answers_rightly(vault)
        except TransferError as error:
            reported += 1
            if error.exit_code not in (65, 75):
                raise
    assert 0 < reported < FLIPS
    await rebuild_catalog(path)
    async with opened(path) as vault:
        assert [one.record for one in await vault.points(DOMAIN)] == [RECORD]
        assert await has(vault, await begun(vault, None), *REFERENCES) == [True] * 4


async def test_a_domain_has_so_many_sessions_and_others_have_theirs(path, clock, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_OPEN", 3)
    async with opened(path, create=True, clock=clock) as vault:
        numbers = [await begun(vault, None) for _ in range(3)]
        with pytest.raises(VaultUnavailable, match="3 sessions"):
            await begun(vault)
        await vault.open_session(b"d" * 16, None)
        await vault.end_session(numbers[0])
        await begun(vault)
        clock.days(8)
        await begun(vault, OTHER_ITEM)


async def test_points_are_listed_by_pages_whatever_row_is_damaged(path, monkeypatch):
    monkeypatch.setattr(ledger, "PAGE", 3)
    async with opened(path, create=True) as vault:
        for name in range(1, 9):
            await vault.commit(await begun(vault), made_point(None, number=name, name=name))
        all_of_them = await vault.points(DOMAIN)
        assert [one.arrival_number for one in all_of_them] == list(range(1, 9))
        assert await vault.points(DOMAIN, 2, 4) == all_of_them[2:6]
        assert await vault.points(DOMAIN, 8) == []
    for value in ("-5", "x'00'", "100"):
        sql(path, f"UPDATE points SET arrival_number = {value} WHERE arrival_number = 5")
        async with opened(path) as vault:
            assert await vault.points(DOMAIN) == all_of_them
