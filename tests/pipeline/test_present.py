"""What stands in a target is kept if it is the point's, and costs nothing but reading it."""

import os
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from tests.pipeline.test_receive import directory, entry
from transfer.files.directories import Place
from transfer.formats.entry import FileType, Inline
from transfer.formats.reference import Kind, tag_of
from transfer.pipeline import write_tasks
from transfer.pipeline.overwrite import Overwrite
from transfer.pipeline.receive import TreeReceiver
from transfer.pipeline.receive_files import ReceiveOptions
from transfer.pipeline.receive_streams import Received
from transfer.pipeline.streams import assemble
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.write_tasks import FrameAt, Piece
from transfer.targets.names import TEMPORARY, key_of, temporary_name, unowned

DATA = tag_of(Kind.DATA)
MIB = 2**20
SMALL, LARGE = os.urandom(3 * MIB), os.urandom(2 * MIB) + bytes(2 * MIB) + os.urandom(3 * MIB)
MTIME = 10**18
CHANGED, NEVER, ALWAYS = Overwrite("changed"), Overwrite("never"), Overwrite("always")


def resumed(mode="never", crashed=False, begun=0):
    return Overwrite(mode, begun, crashed)


class Target:
    """A point of a small, a large, a tiny file and a symlink, and where to restore it."""

    def __init__(self, top, root, receiving, notes):
        self.top, self.root, self._receiving, self.notes = top, root, receiving, notes

    async def restore(self, overwrite):
        received, self.notes.warnings = Received(), []
        async with self._receiving() as line:
            receiver = TreeReceiver(
                line.pool, line.nodes, received, ReceiveOptions(overwrite, label=b"point"),
                self.notes, line.group,
            )  # fmt: skip
            place = Place(os.fsencode(self.top.parent))
            top = entry(b"top", self.root, FileType.DIRECTORY)
            await line.group.create_task(receiver.directory(place, top, b"top"))
        assert received.damaged == []
        return received

    def put(self, name, content, mtime=MTIME, mode=0o644):
        self.top.mkdir(exist_ok=True)
        path = self.top / name
        path.write_bytes(content)
        path.chmod(mode)
        os.utime(path, ns=(mtime, mtime))
        return path

    def is_whole(self):
        return {path.name: path.read_bytes() for path in self.top.iterdir()} == {
            "small": SMALL, "large": LARGE, "tiny": b"tiny", "link": b"tiny",
        }  # fmt: skip


@pytest.fixture
async def target(sending, receiving, notes, tmp_path):
    async def stream(line, content):
        ids = []
        for at in range(0, len(content), MIB):
            block = content[at : at + MIB]
            ids.append((await line.sender.node(DATA, block, b"")).id if any(block) else None)
        return await assemble(line.sender, len(content), MIB, ids)

    async with sending() as line:
        root = await directory(
            line, entry(b"small", await stream(line, SMALL)),
            entry(b"large", await stream(line, LARGE))._replace(sparse=True),
            entry(b"tiny", Inline(b"tiny")),
            entry(b"link", Inline(b""), FileType.SYMLINK)._replace(content=None, target=b"tiny"),
        )  # fmt: skip
    return Target(tmp_path / "out" / "top", root, receiving, notes)


DATA_SIZE = len(SMALL) + 5 * MIB  # what can be fetched


async def test_into_nothing_everything_is_fetched(target):
    received = await target.restore(CHANGED)
    assert target.is_whole()
    assert received.bytes_received > DATA_SIZE
    assert received.bytes_kept == 0


@pytest.mark.parametrize("overwrite", [CHANGED, resumed(), resumed("changed"), resumed("always")])
async def test_into_itself_nothing_is_fetched(target, overwrite):
    await target.restore(NEVER)
    received = await target.restore(overwrite)
    assert target.is_whole()
    assert received.bytes_received == 0
    assert target.notes.warnings == []


