"""A power cut after any call of a restore, and whatever it leaves of what was not synced by then.

No image has its name before it is whole, a tree that is not whole is marked as such, and the same
restore made again gives back all of it.
"""

import asyncio
import filecmp
import os
import random
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import msgspec
import pytest

from tests.acceptance.compare import differences
from tests.acceptance.needs import lacking
from tests.acceptance.shell import ROOT
from tests.faults.crash_images import cuts, durable, in_order, replay
from tests.faults.recording import Op, record
from tests.faults.restoring import machine
from transfer.errors import FormatError
from transfer.formats import documents
from transfer.jobs.restore import _identified as identified
from transfer.jobs.state import StateDirectory
from transfer.jobs.unfinished import Unfinished, unfinished
from transfer.pipeline.tasks import BATCH

pytestmark = pytest.mark.usefixtures("quick_keyrings")

BLOCK = 65536


class Restored:
    """A restore of *sources*. Its disk has the state and the target, and is made anew for each
    power cut, in the same place.
    """

    def __init__(self, top, sources):
        self.top, self.sources = top, [top / name for name in sources]
        self.disk, self.into, self.before = top / "disk", top / "disk" / "into", top / "before"
        self.machine, self.alone = machine(top), sources == ["image"]  # that is what --to names
        self.disk.mkdir()
        for path in self.sources:
            make_tree(path) if path.name == "tree" else with_holes(path, 4 * BLOCK)
        asyncio.run(self.machine.backup(*self.sources, block_size=BLOCK))
        subprocess.run(["cp", "-a", self.disk, self.before], check=True)
        self.ops = self.record()

    def record(self, inodes=None):
        command = [sys.executable, "-m", "tests.faults.restoring", str(self.top)]
        return record(self.disk, command, ROOT, inodes)

    def go_on(self, kind, name, number):
        """It was killed after the *number*th call of *kind* for a file like *name*, and is made
        again.
        """
        files = {op.file for op in self.ops for each in op.names if fnmatch(each, name)}
        calls = [n for n, op in enumerate(self.ops) if op.kind == kind and op.file in files]
        end = calls[number - 1] + 1
        inodes = self.cut(end, set(range(end)), crashed=False)
        self.ops = self.ops[:end] + self.record(inodes)

    def cut(self, end, chosen, crashed=True):
        """Leave on the disk what the *chosen* of the calls did; the inode of each name."""
        shutil.rmtree(self.disk)
        inodes = replay(self.before, self.disk, self.ops[:end], chosen)
        images = [self.found(inodes, each) for each in self.sources if each.is_file()]
        for path in (self.disk / "state" / "restores").glob("*"):
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(moved(line, images, crashed) for line in lines))
        return inodes

    def found(self, inodes, image):
        """Where it is now, if it is; whatever its name is."""
        name = str(self.back(image).relative_to(self.disk))
        made = [op.file for op in self.ops if op.target == name]
        names = [self.disk / each for each in inodes if made and inodes[each] == made[-1]]
        return names[0] if names else None

    def back(self, source):
        return self.into if self.alone else self.into / source.name

    def is_whole(self, source):
        back = self.back(source)
        if source.is_dir():
            return back.exists() and differences(source, back) == []
        return back.exists() and filecmp.cmp(source, back, shallow=False)

    async def check(self, end, chosen):
        self.cut(end, in_order(self.ops[:end], chosen))
        state = StateDirectory(self.disk / "state")
        there = [each for each in self.sources if self.back(each).exists()]
        assert all(self.is_whole(each) for each in there if each.is_file())
        told = any(op.kind == "told" for op in self.ops[:end])
        if told or (there and not unfinished(state)):
            assert all(self.is_whole(each) for each in self.sources)
            return
        result = await self.machine.restore(self.into)
        assert (result.damaged, result.warnings) == ([], [])
        assert all(self.is_whole(each) for each in self.sources)
        assert list(self.disk.rglob(".transfer-*")) == []
        assert unfinished(state) == []


