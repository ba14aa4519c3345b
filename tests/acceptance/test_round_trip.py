"""What goes in comes out: content and metadata of everything that a file system can hold."""

import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest

from tests.acceptance import trees
from tests.acceptance.compare import SLACK, differences
from tests.acceptance.needs import needs_root, space, tool
from tests.acceptance.served import shell_at
from tests.acceptance.shell import Shell
from tests.acceptance.unprivileged import build_tree, find_python, shell_of_nobody


@pytest.fixture(scope="module")
def python_of_nobody():
    with tempfile.TemporaryDirectory(prefix="transfer-python-") as top:
        os.chmod(top, 0o755)
        yield find_python(Path(top))


def there_and_back(shell, *tops, backup=(), workers=()):
    """Back up, verify and restore without a warning; the backup's result, and what differs."""
    made = shell("backup", "item", *tops, *backup, *workers)
    assert made["warnings"] == []
    assert shell("verify", "item", *workers)["damaged"] == []
    back = shell("restore", "item", "--to", shell.top / "back", *workers)
    assert (back["warnings"], back["damaged"]) == ([], [])
    found = [d for top in tops for d in differences(top, shell.top / "back" / top.name)]
    return made, found


def stores_nothing(shell, *words):
    again = shell("backup", "item", *words)
    return (again["bytes_stored"], again["blocks_new"], again["nodes_new"]) == (0, 0, 0)


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("shell", "workers"),
    [
        ("near", 2),
        slowly("near", 0),
        slowly("near", 1),
        slowly("near", 5),
        slowly("far", 0),
        slowly("far", 2),
    ],
    indirect=["shell"],
)
def test_every_hard_case_comes_back(shell, tricky, workers):
    """Also into a directory that would give what is made in it rights of its own."""
    (shell.top / "back").mkdir()
    os.setxattr(shell.top / "back", trees.ACL_DEFAULT, trees.acl(12_345, 0o75))
    assert there_and_back(shell, tricky, workers=("--workers", workers))[1] == []


@pytest.mark.parametrize(
    ("shell", "options"),
    [
        ("far", "--block-size 64K --compression off"),
        slowly("near", "--block-size 64K --compression off"),
        slowly("near", "--block-size 4M --compression fast"),
        slowly("far", "--block-size 4M --compression fast --connections 16"),
        slowly("near", "--compression better"),
    ],
    indirect=["shell"],
)
def test_neither_block_size_nor_compression_changes_what_comes_back(shell, tricky, options):
    assert there_and_back(shell, tricky, backup=options.split())[1] == []


def test_an_empty_tree_comes_back(shell, tmp_path):
    top = tmp_path / "nothing"
    top.mkdir(mode=0o700)
    os.utime(top, ns=(1, 123_456_789))
    assert there_and_back(shell, top)[1] == []


@pytest.mark.parametrize("place", ["far", slowly("near")])
def test_a_user_without_rights_gets_back_every_hard_case_of_its_own(work, python_of_nobody, place):
    shell = shell_of_nobody(work, python_of_nobody, place)
    build_tree(shell, shell.top / "tricky")
    assert there_and_back(shell, shell.top / "tricky")[1] == []


@needs_root
def test_a_user_without_rights_gets_all_but_what_only_root_may_set(work, python_of_nobody):
    """What it may not set is named; all else is as it was."""
    top = trees.tricky(work / "tricky", as_root=True)
    owner, shell = Shell(work), shell_of_nobody(work, python_of_nobody)
    assert owner("backup", "item", top)["warnings"] == []
    subprocess.run(["chown", "-R", f"{shell.user}", work / "vault", work / "state"], check=True)
    shell.top = work
    back = shell("restore", "item", "--to", shell.top / "home" / "back", expect=3)
    assert {each["code"] for each in back["warnings"]} == {"owner", "xattr", "device", "mode"}
    found = differences(top, work / "home" / "back" / "tricky", frozenset(["owner"]))
    assert {each.what for each in found} <= {"missing", "xattrs", "mode"}
    assert {each.path for each in found if each.what == "missing"} == {
        b"privileged/null", b"privileged/disk",
    }  # fmt: skip


