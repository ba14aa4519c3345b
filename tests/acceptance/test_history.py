"""Parent, mark and `latest` belong together, whatever happened to vault and state since."""

import asyncio
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from tests.acceptance import trees
from tests.acceptance.agent import Machine
from tests.acceptance.compare import differences
from transfer.errors import ItemBusy, LockHeld, SessionEnded, VaultRolledBack
from transfer.formats import record
from transfer.jobs import backup as backup_job
from transfer.jobs.progress import Progress
from transfer.pipeline import grouping
from transfer.vault.open import open_vault, rebuild_catalog

pytestmark = pytest.mark.usefixtures("quick_keyrings")

SETTLED = 2.1  # seconds after which a file's ctime proves something


@dataclass
class History:
    """Points of one source, whose `report` was first, other and third; the vault after each."""

    source: Path
    state: Path
    vaults: list[Path]
    points: list[str]

    def copied(self, top, after):
        """A machine that made them all, with the vault as it was after so many of them."""
        shutil.copytree(self.state, top / "state")
        shutil.copytree(self.vaults[after - 1], top / "vault")
        return Machine(top)


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    top = tmp_path_factory.mktemp("history")
    source, machine = made_source(top), Machine(top)
    made, vaults = [], []
    for content in (b"first", b"other", b"third"):
        edit(source / "report", content)
        time.sleep(SETTLED)
        made.append(asyncio.run(machine.backup(source)))
        vaults.append(shutil.copytree(machine.vault, top / f"vault-{len(made)}"))
    assert [each.parent for each in made] == [None, made[0].point, made[1].point]
    assert [each.blocks_new for each in made[1:]] == [0, 0]
    return History(source, machine.state, vaults, [each.point for each in made])


def made_source(top):
    source = trees.many_files(top / "source", 150)
    (source / "report").write_bytes(b"start")
    return source


@pytest.fixture
def source(tmp_path):
    return made_source(tmp_path)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


async def exact(machine, source, item="item"):
    """Whether the item's point is *source* as it is now."""
    back = machine.top / f"back-{os.urandom(4).hex()}"
    result = await machine.restore(back, item=item)
    return (result.damaged, result.warnings, differences(source, back / source.name)) == (
        [],
        [],
        [],
    )


def edit(path, content):
    """Same size and mtime as before, so that ctime alone tells."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def without(machine, how, points):
    """Points go behind the machine's back: by a tombstone, or only their records."""
    if how == "lost":
        for point in points:
            (path,) = (machine.vault / "records" / "points").rglob(point)
            path.unlink()
        return
    vault = await open_vault(machine.vault)
    (domain,) = await vault.domains()
    for point in points:
        await vault.delete_point(domain, bytes.fromhex(point))
    await vault.close()


@pytest.mark.parametrize("how", ["deleted", "lost", "older copy"])
async def test_after_points_vanished_the_next_one_holds_all_changes_since_its_parent(
    history, tmp_path, how
):
    """The source looks as it did to the vanished points, whose marks called it unchanged."""
    machine = history.copied(tmp_path, 1 if how == "older copy" else 3)
    if how != "older copy":
        await without(machine, how, history.points[1:])
    with pytest.raises(VaultRolledBack):
        await machine.restore(tmp_path / "refused")
    again = await machine.backup(history.source)
    assert again.parent == history.points[0]
    assert {each.code for each in again.warnings} == {"vault-rolled-back"}
    assert await exact(machine, history.source, f"item@{again.point}")


async def test_a_point_that_is_named_comes_back_from_a_vault_that_was_rolled_back(
    history, tmp_path
):
    machine = history.copied(tmp_path, 2)
    result = await machine.restore(tmp_path / "back", item=f"item@{history.points[1]}")
    assert (result.damaged, result.warnings) == ([], [])
    assert (tmp_path / "back" / "source" / "report").read_bytes() == b"other"


