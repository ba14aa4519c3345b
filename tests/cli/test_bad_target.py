"""A restore into a bad place: refused or ended with words, and nothing else is harmed."""

import os
import shutil

import pytest

from tests.cli.conftest import Shell, contents
from tests.cli.machine import fill, loop_device, make_read_only, powerless, small_disk
from transfer.targets.names import key_of

MIB = 2**20


def left_over(top):
    return [path for path in top.rglob("*") if path.name.startswith(".transfer-")]


@pytest.fixture(scope="module")
def stock(stock, tmp_path_factory):
    """With an image of 3 MiB as the item `vm`."""
    kept, point = stock
    top = tmp_path_factory.mktemp("with-image") / "stock"
    shutil.copytree(kept, top, symlinks=True)
    (top / "disk").write_bytes(os.urandom(3 * MIB))
    assert Shell(top)("backup", "vm", top / "disk")[0] == 0
    return top, point


def test_an_image_onto_a_file_that_is_not_empty(stocked, tmp_path):
    there = tmp_path / "there"
    there.write_bytes(b"mine")
    error = stocked.refused(64, "target-refused", "restore", "vm", "--to", there, says=[there])
    assert "--overwrite" in error["hint"]
    assert there.read_bytes() == b"mine"
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "disk").write_bytes(b"mine")
    stocked.refused(
        64, "target-refused", "restore", "vm", "--to", tmp_path / "dir",
        says=[tmp_path / "dir" / "disk"],
    )  # fmt: skip
    assert (tmp_path / "dir" / "disk").read_bytes() == b"mine"


def test_a_tree_onto_a_file(stocked, tmp_path):
    there = tmp_path / "there"
    there.write_bytes(b"mine")
    stocked.refused(64, "target-refused", "restore", "home", "--to", there, says=[there])
    below = there / "below"
    code, answer = stocked("restore", "home", "--to", below)
    assert code in (64, 75)
    assert str(there) in answer["error"]["message"]
    assert there.read_bytes() == b"mine"


def test_a_read_only_target(stocked, tmp_path):
    with small_disk(tmp_path / "target") as target:
        (target / "mine").write_text("mine")
        make_read_only(target)
        for words in (("home", "--to", target), ("vm", "--to", target / "disk")):
            stocked.refused(75, "target-unusable", "restore", *words, says=[target, "Read-only"])
        assert set(contents(target)) == {(target / "mine").relative_to(target)}


def test_a_target_that_fills_up(stocked, tmp_path):
    with small_disk(tmp_path / "target", size="4m") as target:
        stocked.refused(75, "no-space", "restore", "home", "--to", target, says=[target])
        unfinished = left_over(target)
        assert all(key_of(os.fsencode(path.name)) for path in unfinished)  # to go on with
        for path, (_, what) in contents(target / "tree").items():
            if target / "tree" / path not in unfinished:
                assert what in (None, b"") or what == contents(tmp_path / "tree")[path][1], path
    with small_disk(tmp_path / "target", size="2m") as target:
        stocked.refused(75, "no-space", "restore", "vm", "--to", target / "disk", says=[target])
        assert not (target / "disk").exists()
        (unfinished,) = left_over(target)
        assert key_of(os.fsencode(unfinished.name))


