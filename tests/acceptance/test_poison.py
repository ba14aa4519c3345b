"""Frames under right checksums that are not what their IDs say, stored before the true ones are.

Who has a machine's certificate can make them without a key, from headers that stand in the clear;
who has its keys as well can even make them open. The vault cannot tell; whoever reads can.
"""

import shutil

import pytest

from tests.acceptance import trees
from tests.acceptance.agent import Machine, frames_of
from tests.acceptance.compare import differences
from transfer.formats import frame
from transfer.formats.reference import REFERENCE_SIZE, Kind
from transfer.jobs import restore as restore_job
from transfer.jobs.progress import Progress
from transfer.pipeline.sealing import Sealer, frame_room
from transfer.vault.base import Outcome
from transfer.vault.open import open_vault, verify_vault

pytestmark = pytest.mark.usefixtures("quick_keyrings")

BLOCK = 64 * 1024


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def top(tmp_path):
    """A tree with frames of every kind."""
    top = tmp_path / "top"
    (top / "flat").mkdir(parents=True)
    for number in range(520):  # more than a page holds
        (top / "flat" / f"{number}").write_bytes(b"%d" % number)
    for number in range(5):
        (top / f"{number}").write_bytes(trees.noise(number, 5000))
    for number in range(8):  # who restores them asks for one block at the same time
        (top / f"directory {number}").mkdir()
        (top / f"directory {number}" / "same").write_bytes(trees.noise("same", 5000))
    (top / "large").write_bytes(trees.noise("large", 5 * BLOCK))
    return top


@pytest.fixture
def disk(tmp_path):
    """An image of more blocks than are fetched at a time."""
    disk = tmp_path / "disk"
    disk.write_bytes(trees.noise("disk", 80 * BLOCK))
    return disk


class Forger(Sealer):
    """Has the keys, and does not care whether what it seals is what it says."""

    def _check(self, sealed, expected, packed):
        pass


def garbage(raw, keys):
    """Another payload, for which no key is needed."""
    (header, children, payload), _ = frame.decode(raw)
    return frame.encode(header, children, bytes(byte ^ 1 for byte in payload))


def fewer(raw, keys):
    """The true payload without the last child, which a closure then does not miss."""
    (header, children, payload), _ = frame.decode(raw)
    if header.child_count == 1:
        return garbage(raw, keys)
    header = header._replace(child_count=header.child_count - 1)
    return frame.encode(header, children[:-REFERENCE_SIZE], bytes(payload))


def sealed(raw, keys):
    """Other content of that length, which opens."""
    header = frame.decode_header(raw)
    forger, plain = Forger(keys, "off"), trees.noise("forged", header.plain_length)
    out = memoryview(bytearray(frame_room(len(plain))))
    return bytes(out[: forger.seal_into(out, header.tag, header.id, plain)])


def stored(machine, kind):
    """Frames of this kind; of indexes one alone, for they may stand above each other."""
    found = [
        path.read_bytes()[placed.offset : placed.end]
        for reference, ((path, placed), *_) in frames_of(machine.vault).items()
        if reference.kind is kind
    ]
    return found[:1] if kind is Kind.INDEX else found


async def to_come(machine, source, kind):
    """The frames of this kind that a backup of *source* will make, as a twin has made them."""
    async with machine.open() as agent:
        keys = agent.opened.seal_keys()
    twin = Machine(machine.top / "twin")
    shutil.copytree(machine.state, twin.state)
    shutil.copytree(machine.vault, twin.vault)
    await twin.backup(source, block_size=BLOCK)
    found = stored(twin, kind)
    shutil.rmtree(twin.top)
    assert found
    return found, keys


async def store(machine, frames, report=False):
    """As a thief does who has a way into the vault; with *report* he calls bad what is there."""
    vault = await open_vault(machine.vault)
    (domain,) = await vault.domains()
    session = (await vault.open_session(domain, b"a thief's item !")).number
    if report:
        await vault.report_damaged(session, [frame.decode_header(raw).reference for raw in frames])
    assert set(await vault.store(session, b"".join(frames))) == {Outcome.STORED}
    await vault.end_session(session)
    await vault.close()


async def verified(machine, item="item"):
    async with machine.open() as agent:
        return (await restore_job.verify(agent, item, Progress(), workers=0)).damaged


def lacks_only(source, back):
    """Whether *back* lacks something, and all else is as it was."""
    found = {each.what for each in differences(source, back)} if back.exists() else {"missing"}
    return found == {"missing"}