async def test_latest_is_the_highest_number_and_not_the_last_to_arrive(history, tmp_path):
    """The order of arrival is the vault's to say, and here it says the reverse."""
    machine = history.copied(tmp_path, 3)
    for path in (machine.vault / "records" / "points").rglob("?" * 64):
        found = record.decode_point(path.read_bytes())
        late = msgspec.structs.replace(found, arrival_number=10 - found.arrival_number)
        path.write_bytes(record.encode_point(late))
    for path in machine.vault.glob("catalog.sqlite*"):
        path.unlink()
    await rebuild_catalog(machine.vault)
    assert [each.number for each in await machine.points()] == [3, 2, 1]
    assert (await machine.restore(tmp_path / "back")).point == history.points[2]
    assert (await machine.backup(history.source)).parent == history.points[2]


async def test_an_unchanged_source_is_not_read_again(history, tmp_path):
    """Else the tests above would prove nothing: a run that reads everything cannot be wrong."""
    machine = history.copied(tmp_path, 3)
    again = await machine.backup(history.source)
    assert (again.bytes_read, again.parent) == (0, history.points[2])


async def test_read_in_full_an_unchanged_source_is_not_sent_again(machine, source, monkeypatch):
    """Also after points that hold files in other company than a first one would."""
    monkeypatch.setattr(grouping, "SETTLED", 0)
    await machine.backup(source)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for turn in range(3):
        for path in files[turn::29]:
            edit(path, os.urandom(path.stat().st_size))
        made = await machine.backup(source)
        assert made.bytes_read < made.bytes_source
    for path in files:
        path.touch()
    touched = await machine.backup(source)
    full = await machine.backup(source, full=True)
    assert (touched.blocks_new, full.blocks_new, full.nodes_new, full.bytes_sent) == (0, 0, 0, 0)
    assert full.bytes_read == full.bytes_source > 0
    assert await exact(machine, source)


async def test_a_state_directory_in_two_places_makes_one_chain(machine, source, tmp_path):
    made = [await machine.backup(source)]
    shutil.copytree(machine.state, tmp_path / "copied")
    twin = Machine(tmp_path, state="copied")
    for turn, each in enumerate([twin, machine, twin, machine]):
        edit(source / "report", b"turn%d" % turn)
        made.append(await each.backup(source))
        assert made[-1].warnings == []
        assert made[-1].parent == made[-2].point
        for reader in (machine, twin):
            assert await exact(reader, source)
    assert [each.number for each in await machine.points()] == [1, 2, 3, 4, 5]


class Paused:
    """A vault whose commits wait until they are let go."""

    def __init__(self, vault):
        self._vault = vault
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._vault, name)

    async def commit(self, session, point):
        self.reached.set()
        await self.go.wait()
        return await self._vault.commit(session, point)


async def test_of_two_overlapping_runs_the_second_ends_at_once(machine, source, tmp_path):
    options = backup_job.BackupOptions("item", [source], workers=0)
    async with machine.open() as agent:
        agent.vault = Paused(agent.vault)
        first = asyncio.create_task(backup_job.backup(agent, options, Progress()))
        await agent.vault.reached.wait()
        with pytest.raises(ItemBusy, match=str(os.getpid())):
            await backup_job.backup(agent, options, Progress())
        shutil.copytree(machine.state, tmp_path / "copied")
        for other in (machine, Machine(tmp_path, state="copied")):
            with pytest.raises(LockHeld):
                await other.backup(source)
        agent.vault.go.set()
        made = await first
    assert [each.point_id.hex() for each in await machine.points()] == [made.point]
    assert await exact(machine, source)


async def test_a_run_that_was_taken_over_commits_nothing(machine, source):
    """The older view must not become `latest` after the newer one."""
    options = backup_job.BackupOptions("item", [source], workers=0)
    await machine.backup(source)
    async with machine.open() as agent:
        near, agent.vault = agent.vault, Paused(agent.vault)
        first = asyncio.create_task(backup_job.backup(agent, options, Progress()))
        await agent.vault.reached.wait()
        item = agent.item_id("item")
        newer = await near.open_session(agent.domain, item, agent.machine.owner)
        agent.vault.go.set()
        with pytest.raises(SessionEnded):
            await first
        await near.end_session(newer.number)
        edit(source / "report", b"other")
        assert (await backup_job.backup(agent, options, Progress())).parent is not None
    assert [each.number for each in await machine.points()] == [1, 2]
    assert await exact(machine, source)