def make_tree(top):
    (top / "deep").mkdir(parents=True)
    (top / "small").write_text("small")
    (top / "link").symlink_to("small")
    os.mkfifo(top / "fifo")
    for name in ("small", "fifo"):
        os.link(top / name, top / "deep" / name)
    with_holes(top / "deep" / "large", BATCH + BLOCK)


def with_holes(path, size):
    """Three blocks, and holes between the first and the others."""
    with path.open("wb") as file:
        file.write(os.urandom(BLOCK))
        file.seek(size - 2 * BLOCK)
        file.write(os.urandom(2 * BLOCK))


def moved(line, images, crashed):
    """A mark as it would be for the same inodes here, and before the machine started again."""
    try:
        mark = documents.decode(line, Unfinished, "a mark")
    except FormatError:
        return line
    own = list(mark.own)
    for number, image in enumerate(images[: len(own)]):
        if image is not None:
            handle, ctime = identified(os.fsencode(image))
            own[number] = handle, ctime if own[number][1] else 0
    mark = msgspec.structs.replace(mark, own=tuple(own))
    if crashed:
        mark = msgspec.structs.replace(mark, boot="another")
    return documents.encode(mark) + b"\n"


LIVES = {
    "a tree and an image": (["tree", "image"], ()),
    "killed in the image": (["tree", "image"], ("write", "into/image", 2)),
    "killed in a large file": (["tree", "image"], ("write", "into/tree/deep/large", 2)),
    "an image alone": (["image"], ()),
    "killed when it had its name": (["image"], ("rename", "into", 1)),
    "killed before its mark was durable": (["tree"], ("write", "state/restores/*", 1)),
    "two images": (["image", "other"], ()),
}


@pytest.fixture(scope="module")
def restored(tmp_path_factory, quick_keyrings, request):
    if shutil.which("strace") is None:
        lacking("strace is not installed")
    sources, kill = LIVES[request.param]
    restored = Restored(tmp_path_factory.mktemp("restored"), sources)
    if kill:
        restored.go_on(*kill)
    return restored


def lives(*names):
    return pytest.mark.parametrize("restored", names, indirect=True, scope="module")


def some_of(ops, step):
    """Those after all that was done are always among them."""
    images = list(cuts(ops, random.Random("cuts"), 60, singly=1))
    return images[::step] + [image for image in images if image[0] == len(ops)]


@lives("a tree and an image")
def test_the_recording_has_what_it_is_about(restored):
    kinds = {op.kind for op in restored.ops}
    made = {"create", "symlink", "fifo", "link", "mkdir", "rename", "unlink"}
    assert kinds >= made | {"write", "truncate", "mode", "mtime", "sync", "sync-all", "told"}
    restored.cut(len(restored.ops), set(range(len(restored.ops))))
    assert all(restored.is_whole(each) for each in restored.sources)
    link = Op("rename", "a", 1, target="b")
    ops = [Op("create", "a", 1), Op("mode", "", 1), Op("write", "a", 1), link]
    assert in_order(ops, {3}) == {0, 1, 3}
    assert in_order(ops, {0, 2}) == {0, 2}
    assert durable([*ops, Op("sync-all")]) == {0, 1, 2, 3}
    assert durable([*ops, Op("sync", "a", 1)]) == {1, 2}
    assert durable([Op("mkdir", "d"), Op("mode", "d"), Op("sync", "d")]) == {1}


@lives("a tree and an image", "killed when it had its name")
async def test_some_power_cuts_cost_nothing_that_cannot_be_had_again(restored):
    for end, chosen in some_of(restored.ops, 12):
        await restored.check(end, chosen)


@pytest.mark.slow
@lives(*LIVES)
async def test_no_power_cut_costs_anything_that_cannot_be_had_again(restored):
    for end, chosen in some_of(restored.ops, 6):
        await restored.check(end, chosen)
