"""What metadata takes, and what a command takes before its work begins: the design's budgets."""

import hashlib
import os
import resource
import statistics

import pytest

from tests.acceptance.agent import Machine, frames_of
from tests.acceptance.shell import Shell
from transfer.crypto import wrap
from transfer.formats.reference import Kind
from transfer.jobs import keyring as keyrings
from transfer.pipeline.sealing import TAG_SIZE

BLOCK = 64 * 1024
OF_A_BLOCK = 0.0004 * 2**20  # bytes: 0.04 % at 1 MiB, and a block of any size takes as many
OF_AN_ENTRY = 400
LEAF = 9 * 1024  # a node with 256 references
PAGE = 2 * 1024  # a node with a dozen entries, or with a few references
AROUND = 32 * 1024  # a point, a session, the ends of two packs, pages of the catalog
SECONDS = 3.0  # of CPU; the design has 1 s for an incremental, and machines differ


@pytest.fixture
def quick_keyrings(monkeypatch):
    """Passphrases cost as little as readers accept."""
    monkeypatch.setattr(wrap, "MEMORY", 19 * 1024)
    monkeypatch.setattr(wrap, "PASSES", 1)


def size_of(machine):
    """Of all that is in the vault: packs with their indexes, records, and the catalog."""
    return sum(one.stat().st_size for one in machine.vault.rglob("*") if one.is_file())


def content_of(machine):
    """What is sealed of content, without headers and tags."""
    return sum(
        placed.frame.header.payload_length - TAG_SIZE
        for reference, places in frames_of(machine.vault).items()
        for _, placed in places
        if reference.kind is Kind.DATA
    )


def disk(path, blocks):
    """No two blocks are alike, and all of them small when compressed."""
    path.touch()
    os.truncate(path, blocks * BLOCK)
    change(path, range(blocks))
    return path


def change(path, blocks):
    with path.open("r+b") as file:
        for number in blocks:
            file.seek(number * BLOCK)
            file.write(os.urandom(12))


def tree(top, width):
    """width ** 3 empty files, as many to a directory; their names do not compress."""
    name = [hashlib.sha256(b"%d" % number).hexdigest()[:40] for number in range(width)]
    for number in range(width**2):
        directory = top / name[number // width] / name[number % width]
        directory.mkdir(parents=True)
        for each in name:
            (directory / each).touch()
    return top


async def taken(top, make, count):
    """Bytes in the vault, beside content, once what *make* makes of *count* is backed up."""
    top.mkdir()
    machine = Machine(top)
    await machine.backup(make(top / "source", count), block_size=BLOCK)
    return size_of(machine) - content_of(machine)


async def test_a_block_takes_its_share_of_metadata(tmp_path, quick_keyrings):
    few, many = [await taken(tmp_path / f"{count}", disk, count) for count in (256, 768)]
    assert (many - few) / (768 - 256) <= OF_A_BLOCK


async def test_an_entry_takes_its_share_of_metadata(tmp_path, quick_keyrings):
    few, many = [await taken(tmp_path / f"{width}", tree, width) for width in (4, 10)]
    entries = (10 + 10**2 + 10**3) - (4 + 4**2 + 4**3)
    assert (many - few) / entries <= OF_AN_ENTRY


async def again(machine, source):
    """(bytes sent, bytes by which the vault grew) by one more backup."""
    before = size_of(machine)
    made = await machine.backup(source, block_size=BLOCK)
    return made.bytes_sent, size_of(machine) - before


@pytest.mark.parametrize("blocks", [200, 1000])
async def test_an_incremental_of_an_image_sends_the_nodes_above_what_changed(
    tmp_path, quick_keyrings, blocks
):
    machine, source = Machine(tmp_path), disk(tmp_path / "disk", blocks)
    await machine.backup(source, block_size=BLOCK)
    sent, grew = await again(machine, source)
    assert (sent, grew <= AROUND) == (0, True)
    for changed in ([77], range(0, blocks, 256)):
        change(source, changed)
        sent, grew = await again(machine, source)
        assert sent <= len(changed) * LEAF + 2 * PAGE
        assert grew <= sent + AROUND


@pytest.mark.parametrize("width", [3, 9])
async def test_an_incremental_of_a_tree_sends_the_directories_above_what_changed(
    tmp_path, quick_keyrings, width
):
    machine, source = Machine(tmp_path), tree(tmp_path / "tree", width)
    await machine.backup(source, block_size=BLOCK)
    (next(source.glob("*/*")) / "new").touch()
    sent, grew = await again(machine, source)
    assert sent <= 4 * PAGE  # the item's own, and those of three directories
    assert grew <= sent + AROUND


async def test_a_passphrase_is_derived_from_once(tmp_path, monkeypatch):
    """It costs a quarter of a second, by design; a second time would be for nothing."""
    derive, costs = wrap.wrap_keys, []

    def counted(secret, salt, *rest):
        costs.append(rest[:3])
        return derive(secret, salt, *rest)

    (tmp_path / "source").mkdir()
    machine = Machine(tmp_path)
    await machine.backup(tmp_path / "source")
    async with machine.open() as agent:  # from now on there is a wrap of another kind, and newer
        raw, _ = keyrings.with_recovery_key(agent.opened)
        await agent.vault.add_keyring(agent.domain, 2, raw)
    monkeypatch.setattr(wrap, "wrap_keys", counted)
    await machine.backup(tmp_path / "source")
    assert costs == [(64 * 1024, 3, 1)]


@pytest.mark.slow
def test_a_run_with_nothing_to_do_takes_little_time(tmp_path):
    """The whole command: its start, the passphrase, workers, a point that is durable."""
    shell, spent = Shell(tmp_path, forks=False), []
    (tmp_path / "source").mkdir()
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shell("backup", "item", tmp_path / "source")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(spent[1:]) <= SECONDS, spent
