"""A bit flips anywhere in a vault's files: it does no harm, or is told, and is healed if it can."""

import asyncio
import os
import random
import shutil

import pytest

from tests.acceptance.agent import Machine, closure, frames_of
from tests.acceptance.compare import differences
from transfer.errors import TransferError
from transfer.vault.open import rebuild_catalog, verify_vault

pytestmark = pytest.mark.usefixtures("quick_keyrings")

BLOCK = 65536


class Stock:
    """A vault with two points that share most of what they have, and what they restore to."""

    def __init__(self, top):
        self.top, self.tree = top, top / "tree"

    async def make(self):
        for number in range(4):
            (self.tree / f"d{number}").mkdir(parents=True)
            (self.tree / f"d{number}" / "file").write_bytes(os.urandom(5000))
        (self.tree / "large").write_bytes(os.urandom(5 * BLOCK))
        self.machine = Machine(self.top / "stock")
        self.machine.top.mkdir()
        self.ids = []
        for number in (1, 2):
            (self.tree / "new").write_bytes(os.urandom(3000 * number))
            self.ids.append((await self.machine.backup(self.tree, block_size=BLOCK)).point)
            shutil.copytree(self.tree, self.top / f"was-{number}")
        files = sorted(path for path in self.machine.vault.rglob("*") if path.is_file())
        self.files = [path.relative_to(self.machine.vault) for path in files if path.stat().st_size]
        frames = frames_of(self.machine.vault)
        newest = (await self.machine.points())[-1]
        self.at_source = closure(frames, newest.root)
        self.places = [
            (path.relative_to(self.machine.vault), placed.offset, placed.end, reference)
            for reference, copies in frames.items() for path, placed in copies
        ]  # fmt: skip
        self.sizes = [(self.machine.vault / path).stat().st_size for path in self.files]

    def copy(self, top):
        return Machine(shutil.copytree(self.machine.top, top))

    def flip(self, machine, choice):
        """Small files are as likely as large ones to be met: each has its secrets."""
        (path,) = choice.choices(self.files, [size**0.5 for size in self.sizes])
        raw = bytearray((machine.vault / path).read_bytes())
        bit = choice.randrange(8 * len(raw))
        raw[bit // 8] ^= 1 << bit % 8
        (machine.vault / path).write_bytes(raw)
        return path, bit

    def can_be_healed(self, path, bit):
        """Whether what was hit is no frame, or one that the newest point has too."""
        hit = {
            reference for where, start, end, reference in self.places
            if where == path and start <= bit // 8 < end
        }  # fmt: skip
        return hit <= self.at_source

    async def restores(self, machine, name, number, into):
        """True if it comes back exactly, False if something was told; else the test fails."""
        try:
            result = await machine.restore(into, item=name)
        except TransferError:
            return False
        finally:
            back = into / "tree"
        found = differences(self.top / f"was-{number}", back) if back.exists() else None
        shutil.rmtree(into, ignore_errors=True)
        if result.damaged or result.warnings:
            return False
        assert found == []
        return True


@pytest.fixture(scope="module")
def stock(tmp_path_factory, quick_keyrings):
    stock = Stock(tmp_path_factory.mktemp("flips"))
    asyncio.run(stock.make())
    return stock


SLOW = [pytest.mark.slow, pytest.mark.timeout(600)]
HOURS = [pytest.mark.hours, pytest.mark.timeout(600)]
SEEDS = [
    0, pytest.param(1, marks=SLOW), pytest.param(2, marks=HOURS),
    *(pytest.param(n, marks=HOURS) for n in range(3, 31)),
]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_flipped_bit_does_no_harm_or_is_told_and_healed(stock, memory, seed):
    choice = random.Random(f"flips {seed}")
    for number in range(12 if seed == 0 else 100):
        machine = stock.copy(memory / f"{number}")
        path, bit = stock.flip(machine, choice)
        latest = await stock.restores(machine, "item", 2, memory / "latest")
        await stock.restores(machine, f"item@{stock.ids[0]}", 1, memory / "older")
        if path.parts[0] == "packs":
            await heals(stock, machine, memory, (path, bit))
        elif path.name.startswith("catalog") and not latest:
            await rebuild_catalog(machine.vault)
            assert await stock.restores(machine, "item", 2, memory / "latest"), (path, bit)
        shutil.rmtree(machine.top)


async def heals(stock, machine, memory, where):
    await verify_vault(machine.vault)
    made = await machine.backup(stock.tree, block_size=BLOCK)
    assert made.warnings == [], where
    assert await stock.restores(machine, "item", 2, memory / "latest"), where
    second = await stock.restores(machine, f"item@{stock.ids[1]}", 2, memory / "second")
    assert second, where
    first = await stock.restores(machine, f"item@{stock.ids[0]}", 1, memory / "older")
    assert first == stock.can_be_healed(*where), where
