"""What ends a disk's history, and what must not be taken for one: copies, clocks, other vaults."""

import os
import random
import shutil
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.test_history import without
from tests.faults.faulty import Fault, FaultyVault
from tests.sources.benches import KINDS, bench_of
from tests.sources.disks import file_system
from tests.sources.test_qcow2 import Bench as Qcow2Bench
from tests.sources.test_reflinked import Bench as ReflinkBench
from transfer.errors import TransferError
from transfer.jobs.disks import Audits

pytestmark = pytest.mark.usefixtures("quick_keyrings")
MIB, HOUR = 2**20, 3600 * 10**9


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def bench(kind, tmp_path):
    with bench_of(kind, tmp_path) as bench:
        yield bench


@pytest.fixture
def clock(monkeypatch):
    """Sets it so many hours from the right time."""
    right = time.time_ns

    def is_set(hours):
        monkeypatch.setattr(time, "time_ns", lambda: right() + hours * HOUR)

    return is_set


async def backup(machine, name):
    return await machine.backup(name, block_size=65536, audits=Audits(share=0.0))


async def is_exact(machine, bench):
    into = machine.top / "back"
    result = await machine.restore(into)
    assert (result.damaged, result.warnings) == ([], [])
    content = into.read_bytes()
    into.unlink()
    return content == bench.content()


# Clocks


@pytest.mark.parametrize("kind", KINDS)
async def test_a_mark_of_the_future_is_believed_once_all_was_compared(machine, bench, clock):
    chosen = random.Random(1)
    clock(24 * 400)
    await backup(machine, bench.name)
    for hours, is_compared in ((0, True), (0, False), (-1, True), (0, False)):
        clock(hours)
        bench.write(chosen)
        why = "it is time to compare it all" if is_compared else ""
        assert (await backup(machine, bench.name)).disks[0].why == why
        assert await is_exact(machine, bench)
    assert len(bench.objects()) == 1


async def interrupted(machine, bench):
    """A run whose first frames the vault has, and that then lost it."""

    class Broken(Machine):
        @asynccontextmanager
        async def opened(self):
            async with super().open() as agent:
                yield replace(agent, vault=FaultyVault(agent.vault, Fault(1, "fail", "store")))

        def open(self):
            return self.opened()

    with pytest.raises(TransferError):
        await backup(Broken(machine.top), bench.name)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_clock_that_was_set_back_meanwhile_costs_no_change(machine, bench, clock):
    chosen = random.Random(2)
    await backup(machine, bench.name)
    for hours in (-1, -2, -3):
        bench.put(9 * MIB, os.urandom(2 * MIB))
        await interrupted(machine, bench)
        clock(hours)
        bench.write(chosen)
        await backup(machine, bench.name)  # of this moment, or of that of the view that was left
        await backup(machine, bench.name)
        assert await is_exact(machine, bench)
        assert len(bench.objects()) == 1


# Copies and replacements


@pytest.fixture
def places(kind, tmp_path):
    """Two directories in which a disk may be, and what makes one there and names it."""
    top = tmp_path / "disks"
    if kind == "qcow2":
        top.mkdir()
        yield made_places(top), Qcow2Bench, "qcow2:{}"
    else:
        with file_system(top, "xfs"):
            yield made_places(top), ReflinkBench, "{}"


def made_places(top):
    for name in ("one", "other"):
        (top / name).mkdir()
    return top / "one", top / "other"


def moved_to(path, bench):
    """The bench of what is at that *path* now."""
    there = object.__new__(type(bench))
    there.__dict__ = {**bench.__dict__, "path": path}
    return there


@pytest.mark.parametrize("kind", ["qcow2", "reflink"])
async def test_a_disk_and_its_copy_are_one_item_in_turns(machine, places, tmp_path):
    """The copy has the bitmaps as well, and records on its own."""
    (one, other), make, name = places
    chosen, bench = random.Random(3), make(one / "disk")
    await backup(machine, name.format(bench.path))
    shutil.copy(bench.path, other / "disk")
    copy = moved_to(other / "disk", bench)
    for turn, swaps in ((bench, False), (copy, False), (bench, True), (copy, True), (copy, False)):
        if swaps:
            shutil.move(bench.path, tmp_path / "third")
            shutil.move(copy.path, bench.path)
            shutil.move(tmp_path / "third", copy.path)
        for each in (bench, copy):
            each.write(chosen)
        await backup(machine, name.format(turn.path))
        assert await is_exact(machine, turn)
    bench.write(chosen)
    assert (await backup(machine, name.format(copy.path))).disks[0].why == ""


@pytest.mark.parametrize("kind", ["qcow2", "reflink"])
async def test_another_disk_of_that_name_and_size_is_in_the_next_point(machine, places):
    (one, other), make, name = places
    bench, another = make(one / "disk"), make(other / "disk")
    another.write(random.Random(4))
    await backup(machine, name.format(bench.path))
    os.replace(another.path, bench.path)
    await backup(machine, name.format(bench.path))
    assert await is_exact(machine, bench)


# Vaults


async def roll_back(machine, how, newest):
    if how == "deleted":
        await without(machine, how, [newest])
    else:
        put_in_place(machine, "before")


def put_in_place(machine, name):
    shutil.rmtree(machine.vault)
    shutil.copytree(machine.top / name, machine.vault)


@pytest.mark.parametrize("how", ["deleted", "older copy"])
@pytest.mark.parametrize("kind", KINDS)
async def test_after_the_newest_point_is_gone_the_next_one_is_the_disk(machine, bench, how):
    chosen = random.Random(5)
    first = await backup(machine, bench.name)
    shutil.copytree(machine.vault, machine.top / "before")
    bench.put(5 * MIB, os.urandom(MIB))  # what the first point does not have
    newest = await backup(machine, bench.name)
    await roll_back(machine, how, newest.point)
    bench.write(chosen)
    again = await backup(machine, bench.name)
    assert again.parent == first.point
    assert {each.code for each in again.warnings} <= {"vault-rolled-back"}
    assert again.disks[0].why != ""
    assert await is_exact(machine, bench)
    bench.write(chosen)
    assert (await backup(machine, bench.name)).disks[0].why == ""
    assert await is_exact(machine, bench)
    assert len(bench.objects()) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_vault_that_comes_back_after_another_one_took_its_place(machine, bench):
    """Both have a point of that number, of two moments and with two marks."""
    chosen = random.Random(6)
    await backup(machine, bench.name)
    shutil.copytree(machine.vault, machine.top / "before")
    bench.put(5 * MIB, os.urandom(MIB))
    await backup(machine, bench.name)
    shutil.copytree(machine.vault, machine.top / "after")
    put_in_place(machine, "before")
    bench.put(7 * MIB, os.urandom(MIB))
    await backup(machine, bench.name)
    put_in_place(machine, "after")
    bench.write(chosen)
    await backup(machine, bench.name)
    assert await is_exact(machine, bench)