@pytest.mark.hours
@pytest.mark.timeout(900)
def test_50_000_real_files_come_back_and_cost_nothing_again(work):
    """Far only: what is sent there is what a vault in this process would be given."""
    space(work, 8 << 30)
    tops, shell = real_copy(work), shell_at(work, "far")
    made, found = there_and_back(shell, *tops)
    assert made["files"] >= 50_000
    assert found == []
    assert stores_nothing(shell, *tops)


def real_copy(work):
    """The system's own files, copied, for nobody else must write to them now; 50,000 will do."""
    (work / "real").mkdir()
    missing, tops = 50_000, []
    for place in (Path("/usr/share"), *sorted(Path(sysconfig.get_path("stdlib")).iterdir())):
        if missing > 0 and place.is_dir() and place.name != "site-packages":
            subprocess.run(["cp", "-a", place, work / "real"], check=True)
            tops.append(work / "real" / place.name)
            missing -= sum(path.is_file() and not path.is_symlink() for path in tops[-1].rglob("*"))
    if missing > 0:
        tops.append(trees.many_files(work / "real" / "made", missing))
    return tops


@pytest.mark.parametrize("place", ["far", slowly("near")])
def test_a_small_ext4_image_comes_back(work, place):
    content = trees.many_files(work / "content", 500)
    an_ext4_image_comes_back(shell_at(work, place), 64 << 20, content)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_2_gib_ext4_image_comes_back(work):
    """Far only, as above; 4 GiB and 1 TiB pass through in test_memory.py."""
    space(work, 8 << 30)
    content = trees.many_files(work / "content", 5_000)
    trees.image(content / "database", 1 << 30)
    an_ext4_image_comes_back(shell_at(work, "far"), 2 << 30, content)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_of_several_images_comes_back_with_its_own_content(work, workers):
    """They are written one after the other, through descriptors of the same number."""
    shell = Shell(work)
    (work / "disks").mkdir()
    (work / "back").mkdir()
    for name in ("a", "b", "c"):
        trees.image(work / "disks" / name, 9 << 20)
    shell("backup", "item", *sorted((work / "disks").iterdir()), "--workers", workers)
    shell("restore", "item", "--to", work / "back", "--workers", workers)
    assert content_differs(work) == []


def an_ext4_image_comes_back(shell, size, content):
    """It is the same and as sparse, and one changed byte costs one block and at most four nodes."""
    tool("mkfs.ext4", "e2fsprogs")
    work = shell.top
    (work / "disks").mkdir()
    disk = trees.ext4_image(work / "disks" / "disk.img", size, content)
    shell("backup", "item", disk)
    assert stores_nothing(shell, disk)
    (work / "back").mkdir()
    assert shell("restore", "item", "--to", work / "back" / "disk.img")["damaged"] == []
    assert content_differs(work) == []
    allocated = (work / "back" / "disk.img").stat().st_blocks * 512
    assert allocated <= (data_blocks(disk) << 20) + SLACK
    check = [tool("e2fsck", "e2fsprogs"), "-fn", work / "back" / "disk.img"]
    assert subprocess.run(check, check=False, capture_output=True).returncode == 0
    with disk.open("r+b") as file:
        file.seek(size // 2 + 12_345)
        file.write(b"?")
    changed = shell("backup", "item", disk)
    assert changed["blocks_new"] == 1
    assert 1 <= changed["nodes_new"] <= 4
    shell("restore", "item", "--to", work / "back" / "disk.img", "--overwrite", "always")
    assert content_differs(work) == []


def content_differs(work):
    """An image brings its content and its holes; all else about its file is the target's."""
    ignore = frozenset(["mtime", "mode", "sparse"])
    return differences(work / "disks", work / "back", ignore)


def data_blocks(disk):
    """How many blocks of 1 MiB hold something else than zeros."""
    with disk.open("rb") as file:
        return sum(any(block) for block in iter(lambda: file.read(2**20), b""))
