"""A restore takes what its target has already: back in place, after a kill, after Ctrl-C."""

import filecmp
import os
import signal
import time

import pytest

from tests.acceptance import trees
from tests.acceptance.compare import differences
from tests.acceptance.shell import kill
from tests.cli.machine import loop_device

MIB = 2**20
SIZE = 48 * MIB


@pytest.fixture
def image(tmp_path):
    return trees.image(tmp_path / "disk", SIZE)


def change(path):
    """Some of it: three blocks, one of them to zeros."""
    with open(path, "r+b") as file:
        for at, content in ((5, b"x"), (6, b"x"), (20, b"\0")):
            file.seek(at * MIB)
            file.write(content * MIB)


def test_an_image_is_rolled_back_in_place(shell, image, tmp_path):
    point = shell("backup", "disk", image)["point"]
    kept = image.with_name("kept")
    kept.write_bytes(image.read_bytes())
    change(image)
    shell("backup", "disk", image)
    inode = image.stat().st_ino
    name = f"disk@{point[:16]}"
    shell("restore", name, "--to", image, expect=64)
    result = shell("restore", name, "--to", image, "--overwrite", "changed")
    assert filecmp.cmp(image, kept, shallow=False)
    assert image.stat().st_ino == inode
    assert (result["bytes_written"], result["bytes_kept"]) == (3 * MIB, SIZE - 3 * MIB)
    assert result["bytes_received"] < 3.1 * MIB
    always = shell("restore", name, "--to", image, "--overwrite", "always")
    assert (always["bytes_written"], always["bytes_kept"]) == (SIZE, 0)


def test_zeros_come_back_as_zeros(shell, image):
    change(image)
    point = shell("backup", "disk", image)["point"]
    before = image.read_bytes()
    with image.open("r+b") as file:
        file.seek(20 * MIB)
        file.write(b"y" * MIB)
    shell("restore", f"disk@{point[:16]}", "--to", image, "--overwrite", "changed")
    assert image.read_bytes() == before


def test_a_device_is_rolled_back_in_place(shell, image, tmp_path):
    with loop_device(tmp_path / "loop", SIZE) as device:
        with open(device, "wb") as file:
            file.write(image.read_bytes())
        point = shell("backup", "disk", device)["point"]
        change(device)
        result = shell(
            "restore", f"disk@{point[:16]}", "--to", device, "--overwrite", "changed"
        )  # fmt: skip
        assert result["bytes_written"] == 3 * MIB
        with open(device, "rb") as file:
            assert file.read() == image.read_bytes()


def test_large_files_of_a_tree_get_only_what_differs(shell, tmp_path, image):
    tree = tmp_path / "tree"
    tree.mkdir()
    image.rename(tree / "disk")
    point = shell("backup", "tree", tree)["point"]
    shell("restore", "tree", "--to", tmp_path / "back")
    change(tmp_path / "back" / "tree" / "disk")
    result = shell(
        "restore", f"tree@{point[:16]}", "--to", tmp_path / "back", "--overwrite", "changed"
    )  # fmt: skip
    assert result["bytes_written"] == 3 * MIB
    assert differences(tree, tmp_path / "back" / "tree") == []