async def test_a_symlink_that_leads_elsewhere_is_made_anew(target):
    await target.restore(NEVER)
    link = target.top / "link"
    link.unlink()
    link.symlink_to("elsewhere")
    os.utime(link, ns=(MTIME, MTIME), follow_symlinks=False)
    await target.restore(CHANGED)
    assert target.is_whole()


async def test_a_symlink_that_somebody_turned_meanwhile_is_named(target):
    """Same length, same time, somewhere else."""
    await target.restore(NEVER)
    link = target.top / "link"
    link.unlink()
    link.symlink_to("evil")
    os.utime(link, ns=(MTIME, MTIME), follow_symlinks=False)
    await target.restore(resumed())
    assert target.notes.warnings == [(b"top/link", "exists")]


async def test_what_only_looks_the_same_is_kept_by_changed_and_not_by_a_resumed_run(target):
    target.put("small", bytes(len(SMALL)))
    await target.restore(CHANGED)
    assert (target.top / "small").read_bytes() == bytes(len(SMALL))
    await target.restore(resumed("changed"))
    assert target.is_whole()


@pytest.mark.parametrize("overwrite", [CHANGED, resumed("changed"), resumed(crashed=True)])
async def test_of_a_file_that_differs_only_blocks_that_differ_are_fetched(target, overwrite):
    later = MTIME if overwrite.crashed else MTIME + 1
    target.put("large", LARGE[:MIB] + bytes(MIB) + LARGE[2 * MIB :], later)
    target.put("small", SMALL, later)
    received = await target.restore(overwrite)
    assert target.is_whole()
    assert MIB < received.bytes_received < 1.01 * MIB
    assert (target.top / "small").stat().st_mtime_ns == MTIME


@pytest.mark.parametrize("size", [len(LARGE) - 5, len(LARGE) + 5, BATCH + 1, 5])
async def test_a_file_of_another_size_gives_what_it_has(target, size):
    target.put("large", (LARGE + b"beyond")[:size])
    received = await target.restore(CHANGED)
    assert target.is_whole()
    kept = sum(MIB for at in (0, 1, 4, 5, 6) if (at + 1) * MIB <= size)
    assert received.bytes_kept == kept


async def test_where_zeros_should_be_something_else_is_not_whole(target):
    target.put("large", LARGE[: 3 * MIB] + b"x" + LARGE[3 * MIB + 1 :])
    received = await target.restore(resumed("changed"))
    assert target.is_whole()
    assert received.bytes_received < len(SMALL) * 1.01


async def test_what_differs_and_is_somebody_elses_stays(target):
    for name, content in (("small", b"theirs"), ("large", b"x" * len(LARGE)), ("tiny", b"tinY")):
        target.put(name, content)
    received = await target.restore(resumed())
    assert (target.top / "small").read_bytes() == b"theirs"
    assert (target.top / "large").read_bytes() == b"x" * len(LARGE)
    assert sorted(target.notes.warnings) == [
        (b"top/large", "exists"), (b"top/small", "exists"), (b"top/tiny", "exists"),
    ]  # fmt: skip
    assert received.bytes_received == 0


async def test_after_a_crash_too_what_somebody_wrote_since_stays(target):
    target.put("small", b"theirs", MTIME + 1)
    await target.restore(resumed(crashed=True))
    assert (target.top / "small").read_bytes() == b"theirs"
    assert target.notes.warnings == [(b"top/small", "exists")]


async def test_what_was_there_before_the_first_run_is_not_taken_for_ours(target):
    target.put("small", SMALL)
    after = time.time_ns() + 10**9
    await target.restore(resumed(crashed=True, begun=after))
    assert target.notes.warnings == [(b"top/small", "exists")]


