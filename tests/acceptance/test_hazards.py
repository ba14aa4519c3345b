"""Ways in which a backup of this design could lose or mix data, each tried once from outside."""

import os
import random
from collections import Counter

import pytest

from tests.acceptance import trees
from tests.acceptance.agent import Machine, damage, frames_of
from tests.acceptance.compare import differences
from transfer.errors import UsageError
from transfer.formats.reference import Kind
from transfer.pipeline.sealing import Opener
from transfer.vault.open import verify_vault

pytestmark = pytest.mark.usefixtures("quick_keyrings")

BLOCK = 64 * 1024


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


async def opened_frames(machine, kind):
    """(child list, plaintext) of every frame of *kind* in the vault."""
    async with machine.open() as agent:
        opener = Opener(agent.opened.seal_keys())
    found = []
    for reference, places in frames_of(machine.vault).items():
        path, placed = places[0]
        if reference.kind is kind:
            raw = path.read_bytes()[placed.offset : placed.end]
            found.append(opener.open(raw)[1:])
    return found


async def test_content_that_looks_like_a_node_is_not_taken_for_it(machine, tmp_path):
    """Files that hold what the vault's nodes hold, as whoever knows the keys could make them."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "large").write_bytes(trees.noise("large", 600 * BLOCK))
    (top / "inline").mkdir()
    for number in range(100):  # pages without children, as data is
        (top / "inline" / f"{number}").write_bytes(b"%d" % number * 99)
    await machine.backup(top, block_size=BLOCK)
    kinds = (Kind.STREAM, Kind.PAGE)
    nodes = [node for kind in kinds for node in await opened_frames(machine, kind)]
    assert len(nodes) >= 5
    for number, (children, plain) in enumerate(nodes):
        size = len(children).to_bytes(4, "little")
        for how, content in enumerate((plain, children, children + plain, children + plain + size)):
            (top / f"{number}-{how}").mkdir()  # in one directory they would share blocks
            (top / f"{number}-{how}" / "file").write_bytes(content)
    made = await machine.backup(top, block_size=BLOCK)
    assert made.blocks_new >= 5
    ids = Counter(reference.id for reference in frames_of(machine.vault))
    assert max(ids.values()) == 1
    assert (await machine.restore(tmp_path / "back")).damaged == []
    assert differences(top, tmp_path / "back" / "top") == []


async def test_zeros_keep_the_length_of_their_place(machine, tmp_path):
    """All of them are null; nothing but the entry says how long each is."""
    lengths = [0, 1, 2048, 2049, BLOCK, 2**20 - 1, 2**20, 2**20 + 1, 300 << 20, (1 << 36) + 1]
    top = tmp_path / "top"
    top.mkdir()
    for turn in range(3):
        for number, length in enumerate(lengths):
            (top / str((number + turn) % len(lengths))).touch()
            os.truncate(top / str((number + turn) % len(lengths)), length)
        made = await machine.backup(top)
        assert made.blocks_new == 0
        back = tmp_path / f"back-{turn}"
        await machine.restore(back)
        assert differences(top, back / "top") == []


async def test_a_file_that_grows_and_shrinks_has_the_shape_of_its_length(machine, tmp_path):
    """Through every depth of its hash tree, each time compared with the tree before."""
    top, generator = tmp_path / "top", random.Random("depth")
    top.mkdir()
    content = trees.noise("depth", 520 * BLOCK)
    for turn in range(5):
        size = generator.choice([1, 3000, BLOCK, BLOCK + 1, 256, 257, 512, 513, 520])
        size = size * BLOCK if 255 < size < 600 else size
        (top / "file").write_bytes(content[:size])
        await machine.backup(top, block_size=BLOCK)
        await machine.restore(tmp_path / f"back-{turn}")
        assert differences(top, tmp_path / f"back-{turn}" / "top") == []


async def test_another_block_size_is_no_parent(machine, tmp_path):
    disk, top = tmp_path / "disk", tmp_path / "top"
    disk.write_bytes(trees.noise("disk", 5 << 20))
    top.mkdir()
    (top / "large").write_bytes(trees.noise("large", 9 << 20))
    for path, item in ((disk, "disk"), (top, "top")):
        await machine.backup(path, item=item)
    with pytest.raises(UsageError, match="blocks of 1048576"):
        await machine.backup(disk, item="disk", block_size=BLOCK)
    await machine.backup(disk, item="disk", block_size=BLOCK, full=True)
    await machine.backup(top, item="top", block_size=BLOCK)
    await machine.restore(tmp_path / "disk-back", item="disk")
    await machine.restore(tmp_path / "back", item="top")
    assert (tmp_path / "disk-back").read_bytes() == disk.read_bytes()
    assert differences(top, tmp_path / "back" / "top") == []


@pytest.mark.parametrize(
    "kind",
    [
        Kind.PAGE,
        Kind.DATA,
        pytest.param(Kind.INDEX, marks=pytest.mark.slow),
        pytest.param(Kind.STREAM, marks=pytest.mark.slow),
    ],
)
async def test_damage_costs_reading_and_never_a_wrong_point(machine, tmp_path, kind):
    """Nobody knows of it at first; once the vault was searched, the next backup heals it."""
    top = tmp_path / "top"
    trees.many_files(top / "many", 150)
    (top / "flat").mkdir()
    for number in range(900):
        (top / "flat" / f"{number}").write_bytes(b"%d" % number)
    trees.image(top / "large", 300 * BLOCK)
    await machine.backup(top, block_size=BLOCK)
    hurt = {ref: places for ref, places in frames_of(machine.vault).items() if ref.kind is kind}
    assert hurt
    for path, placed in (place for places in hurt.values() for place in places):
        damage(path, placed)
    (top / "new").write_bytes(b"a change")
    await machine.backup(top, block_size=BLOCK)
    result = await machine.restore(tmp_path / "back")
    found = differences(top, tmp_path / "back" / "top")
    assert {each.what for each in found} <= {"missing", "links"}
    assert bool(found) == bool(result.damaged)
    await verify_vault(machine.vault)
    for turn in range(2):
        (top / f"new-{turn}").write_bytes(b"a change")
        await machine.backup(top, block_size=BLOCK)
        result = await machine.restore(tmp_path / f"back-{turn}")
        assert (result.damaged, result.warnings) == ([], [])
        assert differences(top, tmp_path / f"back-{turn}" / "top") == []


async def test_several_paths_are_one_item_and_come_back_together(machine, tmp_path):
    """Trees and a disk: every root is a directory."""
    tops = [trees.many_files(tmp_path / name, 30) for name in ("one", "two")]
    disk = trees.image(tmp_path / "disk", 3 << 20)
    await machine.backup(*tops, disk)
    (tmp_path / "back").mkdir()
    await machine.restore(tmp_path / "back")
    for top in tops:
        assert differences(top, tmp_path / "back" / top.name) == []
    assert (tmp_path / "back" / "disk").read_bytes() == disk.read_bytes()


async def test_looking_at_a_tree_changes_nothing_that_is_stored(machine, tmp_path):
    """No access time, no run's own number, no order of reading is in an entry."""
    top = trees.many_files(tmp_path / "top", 60)
    trees.image(top / "large", 5 << 20)
    for number in range(5):
        os.link(top / "large", top / f"link-{number}")
    await machine.backup(top)
    for path in sorted(top.rglob("*"), reverse=True):
        if path.is_file():
            path.read_bytes()
    for workers in (0, 3):
        again = await machine.backup(top, full=True, workers=workers)
        assert (again.blocks_new, again.bytes_stored) == (0, 0)