def test_a_full_target_with_small_files_only(quick, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(300):
        (tmp_path / "many" / f"{number:03}").write_bytes(os.urandom(10_000))
    assert quick("backup", "many", tmp_path / "many")[0] == 0
    with small_disk(tmp_path / "target", size="1m") as target:
        quick.refused(75, "no-space", "restore", "many", "--to", target, says=[target])
        assert left_over(target) == []
        for path in (target / "many").iterdir():
            assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()
    with small_disk(tmp_path / "target", size="1m") as target:
        fill(target)
        quick.refused(75, "no-space", "restore", "many", "--to", target / "out", says=[target])


def test_a_target_that_may_not_be_written(stocked, tmp_path):
    target = tmp_path / "target"
    target.mkdir(0o555)
    code, answer = stocked("restore", "home", "--to", target, before=powerless)
    assert (code, [each["path"] for each in answer["warnings"]]) == (3, ["tree"])
    assert "denied" in answer["warnings"][0]["message"]
    assert os.listdir(target) == []


def test_a_device_that_is_too_small(stocked, tmp_path):
    with loop_device(tmp_path / "back", 2 * MIB) as device:
        stocked.refused(
            75, "target-unusable", "restore", "vm", "--to", device, "--overwrite", "always",
            says=[device, 2 * MIB, 3 * MIB],
        )  # fmt: skip
        stocked.refused(64, "target-refused", "restore", "vm", "--to", device, says=[device])
    assert (tmp_path / "back").read_bytes() == bytes(2 * MIB)


def test_a_device_that_is_in_use(stocked, tmp_path):
    with loop_device(tmp_path / "back", 4 * MIB) as device:
        holder = os.open(device, os.O_RDONLY | os.O_EXCL)  # as a mount holds it
        try:
            stocked.refused(
                75, "target-unusable", "restore", "vm", "--to", device, "--overwrite", "always",
                says=[device],
            )  # fmt: skip
        finally:
            os.close(holder)
    assert (tmp_path / "back").read_bytes() == bytes(4 * MIB)


@pytest.fixture
def outside(tmp_path):
    """What somebody wants to get at; afterwards it is as it was."""
    top = tmp_path / "outside"
    (top / "deep").mkdir(parents=True)
    (top / "small").write_text("secret")
    (top / "small").chmod(0o600)

    def found():
        stats = {path: path.lstat() for path in (top, *top.rglob("*"))}
        own = {
            path: (stat.st_ino, stat.st_nlink, stat.st_uid, stat.st_mtime_ns)
            for path, stat in stats.items()
        }
        return own, contents(top)

    before = found()
    yield top
    assert found() == before


@pytest.mark.parametrize("overwrite", ["never", "changed", "always"])
@pytest.mark.parametrize("planted", ["tree", "tree/deep", "tree/deep/deeper"])
def test_a_planted_symlink_to_a_directory(stocked, tmp_path, outside, planted, overwrite):
    link = tmp_path / "target" / planted
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    code, answer = stocked("restore", "home", "--to", tmp_path / "target", "--overwrite", overwrite)
    assert code == 3
    assert planted in {each["path"] for each in answer["warnings"]}
    assert os.readlink(link) == str(outside)


@pytest.mark.parametrize("planted", ["tree/small", "tree/nothing", "tree/link", "tree/deep/large"])
def test_a_planted_symlink_to_a_file(stocked, tmp_path, outside, planted):
    link = tmp_path / "target" / planted
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / "small")
    code, answer = stocked("restore", "home", "--to", tmp_path / "target")
    assert (code, [each["path"] for each in answer["warnings"]]) == (3, [planted])
    assert os.readlink(link) == str(outside / "small")
    restore = ("restore", "home", "--to", tmp_path / "target", "--overwrite", "always")
    assert stocked(*restore)[0] == 0
    assert contents(tmp_path / "target" / "tree") == contents(tmp_path / "tree")


def test_a_symlink_in_the_place_of_an_image(stocked, tmp_path, outside):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "disk").symlink_to(outside / "small")
    for overwrite in ("never", "changed", "always"):
        stocked.refused(
            64, "target-refused", "restore", "vm", "--to", tmp_path / "target",
            "--overwrite", overwrite, says=["symlink"],
        )  # fmt: skip


def test_a_hard_link_to_somebodys_file(stocked, tmp_path, outside):
    target = tmp_path / "target"
    (target / "tree").mkdir(parents=True)
    os.link(outside / "small", target / "tree" / "small")
    assert stocked("restore", "home", "--to", target)[0] == 3
    (target / "tree" / "small").unlink()  # the link count is part of what must not change