def has_begun(process, into):
    """Wait until some of it is there."""
    while process.poll() is None:
        there = [path for path in into.rglob("*") if path.is_file()]
        try:
            if sum(path.stat().st_blocks * 512 for path in there) > 8 * MIB:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("image", signal.SIGTERM), ("tree", signal.SIGKILL),
        pytest.param("image", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("tree", signal.SIGINT, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_is_unfinished_is_named_and_gone_on_with(shell, tmp_path, kind, number):
    if kind == "image":
        source = trees.image(tmp_path / "source", 160 * MIB)
    else:
        source = trees.many_files(tmp_path / "source", 500)
        trees.image(source / "large", 120 * MIB)
    point = shell("backup", "item", source)["point"]
    into = tmp_path / "into"
    into.mkdir()
    process = shell.start("restore", "item", "--to", into)
    has_begun(process, into)
    assert kill(process.pid, number)
    shell.finish(process, None)
    (found,) = shell("status")["unfinished"]
    assert (found["item"], found["point"], found["target"]) == ("item", point, str(into))
    result = shell("restore", "item", "--to", into)
    assert result["warnings"] == []
    assert result["bytes_kept"] > 0
    assert shell("status")["unfinished"] == []
    assert list(into.rglob(".transfer-*")) == []
    if kind == "image":
        assert filecmp.cmp(source, into / "source", shallow=False)
    else:
        assert differences(source, into / "source") == []


def test_what_is_refused_is_not_unfinished(shell, image):
    shell("backup", "disk", image)
    shell("restore", "disk", "--to", image, expect=64)
    shell("restore", "disk", "--to", image, "--dry-run")
    assert shell("status")["unfinished"] == []


def test_an_interrupted_restore_in_place_is_gone_on_with(shell, image):
    shell("backup", "disk", image)
    kept, empty = image.read_bytes(), image.with_name("empty")
    empty.touch()
    process = shell.start("restore", "disk", "--to", empty)
    while process.poll() is None and empty.stat().st_blocks * 512 < 4 * MIB:
        time.sleep(0.001)
    killed = kill(process.pid)
    shell.finish(process, None)
    assert killed
    assert os.path.getsize(empty) == SIZE
    shell("restore", "disk", "--to", empty)
    assert empty.read_bytes() == kept


def test_an_image_that_somebody_made_meanwhile_is_not_taken_for_ours(shell, tmp_path):
    source = trees.image(tmp_path / "source", 160 * MIB)
    shell("backup", "disk", source)
    into = tmp_path / "into"
    into.mkdir()
    process = shell.start("restore", "disk", "--to", into)
    has_begun(process, into)
    assert kill(process.pid)
    shell.finish(process, None)
    (into / "source").write_bytes(b"theirs")
    shell("restore", "disk", "--to", into, expect=64)
    assert (into / "source").read_bytes() == b"theirs"
    (into / "source").unlink()
    assert shell("restore", "disk", "--to", into)["bytes_kept"] > 0
    assert filecmp.cmp(source, into / "source", shallow=False)


def test_of_several_images_the_whole_ones_are_kept(shell, tmp_path):
    sources = [trees.image(tmp_path / f"source-{n}", 64 * MIB) for n in range(2)]
    shell("backup", "disks", *sources)
    into = tmp_path / "into"
    into.mkdir()
    process = shell.start("restore", "disks", "--to", into)
    while process.poll() is None and not (into / "source-0").exists():
        time.sleep(0.001)
    assert kill(process.pid)
    shell.finish(process, None)
    result = shell("restore", "disks", "--to", into)
    assert result["bytes_kept"] >= 64 * MIB
    assert all(filecmp.cmp(each, into / each.name, shallow=False) for each in sources)


@pytest.mark.parametrize("kind", ["file", "device"])
def test_a_roll_back_that_was_killed_is_named_and_gone_on_with(shell, tmp_path, kind):
    """In place it is neither the old image nor the new one; what was finished is compared again."""
    size = 160 * MIB
    source = trees.image(tmp_path / "source", size)
    point = shell("backup", "disk", source)["point"]
    with loop_device(tmp_path / "loop", size) as device:
        target = device if kind == "device" else tmp_path / "target"
        with open(target, "wb") as file:
            file.write(b"old" * (size // 3) + b"o")
        words = ("restore", f"disk@{point[:16]}", "--to", target, "--overwrite", "changed")
        process, written = shell.start(*words), source.read_bytes()[:MIB]
        while process.poll() is None:
            with open(target, "rb") as file:
                if file.read(MIB) == written:
                    break
        assert kill(process.pid)
        shell.finish(process, None)
        (found,) = shell("status")["unfinished"]
        assert found["target"] == str(target)
        with open(target, "r+b") as file:  # somebody writes into what was finished
            file.write(b"somebody")
        shell(*words)
        with open(target, "rb") as file:
            assert file.read() == source.read_bytes()
        assert shell("status")["unfinished"] == []
