"""Each call of a run goes wrong in each way once; the law holds whatever comes of it.

A run that says that it succeeded has. One that failed says so by an error of ours, and the next one
succeeds. Every point that is listed restores exactly.
"""

import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.compare import differences
from tests.faults.faulty import KINDS, Fault, FaultyVault
from transfer.errors import TransferError

pytestmark = pytest.mark.usefixtures("quick_keyrings")

BLOCK = 65536
LARGE = 4 * 2**20 + 1  # more than small files have


class FaultyMachine(Machine):
    """Its next run meets *fault*."""

    fault: Fault | None = None
    met: FaultyVault

    @asynccontextmanager
    async def opened(self):
        async with super().open() as agent:
            self.met = FaultyVault(agent.vault, self.fault)
            self.fault = None
            yield replace(agent, vault=self.met)

    def open(self):
        return self.opened()


@pytest.fixture
def source(tmp_path):
    """A tree that changed since it was backed up, with a large file and an image beside it."""
    top = tmp_path / "tree"
    for number in range(6):
        (top / f"d{number}").mkdir(parents=True)
        (top / f"d{number}" / "file").write_bytes(os.urandom(5000))
    (top / "large").write_bytes(os.urandom(LARGE))
    (tmp_path / "disk").write_bytes(os.urandom(300 * 4096))
    return top


def changed(top):
    for number in range(0, 6, 2):
        (top / f"d{number}" / "file").write_bytes(os.urandom(6000))
    with (top / "large").open("r+b") as file:
        file.seek(BLOCK)
        file.write(os.urandom(8 * BLOCK))
    (top.parent / "disk").write_bytes(os.urandom(400 * 4096))


class Place:
    """A vault with a point, and a source that has changed since: copied for each case.

    The source, beside which is the disk, stands elsewhere than all that is below *top*.
    """

    def __init__(self, top, source):
        self.top, self.paths = top, (source, source.with_name("disk"))

    async def make(self):
        await FaultyMachine(self.top / "first").backup(*self.paths, block_size=BLOCK)
        changed(self.paths[0])

    def copy(self, name):
        return FaultyMachine(shutil.copytree(self.top / "first", self.top / name))

    async def backup(self, machine):
        return await machine.backup(*self.paths, block_size=BLOCK)

    async def is_exact(self, machine, into):
        result = await machine.restore(into)
        assert (result.damaged, result.warnings) == ([], [])
        same = differences(self.paths[0], into / "tree") == []
        return same and (into / "disk").read_bytes() == self.paths[1].read_bytes()


@pytest.fixture
async def place(memory, source):
    (memory / "first").mkdir()
    place = Place(memory, source)
    await place.make()
    return place


# In each turn every call goes wrong in one of the ways; in all of them, in every way.
TURNS = [0, *(pytest.param(turn, marks=pytest.mark.slow) for turn in range(1, len(KINDS)))]


def kind_of(number, turn):
    return KINDS[(number + turn) % len(KINDS)]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.timeout(300)
async def test_a_backup_survives_a_fault_at_every_call(place, turn):
    clean = place.copy("clean")
    await place.backup(clean)
    calls = clean.met.calls
    assert {"open_session", "points", "have", "store", "commit", "end_session"} <= set(calls)
    for number in range(len(calls)):
        machine = place.copy("case")
        machine.fault = Fault(number, kind_of(number, turn))
        try:
            await place.backup(machine)
            succeeded = True
        except TransferError:
            succeeded = False
        assert machine.met.fired or number >= len(machine.met.calls)
        if succeeded:
            assert await place.is_exact(machine, place.top / "back")
            shutil.rmtree(place.top / "back")
        again = await place.backup(machine)
        assert again.warnings == []
        assert await place.is_exact(machine, place.top / "back")
        assert [each.number for each in await machine.points()] in ([1, 2], [1, 2, 3])
        shutil.rmtree(place.top / "back")
        shutil.rmtree(machine.top)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.timeout(300)
async def test_a_restore_survives_a_fault_at_every_call(place, turn):
    machine = place.copy("case")
    await place.backup(machine)
    await machine.restore(place.top / "clean")
    for number in range(len(machine.met.calls)):
        into, kind = place.top / f"back-{number}", kind_of(number, turn)
        machine.fault = Fault(number, kind)
        try:
            result = await machine.restore(into)
        except TransferError:
            result = None
        assert machine.met.fired or number >= len(machine.met.calls)
        if result is not None and not result.damaged:
            assert await place.is_exact(machine, place.top / "clean-again")
            assert differences(place.paths[0], into / "tree") == []
            shutil.rmtree(place.top / "clean-again")
        if kind in ("wrong", "swap"):
            # It reported what it could not open: the next backup brings it again.
            await place.backup(machine)
            await machine.restore(into, overwrite="changed")
        else:
            await machine.restore(into, overwrite="changed" if result is not None else "never")
        assert differences(place.paths[0], into / "tree") == []
        assert (into / "disk").read_bytes() == place.paths[1].read_bytes()
        shutil.rmtree(into)
