"""A verification with a budget reads a part, remembers where it was, and goes on from there."""

import asyncio
import os

import pytest

from tests.suites.vault import begun, made_frame
from tests.vault.stored import flip, opened, packs_of, sql
from transfer.policy.token_bucket import SECOND
from transfer.vault import open_pack
from transfer.vault.open import verify_vault
from transfer.vault.scrub import Budget, Round

PACKS = 8


class Time:
    """It goes on by a second with each look at it, and by what is slept."""

    def __init__(self, step=1):
        self.now, self.step, self.slept = 0, step, 0.0

    def clock(self):
        self.now += self.step * SECOND
        return self.now

    def sleep(self, seconds):
        self.slept += seconds
        self.now += int(seconds * SECOND)

    def budget(self, seconds=None, rate=None):
        return Budget(seconds, rate, self.clock, self.sleep)


@pytest.fixture
async def packs(path, monkeypatch):
    """A vault with a frame in each of some packs; the packs in the order of their IDs."""
    monkeypatch.setattr(open_pack.pack, "FULL_PACK", 1)
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        for number in range(1, PACKS + 1):
            await vault.store(session, made_frame(number)[1])
    return sorted(packs_of(path), key=lambda each: each.name)


async def test_without_a_budget_everything_is_read_and_nothing_remembered(path, packs):
    report = await verify_vault(path)
    assert (report.frames, report.part, report.damaged) == (PACKS, 1.0, [])
    assert not (path / "scrub").exists()


async def test_some_packs_at_a_time_are_all_packs(path, packs):
    parts, frames = [], 0
    for _ in range(PACKS):
        report = await verify_vault(path, Time().budget(2))
        frames += report.frames
        parts.append(report.part)
        if report.part == 1:
            break
    assert frames == PACKS
    assert len(parts) > 3
    assert parts == sorted(set(parts))
    assert not (path / "scrub").exists()
    assert (await verify_vault(path, Time().budget(2))).part < 1  # the next round


async def test_damage_is_found_by_the_run_that_comes_to_it_and_by_no_other(path, packs):
    flip(packs[-1], 200)
    found = []
    while True:
        report = await verify_vault(path, Time().budget(2))
        found.append(len({each.place for each in report.damaged}))
        if report.part == 1:
            break
    assert found == [0] * (len(found) - 1) + [1]


async def test_a_pack_that_was_seen_and_is_gone_is_missed_by_the_next_round(path, packs):
    part = (await verify_vault(path, Time().budget(3))).part
    assert 0 < part < 1
    packs[0].unlink()
    rest = await verify_vault(path, Time().budget(1000))
    assert (rest.part, rest.damaged) == (1.0, [])
    (again, *_) = (await verify_vault(path, Time().budget(1000))).damaged
    assert again.place == packs[0].name


async def test_a_pack_that_is_missing_ahead_is_found(path, packs):
    await verify_vault(path, Time().budget(3))
    packs[-1].unlink()
    report = await verify_vault(path, Time().budget(1000))
    assert packs[-1].name in {each.place for each in report.damaged}


@pytest.mark.parametrize("torn", [b"", b"{}", b'{"after":"eA=="}', os.urandom(30)])
async def test_where_it_was_is_a_hint(path, packs, torn):
    (path / "scrub").write_bytes(torn)
    report = await verify_vault(path, Time().budget(1000))
    assert (report.frames, report.part) == (PACKS, 1.0)


async def test_the_whole_is_read_whatever_is_remembered(path, packs):
    await verify_vault(path, Time().budget(3))
    assert (await verify_vault(path)).frames == PACKS
    assert not (path / "scrub").exists()


async def test_a_rate_is_kept_to(path, packs):
    size = sum(pack.stat().st_size for pack in packs)
    time = Time(step=0)
    await verify_vault(path, time.budget(rate=size // 10))
    assert 10 <= time.slept < 25  # footers and headers are read as well


async def test_a_run_sees_a_pack_at_least(path, packs):
    """However little time there is: else it would never come to the end."""
    report = await verify_vault(path, Time(step=100).budget(1))
    assert report.frames == 1


async def test_one_that_is_interrupted_ends_after_the_pack_that_it_reads(path, packs):
    budget = Budget(3600, rate=1000)  # bytes a second: it would take minutes
    task = asyncio.create_task(verify_vault(path, budget))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await task
    assert (path / "scrub").exists()


async def test_a_pack_that_no_row_and_no_file_is_of_is_missed(path, packs):
    part = (await verify_vault(path, Time().budget(3))).part
    assert 0 < part < 1
    packs[0].unlink()
    sql(path, f"delete from packs where pack = x'{packs[0].name}'")
    report = await verify_vault(path, Time().budget(1000))
    assert packs[0].name in {each.place for each in report.damaged}


def test_a_round_begins_with_nothing_seen(tmp_path):
    round = Round(tmp_path, Budget(1))
    assert round.part == 0
    assert not round.is_seen(b"\0" * 16)
    round.saw(b"\x80" + bytes(15))
    assert round.part == 0.5
    round.stop()
    assert Round(tmp_path, Budget(1)).after == b"\x80" + bytes(15)
    assert Round(tmp_path, Budget()).after == b""
