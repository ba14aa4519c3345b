"""Every point is restorable by itself, whatever happens to all that only other points name."""

import os
import random
import shutil
import subprocess
from contextlib import nullcontext

import pytest

from tests.acceptance import trees
from tests.acceptance.agent import Machine, closure, damage, frames_of, points_of
from tests.acceptance.compare import differences
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell

pytestmark = pytest.mark.usefixtures("quick_keyrings")

COUNTS = [("near", 4), pytest.param(("near", 10), marks=pytest.mark.slow), ("far", 2)]


def made_tree(top):
    """Directories of several pages, a large file with two names, and little ones."""
    trees.many_files(top / "many", 250)
    (top / "flat").mkdir()
    for number in range(700):
        (top / "flat" / f"{number:04}").write_bytes(b"%d" % number)
    trees.image(top / "large", 7 << 20)
    os.link(top / "large", top / "hard")
    (top / "link").symlink_to("large")
    return top


def change(top, generator):
    """Something of everything that happens to a tree between two backups."""
    places = (top / "many", top / "flat")
    files = sorted(path for place in places for path in place.rglob("*") if path.is_file())
    gone, written, renamed, moved, touched, *modes = generator.sample(files, 8)
    gone.unlink()
    written.write_bytes(generator.randbytes(generator.randrange(9000)))
    renamed.rename(renamed.with_name(f"renamed-{generator.randrange(10**6)}"))
    moved.rename(top / f"moved-{generator.randrange(10**6)}")
    os.utime(touched, ns=(0, generator.randrange(2**60)))
    for path in modes:
        path.chmod(generator.choice([0o600, 0o640, 0o755]))
    (top / f"new-{generator.randrange(10**6)}").mkdir()
    with (top / "large").open("r+b") as file:
        file.seek(generator.randrange(7 << 20))
        file.write(b"!")


@pytest.fixture(params=COUNTS, ids=lambda param: "{}-{}".format(*param))
async def changing(tmp_path, request):
    """A machine, the IDs of some points of one changing tree, and the tree as each saw it; and a
    context in which the vault can be asked.
    """
    place, points = request.param
    far = place == "far"
    server = Server(tmp_path / "vault") if far else None
    asked = nullcontext if server is None else server.running
    machine, generator = Machine(tmp_path, far=far), random.Random("points")
    top = made_tree(tmp_path / "tree")
    made = {}
    with asked():
        if server is not None:
            server.register(Shell(tmp_path, far=True))
        for number in range(points):
            result = await machine.backup(top)
            assert result.warnings == []
            seen = tmp_path / "seen" / str(number)
            seen.mkdir(parents=True)
            subprocess.run(["cp", "-a", top, seen], check=True)
            made[result.point] = seen / "tree"
            change(top, generator)
    return machine, made, asked


async def test_points_each_come_back_when_all_that_only_the_others_name_is_damaged(
    changing, tmp_path
):
    machine, made, asked = changing
    sound = machine.vault.rename(tmp_path / "sound")
    frames = frames_of(sound)
    roots = {each.point_id.hex(): each.root for each in await points_of(sound)}
    reached = {point: closure(frames, root) for point, root in roots.items()}
    assert set.intersection(*reached.values())
    assert set(frames) == set.union(*reached.values())  # nothing was sent in vain
    for number, (point, seen) in enumerate(made.items()):
        shutil.copytree(sound, machine.vault)
        others = set(frames) - reached[point]
        for path, placed in (place for other in others for place in frames[other]):
            damage(machine.vault / path.relative_to(sound), placed)
        with asked():
            result = await machine.restore(tmp_path / f"back-{number}", item=f"item@{point}")
            assert (result.damaged, result.warnings) == ([], [])
            assert differences(seen, tmp_path / f"back-{number}" / "tree") == []
            if number in (0, len(made) - 1):  # the damage is real: a point that names it tells
                other = next(each for each in made if reached[each] & others)
                hurt = await machine.restore(tmp_path / f"hurt-{number}", item=f"item@{other}")
                assert hurt.damaged
        shutil.rmtree(machine.vault)
