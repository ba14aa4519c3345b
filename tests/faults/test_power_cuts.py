"""A power cut after any call of a vault's life, SQLite's included, and whatever it leaves of them.

Of what was not synced at that moment nothing is there, or all but one thing, or any of it.
"""

import asyncio
import base64
import pickle
import random
import shutil
import sys

import pytest

from tests.acceptance.needs import lacking
from tests.acceptance.shell import ROOT
from tests.faults.crash_images import cuts, durable, replay
from tests.faults.recording import Op, record
from tests.vault.test_power_cuts import keeps_its_word, told_nothing
from transfer.vault.open import open_vault, verify_vault


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """The vault before it, what was done, and what had been told after each call."""
    if shutil.which("strace") is None:
        lacking("strace is not installed")
    top = tmp_path_factory.mktemp("life")
    path = top / "vault"

    async def make():
        await (await open_vault(path, create=True)).close()

    asyncio.run(make())
    before = shutil.copytree(path, top / "before")
    ops = record(path, [sys.executable, "-m", "tests.faults.life", str(path)], ROOT)
    told, each = told_nothing(), []
    for op in ops:
        if op.kind == "told":
            told = pickle.loads(base64.b64decode(op.data))
        each.append(told)
    return before, ops, each


def test_the_recording_has_what_it_is_about(life, tmp_path):
    """All of it, played back, is the vault; some of it was synced, and SQLite's is in it."""
    before, ops, told = life
    kinds = {op.kind for op in ops}
    assert kinds >= {"create", "write", "truncate", "mkdir", "rename", "unlink", "sync", "told"}
    assert any("sqlite-wal" in op.path for op in ops)
    assert len(told[-1].frames) == 5
    replay(before, tmp_path / "again", ops, set(range(len(ops))))

    def files(top):
        found = {path.relative_to(top): path for path in top.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if "-shm" not in name.name}

    assert files(tmp_path / "again") == files(before.parent / "vault")
    assert durable([Op("create", "a/b", 1), Op("write", "a/b", 1), Op("sync", "a/b", 1)]) == {1}
    assert durable([Op("create", "a/b", 1), Op("sync", "a")]) == {0}
    assert durable([Op("write", "a", 1), Op("sync", "b", 2)]) == set()


async def check(life, image, end, chosen):
    before, ops, told = life
    replay(before, image, ops[:end], chosen)
    vault = await open_vault(image)
    try:
        await keeps_its_word(vault, told[end - 1] if end else told_nothing())
    finally:
        await vault.close()
    assert (await verify_vault(image)).damaged == [], end
    shutil.rmtree(image)


def some_of(life, part, parts):
    """Each once: what was done and not synced adds to the ends, and nothing to the images."""
    _, ops, told = life
    images = {}
    for end, chosen in cuts(ops, random.Random("cuts"), 1000):
        images.setdefault((frozenset(chosen), id(told[end - 1]) if end else None), (end, chosen))
    return list(images.values())[part::parts]


async def test_some_power_cuts_cost_nothing_that_was_told(life, memory):
    for end, chosen in some_of(life, 0, 25):
        await check(life, memory / "image", end, chosen)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(1, 4))
async def test_no_power_cut_costs_anything_that_was_told(life, memory, part):
    for end, chosen in some_of(life, part - 1, 3):
        await check(life, memory / "image", end, chosen)
