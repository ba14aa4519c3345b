"""Stat proves that a file is unchanged only in the tree, boot and rules of the parent's mark."""

import asyncio
import os
import shutil
import subprocess
import time

import msgspec
import pytest

from tests.acceptance import trees
from tests.acceptance.agent import Machine
from tests.acceptance.compare import differences
from tests.acceptance.test_history import SETTLED, History
from transfer.jobs.protected import TreeMark, encode_mark, trusted
from transfer.pipeline import tasks

pytestmark = pytest.mark.usefixtures("quick_keyrings")

HOUR = 3600 * 10**9


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """A machine with one point of a source that lies still for long enough."""
    top = tmp_path_factory.mktemp("marks")
    source, machine = trees.many_files(top / "source", 150), Machine(top)
    time.sleep(SETTLED)
    made = asyncio.run(machine.backup(source))
    return History(source, machine.state, [machine.vault], [made.point])


@pytest.fixture
def machine(settled, tmp_path):
    return settled.copied(tmp_path, 1)


def size_of(top):
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file())


async def exact(machine, source):
    await machine.restore(machine.top / "back")
    return differences(source, machine.top / "back" / source.name) == []


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ({}, 1000),
        ({"moment": 1000}, 1000),
        ({"moment": 999}, 0),
        ({"boot": "another"}, 0),
        ({"root": b"another"}, 0),
        ({"rules": b"another"}, 0),
    ],
)
def test_a_mark_holds_for_the_same_boot_root_rules_and_a_clock_that_went_on(now, until):
    then = TreeMark(1000, "boot", b"root", b"rules")
    marks = [encode_mark(b"other", then), encode_mark(b"name", then)]
    seen = msgspec.structs.replace(then, **{"moment": 2000} | now)
    assert trusted(marks, b"name", seen)[0] == until
    assert trusted(marks[:1], b"name", seen)[0] == 0


async def test_the_same_tree_is_not_read(settled, machine):
    assert (await machine.backup(settled.source)).bytes_read == 0
    assert await exact(machine, settled.source)


async def test_another_tree_of_that_name_is_read(settled, machine, tmp_path):
    """A clone of a file system has the same inodes and times, and may have other content."""
    (tmp_path / "clone").mkdir()
    subprocess.run(["cp", "-a", settled.source, tmp_path / "clone"], check=True)
    made = await machine.backup(tmp_path / "clone" / "source")
    assert (made.bytes_read, made.blocks_new) == (size_of(settled.source), 0)
    assert await exact(machine, tmp_path / "clone" / "source")


def tree_of(top, content):
    """Names, sizes and times are the same whatever the *content*."""
    for place in (top, top / "sub"):
        place.mkdir()
        for name in ("one", "two"):
            (place / name).write_bytes((b"%s in %s " % (content, place.name.encode())).ljust(3000))
            os.utime(place / name, ns=(trees.MOMENT, trees.MOMENT))
    return top


def scanned_as(scan, **fields):
    """Entries whose change time is the other one, as a clock that seldom ticks would have it.

    With these *fields*, such as handles of a file system that was copied block by block.
    """

    def scanned(*arguments):
        found, *rest = scan(*arguments)
        changed = [
            each._replace(entry=each.entry._replace(ctime=each.entry.mtime, **fields))
            for each in found
        ]
        return changed, *rest

    return scanned


@pytest.mark.parametrize("how", ["another", "an old subdirectory"])
async def test_a_directory_in_the_roots_place_is_another_tree(tmp_path, monkeypatch, how):
    """Nothing but the root itself tells them apart."""
    monkeypatch.setattr("transfer.pipeline.tasks.scan", scanned_as(tasks.scan, handle=b"same"))
    machine, source = Machine(tmp_path), tree_of(tmp_path / "source", b"first")
    await machine.backup(source)
    assert (await machine.backup(source)).bytes_read == 0
    source.rename(tmp_path / "before")
    if how == "another":
        tree_of(source, b"other")
    else:
        (tmp_path / "before" / "sub").rename(source)
    made = await machine.backup(source)
    assert made.bytes_read == size_of(source)
    assert await exact(machine, source)
    assert (await machine.backup(source)).bytes_read == 0


async def test_directories_that_changed_places_are_read(tmp_path, monkeypatch):
    """Size and times of their files are those of the files that had these names before."""
    monkeypatch.setattr("transfer.pipeline.tasks.scan", scanned_as(tasks.scan))
    machine, source = Machine(tmp_path), tmp_path / "source"
    source.mkdir()
    for name in ("one", "two"):
        tree_of(source / name, name.encode())
    await machine.backup(source)
    assert (await machine.backup(source)).bytes_read == 0
    for old, new in (("one", "none"), ("two", "one"), ("none", "two")):
        (source / old).rename(source / new)
    assert (await machine.backup(source)).bytes_read == size_of(source)
    assert await exact(machine, source)


@pytest.mark.parametrize(
    "rules", [{"exclude": [b"*.nothing"]}, {"exclude_caches": True}, {"one_file_system": True}]
)
async def test_other_rules_read_it(settled, machine, rules):
    made = await machine.backup(settled.source, **rules)
    assert (made.bytes_read, made.nodes_new) == (size_of(settled.source), 0)


async def test_another_path_beside_it_reads_it(settled, machine, tmp_path):
    (tmp_path / "other").mkdir()
    made = await machine.backup(settled.source, tmp_path / "other")
    assert (made.bytes_read, made.blocks_new) == (size_of(settled.source), 0)


async def test_what_was_excluded_is_there_once_it_no_longer_is(settled, machine):
    await machine.backup(settled.source, exclude=[b"file-*1.txt"])
    made = await machine.backup(settled.source)
    assert made.bytes_read == size_of(settled.source)
    assert await exact(machine, settled.source)


async def test_after_another_boot_it_is_read(settled, machine, monkeypatch):
    monkeypatch.setattr("transfer.jobs.root.boot_id", lambda: "another boot")
    made = await machine.backup(settled.source)
    assert (made.bytes_read, made.nodes_new) == (size_of(settled.source), 0)


async def test_when_the_clock_went_back_it_is_read(settled, machine, monkeypatch):
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - HOUR)
    made = await machine.backup(settled.source)
    assert (made.bytes_read, made.nodes_new) == (size_of(settled.source), 0)


async def test_full_reads_it(settled, machine):
    made = await machine.backup(settled.source, full=True)
    assert (made.bytes_read, made.nodes_new) == (size_of(settled.source), 0)


async def test_a_file_younger_than_the_view_is_read_again(machine, tmp_path):
    """Two writes within one tick of the clock leave the same times."""
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "file").write_bytes(b"young")
    for _ in range(2):
        assert (await machine.backup(tmp_path / "young", item="young")).bytes_read == 5
    await asyncio.sleep(SETTLED)
    for size in (5, 0):  # once more against a moment at which it had settled
        assert (await machine.backup(tmp_path / "young", item="young")).bytes_read == size


async def test_a_hidden_change_is_read(settled, machine, tmp_path):
    """Size and time of modification are as before; only the change time tells."""
    source = tmp_path / "source"
    shutil.copytree(settled.source, source)
    await asyncio.sleep(SETTLED)
    await machine.backup(source, item="mine")
    changed = next(path for path in source.rglob("*") if path.is_file() and path.stat().st_size)
    before = changed.stat()
    changed.write_bytes(bytes(byte ^ 1 for byte in changed.read_bytes()))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    made = await machine.backup(source, item="mine")
    assert made.bytes_read == before.st_size
    await machine.restore(tmp_path / "back", item="mine")
    assert differences(source, tmp_path / "back" / "source") == []