@pytest.mark.parametrize("why", ["writable by others", "another name"])
async def test_a_file_that_others_may_write_is_written_anew(target, why):
    path = target.put("small", SMALL, mode=0o666 if "writable" in why else 0o644)
    if why == "another name":
        os.link(path, target.top.parent / "theirs")
    before = path.stat()
    received = await target.restore(resumed("changed"))
    assert target.is_whole()
    assert path.stat().st_ino != before.st_ino
    assert path.stat().st_mode & 0o777 == 0o644
    assert received.bytes_received > len(SMALL)


def leftover(target, content, label=b"point", name=b"large"):
    """An unfinished file of a run that was killed."""
    from blake3 import blake3

    key = blake3(label + name).hexdigest(8).encode()
    return target.put(os.fsdecode(unowned(temporary_name(key))), content, mode=0o600)


async def test_an_unfinished_file_is_gone_on_with(target):
    leftover(target, LARGE[:MIB] + bytes(3 * MIB) + LARGE[4 * MIB : 5 * MIB])
    received = await target.restore(resumed())
    assert target.is_whole()
    assert received.bytes_kept == 2 * MIB
    assert (target.top / "large").stat().st_blocks * 512 < len(LARGE)


async def test_where_an_unfinished_file_has_what_should_be_zeros_it_gets_them(target):
    leftover(target, b"x" * 5 * MIB)
    await target.restore(resumed())
    assert target.is_whole()


@pytest.mark.parametrize("overwrite", [NEVER, resumed()])
@pytest.mark.parametrize("of", ["another point", "a file that is there"])
async def test_an_unfinished_file_that_nobody_goes_on_with_goes(target, overwrite, of):
    if of == "another point":
        leftover(target, LARGE, label=b"another")
    else:
        target.put("large", LARGE)
        leftover(target, LARGE[:MIB])
    await target.restore(overwrite)
    assert target.is_whole()


async def test_a_run_that_resumes_nothing_begins_anew(target):
    leftover(target, LARGE[:MIB])
    received = await target.restore(NEVER)
    assert target.is_whole()
    assert received.bytes_kept == 0


async def test_an_unfinished_file_that_somebody_linked_is_not_written(target):
    path = leftover(target, LARGE[:MIB])
    theirs = target.top.parent / "theirs"
    os.link(path, theirs)
    received = await target.restore(resumed())
    assert target.is_whole()
    assert received.bytes_kept == 0
    assert theirs.read_bytes() == LARGE[:MIB]


async def test_an_unfinished_file_that_others_may_open_is_not_gone_on_with(target):
    path = leftover(target, LARGE[:MIB])
    path.chmod(0o666)
    with path.open("r+b") as theirs:
        received = await target.restore(resumed())
        theirs.write(b"evil")
    assert target.is_whole()
    assert received.bytes_kept == 0


def test_a_temporary_name_says_what_it_is_of():
    assert key_of(temporary_name(b"0123")) == b"0123"
    assert key_of(unowned(temporary_name(b"0123"))) == b"0123"
    for other in (temporary_name(), unowned(temporary_name()), b"x-0123-y", TEMPORARY + b"1-2"):
        assert key_of(other) == b""


class Image:
    """What a worker does to an image, in its order."""

    def __init__(self):
        self.calls = []

    def write(self, offset, block):
        self.calls.append((offset, block))

    def flush(self):
        self.calls.append("flush")


@pytest.mark.parametrize("fails", [False, True])
def test_blocks_of_an_image_are_written_when_the_worker_says_so(monkeypatch, fails):
    image, contents = Image(), iter([b"a", b"b", ZeroDivisionError() if fails else b"c"])

    def content(opened, frame):
        found = next(contents)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(write_tasks.OpenedFrames, "content", content)
    lane = SimpleNamespace(tools=SimpleNamespace(image=lambda held: image))
    frames = [FrameAt(1, Piece(None, offset, 1), 0) for offset in range(3)]
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        assert write_tasks.write_image(lane, None, frames, []) == []
    written = [(0, b"a"), (1, b"b")] if fails else [(0, b"a"), (1, b"b"), (2, b"c")]
    assert image.calls == [*written, "flush"]
