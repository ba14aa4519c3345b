"""What is backed up is the same at every call, and made once."""

import hashlib
import os
import re
import subprocess

import pytest

from perf import own_files, works
from perf.machine import Lacking
from perf.works import Work, made
from tests.acceptance.compare import differences
from tests.acceptance.needs import tool

MIB = 2**20


@pytest.fixture
def machine(tmp_path):
    """A little machine's own files, in the order in which they are to be taken."""
    top = tmp_path / "machine"
    for name, size in (("b/two", 900_000), ("a/one", 100), ("c", 7000), ("large", MIB + 1)):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes((name.encode() * size)[:size])
    (top / "link").symlink_to("c")
    os.link(top / "c", top / "second-name")
    (top / "third").write_bytes(b"third")
    return top


def names(machine):
    return [str(found.path.relative_to(machine)) for found in own_files.own_files((str(machine),))]


def test_files_are_found_in_order_without_links_and_names_of_others(machine):
    assert names(machine) == ["large", "third", "a/one", "b/two"]


def test_a_top_below_another_is_not_looked_at_twice(machine):
    tops = (str(machine / "b"), str(machine), str(machine / "a"))
    found = [each.path.name for each in own_files.own_files(tops)]
    assert found == ["two", "large", "third", "one"]


def test_a_tree_has_small_files_of_the_machine_and_then_made_ones(machine, tmp_path):
    top = own_files.tree(tmp_path / "tree", 8, (str(machine),))
    here = machine.relative_to("/")
    assert {path.relative_to(top) for path in top.rglob("*") if path.is_file()} == {
        *(here / name for name in ("third", "a/one", "b/two")),
        *(path.relative_to(top) for path in (top / "made").rglob("*") if path.is_file()),
    }
    assert sum(path.is_file() for path in (top / "made").rglob("*")) == 5
    again = own_files.tree(tmp_path / "again", 8, (str(machine),))
    assert not differences(top, again, frozenset({"mtime"}))
    assert not [each for each in differences(machine / "a", top / here / "a") if each.path != b"."]


def test_a_tree_ends_where_it_has_bytes_enough(machine, tmp_path):
    top = own_files.tree(tmp_path / "tree", 8, (str(machine),), most=120)
    assert {path.name for path in top.rglob("*") if path.is_file()} == {"third", "one"}


@pytest.fixture
def image_tools():
    for name in ("mke2fs", "debugfs", "e2fsck"):
        tool(name, "e2fsprogs")


@pytest.mark.usefixtures("image_tools")
def test_an_image_is_the_same_whenever_it_is_made(machine, tmp_path):
    digests = set()
    for name in ("one", "two"):
        path = own_files.image(tmp_path / name, 24 * MIB, (str(machine),))
        digests.add(hashlib.sha256(path.read_bytes()).digest())
    assert len(digests) == 1
    fsck = tool("e2fsck", "e2fsprogs")
    subprocess.run([fsck, "-fn", path], check=True, capture_output=True)
    command = [tool("debugfs", "e2fsprogs"), "-R", "stat /part-0", path]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert len(set(re.findall("time: (0x[0-9a-f]{8})", said))) == 1, said  # none of it is now
    assert path.stat().st_blocks * 512 < path.stat().st_size
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == ["machine"]


@pytest.mark.usefixtures("image_tools")
def test_of_a_machine_with_few_files_an_image_has_others_each_time(machine, tmp_path):
    raw = own_files.image(tmp_path / "image", 24 * MIB, (str(machine),)).read_bytes()
    two = (machine / "b" / "two").read_bytes()[:65536]
    times = [two.translate(bytes(b ^ changed for b in range(256))) in raw for changed in range(4)]
    assert all(times)


def test_what_is_missing_to_make_an_image_is_named():
    with pytest.raises(Lacking, match="apt install e2fsprogs"):
        own_files._tool("mke2fs-of-nobody")


def test_data_is_made_once_and_has_its_name_only_when_it_is_whole(tmp_path):
    calls = []

    def make(path, size):
        assert path.name != "text-3"
        calls.append(size)
        path.write_text("abc")
        return path

    work = Work("text", make, 1000, 3, "bytes", "text")
    for _ in range(2):
        assert made(work, True, tmp_path / "data").read_text() == "abc"
    assert calls == [3]
    assert [each.name for each in (tmp_path / "data").iterdir()] == ["text-3"]


def test_works_are_chosen_by_name_and_by_default_those_of_the_budgets():
    assert [work.name for work in works.chosen(None)] == ["image", "incompressible", "tree"]
    assert [work.name for work in works.chosen(["tree-synthetic"])] == ["tree-synthetic"]
