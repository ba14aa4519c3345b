"""Names of one inode are one inode again, whichever of them stand in the target already."""

import os
import subprocess

import pytest

from tests.pipeline.test_receive import directory, entry, restored
from transfer.formats.entry import FileType, Inline
from transfer.pipeline.overwrite import Overwrite
from transfer.pipeline.streams import assemble
from transfer.pipeline.tasks import BATCH

GROUP = b"g" * 16
NAMES = ("a", "b", "c")
OTHER = 54321  # somebody's uid
CHANGED, RESUMED = Overwrite("changed"), Overwrite("never", begun=0)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
SPECIAL = ["symlink", "fifo", pytest.param("device", marks=needs_root)]
MODES = [pytest.param(CHANGED, id="changed"), pytest.param(RESUMED, id="resumed")]
FIELDS = {
    "symlink": {"type": FileType.SYMLINK, "target": b"nowhere", "mode": 0o777},
    "fifo": {"type": FileType.FIFO},
    "device": {"type": FileType.CHARACTER, "device": (1, 3)},
}


async def linked(line, kind, name):
    content = Inline(b"content") if kind == "small" else None
    if kind == "large":
        content = await assemble(line.sender, BATCH + 1, BATCH, [None, None])
    return entry(name, content, group=GROUP)._replace(**FIELDS.get(kind, {}))


class Target:
    """Where a point is restored that has one inode under several names."""

    def __init__(self, top, names, restore, notes):
        self.top, self.names, self._restore, self.notes = top, names, restore, notes

    async def restore(self, overwrite):
        self.notes.warnings = []
        received = await self._restore(overwrite)
        assert received.damaged == []
        return received

    def stats(self):
        return {path.name: path.lstat() for path in self.top.rglob("[a-z]")}

    def is_one(self):
        """And all of that inode's names are ours."""
        found = self.stats()
        assert self.notes.warnings == []
        assert [each.st_nlink for each in found.values()] == [self.names] * self.names
        return len({each.st_ino for each in found.values()}) == 1

    def copy(self, name):
        """Another inode that looks the same."""
        path, new = self.top / name, self.top.parent / name
        subprocess.run(["cp", "-a", path, new], check=True)
        new.replace(path)
        return path


@pytest.fixture
def target(sending, receiving, notes, tmp_path):
    async def make(kind, names=NAMES, below=False):
        """*below*: each name is in a directory of its own."""
        async with sending() as line:
            entries = [await linked(line, kind, name.encode()) for name in names]
            if below:
                entries = [
                    entry(b"in " + each.name, await directory(line, each), FileType.DIRECTORY)
                    for each in entries
                ]  # fmt: skip
            root = await directory(line, *entries)

        async def restore(overwrite):
            return await restored(receiving, notes, root, tmp_path, overwrite=overwrite)

        return Target(tmp_path / "out" / "top", len(names), restore, notes)

    return make


@pytest.mark.parametrize("overwrite", MODES)
@pytest.mark.parametrize("gone", NAMES[:2])
@pytest.mark.parametrize("kind", ["small", "large", *SPECIAL])
async def test_a_name_that_comes_back_is_a_link_to_those_that_stay(target, kind, gone, overwrite):
    here = await target(kind)
    await here.restore(Overwrite())
    (here.top / gone).unlink()
    await here.restore(overwrite)
    assert here.is_one()


@pytest.mark.parametrize("overwrite", MODES)
@pytest.mark.parametrize("gone", ["abcdefg", "ijkl"])
async def test_names_in_many_directories_find_each_other(target, gone, overwrite):
    here = await target("fifo", "abcdefghijkl", below=True)
    await here.restore(Overwrite())
    for name in gone:
        (here.top / f"in {name}" / name).unlink()
    await here.restore(overwrite)
    assert here.is_one()


@pytest.mark.parametrize("overwrite", MODES)
@pytest.mark.parametrize("other", NAMES)
@pytest.mark.parametrize("kind", ["small", *SPECIAL])
async def test_names_that_all_stay_become_one_inode(target, kind, other, overwrite):
    here = await target(kind)
    await here.restore(Overwrite())
    here.copy(other)
    received = await here.restore(overwrite)
    assert here.is_one()
    if overwrite is RESUMED:  # each was looked at, once
        assert received.files == (3 if kind == "small" else 0)


@pytest.mark.parametrize("kind", ["small", *SPECIAL])
async def test_what_stays_and_is_one_inode_is_not_touched(target, kind):
    here = await target(kind)
    await here.restore(Overwrite())
    before = {name: stat.st_ctime_ns for name, stat in here.stats().items()}
    await here.restore(CHANGED)
    assert {name: stat.st_ctime_ns for name, stat in here.stats().items()} == before


@pytest.mark.parametrize("kind", ["small", "large"])
async def test_an_inode_with_many_names_is_read_once(target, kind):
    here = await target(kind)
    await here.restore(Overwrite())
    received = await here.restore(RESUMED)
    assert received.bytes_kept == (here.top / "a").stat().st_size


async def test_a_file_that_only_looks_the_same_gives_no_other_name_its_content(target):
    here = await target("small")
    await here.restore(Overwrite())
    stat = (here.top / "a").stat()
    (here.top / "a").write_bytes(b"CONTENT")
    os.utime(here.top / "a", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    (here.top / "b").unlink()
    await here.restore(CHANGED)
    assert (here.top / "b").read_bytes() == b"content"


@needs_root
@pytest.mark.parametrize("kind", ["small", *SPECIAL])
async def test_what_is_somebody_elses_gets_no_other_name(target, kind):
    here = await target(kind)
    await here.restore(Overwrite())
    os.lchown(here.copy("a"), OTHER, OTHER)
    theirs = (here.top / "a").lstat().st_ino
    for name in ("b", "c"):
        (here.top / name).unlink()
    await here.restore(CHANGED)
    assert here.is_one()
    assert theirs not in {each.st_ino for each in here.stats().values()}


@needs_root
@pytest.mark.parametrize("kind", SPECIAL)
async def test_what_is_somebody_elses_stays_where_nothing_is_replaced(target, kind):
    here = await target(kind)
    await here.restore(Overwrite())
    os.lchown(here.copy("a"), OTHER, OTHER)
    (here.top / "b").unlink()
    await here.restore(RESUMED)
    found = here.stats()
    assert here.notes.warnings == []
    assert (found["a"].st_uid, found["b"].st_uid) == (OTHER, os.geteuid())
    assert [found[name].st_nlink for name in NAMES] == [1, 2, 2]


@pytest.mark.parametrize("name", ["a", "b"])
async def test_what_somebody_made_meanwhile_stays_and_is_named(target, name):
    here = await target("small")
    await here.restore(Overwrite())
    path = here.copy(name)
    path.write_bytes(b"theirs")
    (here.top / "c").unlink()
    await here.restore(RESUMED)
    assert here.notes.warnings == [(b"top/" + name.encode(), "exists")]
    found = here.stats()
    assert path.read_bytes() == b"theirs"
    assert [each.st_nlink for each in found.values()] == [1 if n == name else 2 for n in found]


async def test_names_of_one_group_that_lead_elsewhere_are_other_symlinks(
    sending, receiving, notes, tmp_path
):
    async with sending() as line:
        first, second = [await linked(line, "symlink", name) for name in (b"a", b"b")]
        root = await directory(line, first, second._replace(target=b"elsewhere"))
    await restored(receiving, notes, root, tmp_path)
    top = tmp_path / "out" / "top"
    assert [os.readlink(top / name) for name in ("a", "b")] == ["nowhere", "elsewhere"]
