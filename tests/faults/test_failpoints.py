"""A run that ends at any named place leaves what the next one goes on with, and no half point."""

import filecmp
import itertools
import os
import shutil
import time

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.compare import differences
from tests.acceptance.forked import forked
from tests.acceptance.shell import PASSPHRASE
from tests.faults import failpoints
from tests.faults.failpoints import ACTIONS, BACKUP, RESTORE
from transfer.vault.open import verify_vault

pytestmark = pytest.mark.usefixtures("quick_keyrings")

BLOCK = 65536
LARGE = 4 * 2**20 + 1  # more than small files have
# Of a process that was killed; done; with warnings; damage; usage; internal; try again; no rights.
ENDS = {"kill": {-9, 0}, "enospc": {0, 3, 64, 70, 75}, "eio": {0, 3, 64, 65, 70, 75}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A vault with a point of a tree and an image, which have changed since."""
    top = tmp_path_factory.mktemp("failpoints")
    tree = top / "tree"
    for number in range(6):
        (tree / f"d{number}").mkdir(parents=True)
        (tree / f"d{number}" / "file").write_bytes(os.urandom(5000))
    (tree / "link").symlink_to("nowhere")
    (tree / "large").write_bytes(os.urandom(LARGE))
    (top / "disk").write_bytes(os.urandom(300 * 4096))
    (top / "passphrase").write_text(PASSPHRASE + "\n")
    return top


@pytest.fixture(scope="module")
def stocked(place, quick_keyrings):
    """The vault before the change, and the one with a point of it all."""

    async def make(name):
        machine = Machine(place / name)
        machine.top.mkdir(exist_ok=True)
        await machine.backup(place / "tree", place / "disk", block_size=BLOCK)

    import asyncio

    asyncio.run(make("first"))
    for number in range(0, 6, 2):
        (place / "tree" / f"d{number}" / "file").write_bytes(os.urandom(6000))
    with (place / "tree" / "large").open("r+b") as file:
        file.seek(BLOCK)
        file.write(os.urandom(8 * BLOCK))
    shutil.copytree(place / "first", place / "second")
    asyncio.run(make("second"))
    time.sleep(2.1)  # until a ctime proves something
    return place


@pytest.fixture
def machine(stocked, memory):
    def copy(name):
        return Machine(shutil.copytree(stocked / name, memory / "machine"))

    return copy


def cases(places):
    """Some in the default suite: every other place, and of the actions one after the other."""
    chosen, turns = [], itertools.cycle(ACTIONS)
    for number, place in enumerate(places):
        first = next(turns)
        for action in ACTIONS:
            by_default = action == first and number % 4 == 1
            marks = () if by_default else (pytest.mark.slow,)
            chosen.append(
                pytest.param(place.name, action, marks=marks, id=f"{place.name}-{action}")
            )
    return chosen


def run(machine, failpoint, *words):
    """The exit code; the failpoint must have been met."""
    marker = machine.top / "marker"
    agent = [
        "--vault", machine.vault, "--state", machine.state,
        "--passphrase-file", machine.top.parent / "passphrase", "--workers", "1", "--json",
    ]  # fmt: skip
    (machine.top.parent / "passphrase").write_text(PASSPHRASE + "\n")
    code, out, errors = forked(
        [str(word) for word in (*failpoint, marker, *words, *agent)], program=failpoints.main
    )
    assert marker.exists(), (code, out, errors)
    if code != 70:
        assert "Traceback" not in errors, errors
    return code, errors


async def is_exact(machine, place, into):
    result = await machine.restore(into)
    assert (result.damaged, result.warnings) == ([], [])
    return same(place, into)


def same(place, into):
    trees = differences(place / "tree", into / "tree")
    return trees == [] and filecmp.cmp(place / "disk", into / "disk", shallow=False)


async def backup_after(machine, place, code):
    if code == 0:
        assert await is_exact(machine, place, machine.top / "made")
    points = len(await machine.points())
    assert points in (1, 2)
    again = await machine.backup(place / "tree", place / "disk", block_size=BLOCK)
    assert again.warnings == []
    assert await is_exact(machine, place, machine.top / "back")
    # A point whose record was written has all that it needs, and is there after the next opening.
    numbers = [each.number for each in await machine.points()]
    assert numbers in ([1, 2], [1, 2, 3])
    assert len(numbers) > points
    assert (await verify_vault(machine.vault)).damaged == []


@pytest.mark.parametrize(("name", "action"), cases(BACKUP))
async def test_a_backup_that_fails_there_is_followed_by_one_that_does_not(
    machine, stocked, name, action
):
    here = machine("first")
    words = ("backup", "item", stocked / "tree", stocked / "disk", "--block-size", "64K")
    code, errors = run(here, (name, action, 1), *words)
    assert code in ENDS[action], errors
    await backup_after(here, stocked, code)


@pytest.mark.parametrize("number", [1, 2, 3, pytest.param(4, marks=pytest.mark.slow)])
async def test_a_short_write_is_gone_on_with(machine, stocked, number):
    here = machine("first")
    words = ("backup", "item", stocked / "tree", stocked / "disk", "--block-size", "64K")
    code, _ = run(here, ("short-write", "short", number), *words)
    assert code in (0, 75)
    await backup_after(here, stocked, code)


@pytest.mark.parametrize(("name", "action"), cases(RESTORE))
async def test_a_restore_that_fails_there_is_gone_on_with(machine, stocked, tmp_path, name, action):
    here, into = machine("second"), tmp_path / "back"
    code, errors = run(here, (name, action, 1), "restore", "item", "--to", into)
    assert code in ENDS[action], errors
    if code == 0:
        assert same(stocked, into)
    # Without a mark it was whole, or ended by itself and told what it had left out.
    unfinished = list((here.state / "restores").glob("*")) != []
    overwrite = "never" if unfinished else "changed"
    result = await here.restore(into, overwrite=overwrite)
    left = [each for each in result.warnings if each.code != "exists"]
    assert left == []
    assert same(stocked, into)
    assert list(into.rglob(".transfer-*")) == []


@pytest.mark.parametrize("action", ["enospc", "eio"])
@pytest.mark.parametrize("role", ["worker", "client"])
async def test_what_could_not_get_its_name_is_not_fetched_again(tmp_path, role, action):
    """A large file of a tree gets it from a worker, and an image from the client."""
    here, source, into = Machine(tmp_path / "machine"), tmp_path / "source", tmp_path / "into"
    for path in (here.top, into):
        path.mkdir()
    large = source / "large" if role == "worker" else source
    large.parent.mkdir(exist_ok=True)
    large.write_bytes(os.urandom(LARGE - 1) + b"!")  # a block of zeros alone counts for nothing
    await here.backup(source)
    words = ("restore", "item", "--to", into)
    code, errors = run(here, (f"before-rename_new-{role}", action, 1), *words)
    # What the disk says of one file of a tree is said of that, and all others are given back.
    assert code == (3 if (role, action) == ("worker", "eio") else 75), errors
    result = await here.restore(into)
    assert (result.bytes_kept, result.bytes_received, result.warnings) == (LARGE, 0, [])
    back = into / large.relative_to(tmp_path)
    assert filecmp.cmp(large, back, shallow=False)
    assert list(back.parent.iterdir()) == [back]