FORGERIES = [  # with how many directories are above each other that must be seen one by one
    (Kind.DATA, garbage, 1),
    (Kind.DATA, sealed, 1),
    (Kind.STREAM, fewer, 1),
    (Kind.PAGE, sealed, 3),
    (Kind.INDEX, fewer, 1),
]


@pytest.mark.parametrize(("kind", "forged", "turns"), FORGERIES)
async def test_poison_gives_no_wrong_byte_and_the_backup_after_a_look_heals_it(
    machine, top, tmp_path, kind, forged, turns
):
    frames, keys = await to_come(machine, top, kind)
    await store(machine, [forged(raw, keys) for raw in frames])
    await machine.backup(top, block_size=BLOCK)
    assert (await verify_vault(machine.vault)).damaged == []  # nobody without a key can tell
    for turn in range(turns):
        back = tmp_path / f"back-{turn}"
        assert (await machine.restore(back)).damaged
        assert lacks_only(top, back / "top")
        await machine.backup(top, block_size=BLOCK)
    assert await verified(machine) == []
    result = await machine.restore(tmp_path / "again")
    assert (result.damaged, result.warnings) == ([], [])
    assert differences(top, tmp_path / "again" / "top") == []


def swollen(raw, keys):
    """As large as a frame can be, whatever the length of its block."""
    header = frame.decode_header(raw)._replace(plain_length=frame.MAX_PLAIN)
    header = header._replace(payload_length=frame.MAX_PLAIN + frame.MAX_EXPANSION)
    return frame.encode(header, b"", bytes(header.payload_length))


def of_size(frames, length):
    return [raw for raw in frames if frame.decode_header(raw).plain_length == length]


async def test_a_swollen_frame_takes_the_room_of_no_other(machine, top, tmp_path):
    frames, keys = await to_come(machine, top, Kind.DATA)
    await store(machine, [swollen(raw, keys) for raw in of_size(frames, BLOCK)[:3]])
    (top / "other").write_bytes(trees.noise("other", 12 * BLOCK))
    await machine.backup(top, block_size=BLOCK)
    assert len(await verified(machine)) == 3
    await machine.restore(tmp_path / "back")
    found = [(each.path, each.what) for each in differences(top, tmp_path / "back" / "top")]
    assert found == [(b"large", "missing")]


def blocks_of(path):
    raw = path.read_bytes()
    return [raw[at : at + BLOCK] for at in range(0, len(raw), BLOCK)]


async def test_poison_of_an_image_is_named_and_healed(machine, disk, tmp_path):
    frames, keys = await to_come(machine, disk, Kind.DATA)
    await store(machine, [sealed(raw, keys) for raw in frames[::9]])
    await machine.backup(disk, block_size=BLOCK)
    back = tmp_path / "back"
    assert len((await machine.restore(back)).damaged) == len(frames[::9])
    pairs = zip(blocks_of(disk), blocks_of(back), strict=True)
    assert [found for true, found in pairs if found != true] == [bytes(BLOCK)] * len(frames[::9])
    await machine.backup(disk, block_size=BLOCK)
    assert (await machine.restore(back, overwrite="changed")).damaged == []
    assert back.read_bytes() == disk.read_bytes()


async def test_true_blocks_of_an_image_are_found_behind_poison(machine, disk, tmp_path):
    await machine.backup(disk, block_size=BLOCK)
    await store(machine, [garbage(raw, None) for raw in stored(machine, Kind.DATA)], report=True)
    assert (await machine.restore(tmp_path / "back")).damaged == []
    assert (tmp_path / "back").read_bytes() == disk.read_bytes()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (Kind.DATA, "restore"),
        (Kind.DATA, "verify"),
        (Kind.STREAM, "restore"),
        (Kind.PAGE, "verify"),
    ],
)
async def test_true_frames_are_found_behind_poison_whoever_called_them_bad(
    machine, top, tmp_path, kind, how
):
    """A thief needs no key for either, and the source may be gone."""
    await machine.backup(top, block_size=BLOCK)
    true = stored(machine, kind)
    for _ in range(3):  # the same ones, too: which comes first is left to chance
        await store(machine, [garbage(raw, None) for raw in true], report=True)
    if how == "verify":
        assert await verified(machine) == []
    else:
        result = await machine.restore(tmp_path / "back")
        assert (result.damaged, result.warnings) == ([], [])
        assert differences(top, tmp_path / "back" / "top") == []
