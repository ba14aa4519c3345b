"""Files that are slices of shared blocks: each block is fetched and opened once for all of them."""

import os

import pytest

from tests.pipeline.test_receive import directory, entry, restored
from transfer.formats import frame
from transfer.formats.entry import Inline, Slice
from transfer.formats.reference import Kind, tag_of
from transfer.formats.stream import MAX_BLOCK
from transfer.pipeline import sealing
from transfer.pipeline.check import TreeChecker
from transfer.pipeline.overwrite import Overwrite
from transfer.pipeline.receive_streams import Received

DATA = tag_of(Kind.DATA)
EACH = 3000
MTIME = 10**18
RESUMED, CHANGED = Overwrite("never", 0), Overwrite("changed")


async def shared(line, names):
    """A block, and entries of *names* that are its slices in this order."""
    content = os.urandom(EACH * len(names))
    block = await line.sender.node(DATA, content, b"")
    return [entry(name, Slice(block, EACH * n, EACH)) for n, name in enumerate(names)], content


@pytest.fixture
async def interleaved(sending):
    """The root of a directory in which 200 files are slices of two blocks in turn."""
    async with sending() as line:
        (even, _), (odd, _) = [
            await shared(line, [b"%03d" % n for n in range(first, 200, 2)]) for first in (0, 1)
        ]
        return await directory(line, *even, *odd)


@pytest.fixture
def opened_blocks(monkeypatch):
    """The IDs of blocks, as often as they are opened."""
    found, work = [], sealing.Opener.open

    def opened(self, raw, expected=None):
        if expected is not None and expected[0] == DATA:
            found.append(expected[1])
        return work(self, raw, expected)

    monkeypatch.setattr(sealing.Opener, "open", opened)
    return found


async def checked(receiving, root, chosen=lambda: True):
    received = Received()
    async with receiving() as line:
        checker = TreeChecker(line.pool, line.nodes, received, chosen, lambda size: None)
        await checker.run(root.reference)
    return received


async def test_a_block_is_fetched_and_opened_once_for_all_files_of_a_batch(
    sending, receiving, notes, tmp_path, opened_blocks
):
    async with sending() as line:
        ones, one = await shared(line, [b"%02d" % n for n in range(0, 60, 2)])
        others, other = await shared(line, [b"%02d" % n for n in range(1, 60, 2)])
        root = await directory(line, *ones, *others)
    opened_blocks.clear()
    received = await restored(receiving, notes, root, tmp_path)
    found = [(tmp_path / f"out/top/{n:02}").read_bytes() for n in range(60)]
    assert (b"".join(found[::2]), b"".join(found[1::2])) == (one, other)
    assert (received.blocks, received.files, received.bytes_written) == (2, 60, 60 * EACH)
    assert len(opened_blocks) == 2


async def test_slices_that_follow_each_other_are_one_batch_however_many_they_are(
    sending, receiving, notes, tmp_path
):
    async with sending() as line:
        few, _ = await shared(line, [b"a%03d" % n for n in range(100)])
        many, _ = await shared(line, [b"b%03d" % n for n in range(300)])
        root = await directory(line, *few, *many)
    assert (await restored(receiving, notes, root, tmp_path)).blocks == 2


async def test_one_file_costs_one_block(receiving, notes, tmp_path, interleaved):
    received = await restored(
        receiving, notes, interleaved, tmp_path,
        selected=lambda path, is_directory: is_directory or path == b"top/150",
    )  # fmt: skip
    assert os.listdir(tmp_path / "out/top") == ["150"]
    assert received.blocks == 1


async def test_a_check_opens_each_block_once_or_leaves_it_out(
    receiving, interleaved, opened_blocks
):
    whole = await checked(receiving, interleaved)
    assert (whole.blocks, whole.files, whole.damaged) == (2, 200, [])
    assert len(opened_blocks) == 2
    turns = iter(range(100))
    assert (await checked(receiving, interleaved, lambda: next(turns) == 1)).blocks == 1


def broken(raw):
    """A frame whose payload is another one's, under a checksum that holds."""
    header, children, payload = frame.decode(raw)[0]
    flipped = bytes([payload[0] ^ 1]) + bytes(payload[1:])
    checksum = frame.checksum_of(children + flipped)
    return frame.encode_header(header._replace(checksum=checksum)) + children + flipped


def copies_of(vault, opened, reference):
    return vault._domain(opened.domain).copies[reference]


@pytest.mark.parametrize("damage", ["missing", "does not open"])
async def test_damage_to_a_block_names_all_its_files_and_no_others(
    sending, receiving, notes, tmp_path, vault, opened, damage
):
    async with sending() as line:
        lost, _ = await shared(line, [b"a", b"c", b"e"])
        whole, _ = await shared(line, [b"b", b"d"])
        root = await directory(line, *lost, *whole)
    copies = copies_of(vault, opened, lost[0].content.block)
    if damage == "missing":
        copies.clear()
    else:
        copies[0].arrived = copies[0].arrived._replace(raw=broken(copies[0].arrived.raw))
    received = await restored(receiving, notes, root, tmp_path)
    assert sorted(os.listdir(tmp_path / "out/top")) == ["b", "d"]
    named = ["top/a", "top/c", "top/e"]
    assert [each.split(":")[0] for each in received.damaged] == named
    found = (await checked(receiving, root)).damaged
    assert [each.split(":")[0] for each in found] == ["a", "c", "e"]


async def test_a_copy_that_does_not_open_costs_no_file(
    sending, receiving, notes, tmp_path, vault, opened
):
    async with sending() as line:
        files, content = await shared(line, [b"a", b"b", b"c"])
        root = await directory(line, *files)
    copies = copies_of(vault, opened, files[0].content.block)
    bad = copies[0].arrived._replace(raw=broken(copies[0].arrived.raw))
    copies.insert(0, type(copies[0])(bad))
    received = await restored(receiving, notes, root, tmp_path)
    assert (received.damaged, notes.warnings) == ([], [])
    assert (tmp_path / "out/top/b").read_bytes() == content[EACH : 2 * EACH]


async def test_a_slice_beyond_its_block_is_no_fault_of_the_block(
    sending, receiving, notes, tmp_path, vault, opened
):
    async with sending() as line:
        files, _ = await shared(line, [b"a", b"b"])
        block = files[0].content.block
        root = await directory(line, *files, entry(b"c", Slice(block, 2 * EACH - 9, 10)))
    for received in (
        await restored(receiving, notes, root, tmp_path),
        await checked(receiving, root),
    ):
        assert [each.split(":")[0].removeprefix("top/") for each in received.damaged] == ["c"]
    assert [copy.good for copy in copies_of(vault, opened, block)] == [True]


async def test_blocks_that_are_larger_than_any_writer_makes_them_come_back(
    sending, receiving, notes, tmp_path
):
    """Of which a slot holds one, and the slices do not tell."""
    async with sending() as line:
        blocks = [await line.sender.node(DATA, os.urandom(MAX_BLOCK), b"") for _ in range(3)]
        root = await directory(
            line, *(entry(b"%d" % n, Slice(block, 0, 10)) for n, block in enumerate(blocks))
        )
    received = await restored(receiving, notes, root, tmp_path)
    assert (received.damaged, received.blocks) == ([], 3)
    assert (await checked(receiving, root)).damaged == []


class Into:
    """A target in which five slices of one block are to be, and what else is restored there."""

    def __init__(self, receiving, notes, root, tmp_path, content):
        self.top, self.content, self.notes = tmp_path / "out/top", content, notes
        self._restore = lambda overwrite: restored(
            receiving, notes, root, tmp_path, overwrite=overwrite
        )

    async def restore(self, overwrite):
        self.notes.warnings.clear()
        received = await self._restore(overwrite)
        assert received.damaged == []
        return received

    def whole(self):
        return b"".join((self.top / name).read_bytes() for name in "abcde") == self.content

    def put(self, name, content, mtime=MTIME):
        (self.top / name).write_bytes(content)
        os.utime(self.top / name, ns=(mtime, mtime))


@pytest.fixture
async def into(sending, receiving, notes, tmp_path):
    async with sending() as line:
        files, content = await shared(line, [b"a", b"b", b"c", b"d", b"e"])
        root = await directory(line, *files, entry(b"tiny", Inline(b"tiny")))
    into = Into(receiving, notes, root, tmp_path, content)
    await into.restore(Overwrite())
    return into


async def test_what_a_restore_has_given_back_is_not_fetched_again(into):
    received = await into.restore(RESUMED)
    assert into.whole()
    assert (received.bytes_received, received.bytes_written) == (0, 0)
    assert (received.bytes_kept, received.files) == (5 * EACH + 4, 6)
    assert into.notes.warnings == []


@pytest.mark.parametrize("gone", ["abc", "c", "e"])
async def test_a_restore_that_goes_on_writes_what_is_not_there_and_nothing_else(into, gone):
    for name in gone:
        (into.top / name).unlink()
    before = {name: (into.top / name).stat().st_ino for name in set("abcde") - set(gone)}
    received = await into.restore(RESUMED)
    assert into.whole()
    assert received.blocks == 1
    assert received.bytes_written == EACH * len(gone)
    assert received.bytes_kept == 5 * EACH + 4 - received.bytes_written
    assert into.notes.warnings == []
    assert {name: (into.top / name).stat().st_ino for name in before} == before


async def test_what_differs_from_its_slice_and_is_somebody_elses_stays(into):
    into.put("b", b"x" * EACH)
    await into.restore(RESUMED)
    assert into.notes.warnings == [(b"top/b", "exists")]
    into.put("d", b"short")
    await into.restore(RESUMED)
    assert (into.top / "b").read_bytes() == b"x" * EACH
    assert (into.top / "d").read_bytes() == b"short"
    assert sorted(into.notes.warnings) == [(b"top/b", "exists"), (b"top/d", "exists")]


async def test_changed_writes_what_differs_from_its_slice_and_keeps_what_does_not(into):
    into.put("b", b"x" * EACH, MTIME + 1)
    into.put("c", b"short")
    os.utime(into.top / "d", ns=(5, 5))
    inode = (into.top / "d").stat().st_ino
    received = await into.restore(CHANGED)
    assert into.whole()
    assert (received.blocks, received.bytes_written) == (1, 2 * EACH)
    assert ((into.top / "d").stat().st_ino, (into.top / "d").stat().st_mtime_ns) == (inode, MTIME)


@pytest.mark.parametrize("number", [0, 3])
async def test_a_name_of_an_inode_may_be_a_slice(sending, receiving, notes, tmp_path, number):
    async with sending() as line:
        files, content = await shared(line, [b"a", b"b", b"c", b"d"])
        files[number] = files[number]._replace(link_group=b"g" * 16)
        linked = files[number]._replace(name=b"linked")
        root = await directory(line, *files, linked)
    await restored(receiving, notes, root, tmp_path)
    top = tmp_path / "out/top"
    found = b"".join((top / name).read_bytes() for name in "abcd")
    assert found == content
    assert (top / "linked").samefile(top / "abcd"[number])


async def test_what_has_another_size_is_not_looked_at(into):
    for name in "abcde":
        into.put(name, b"theirs")
    received = await into.restore(RESUMED)
    assert received.bytes_received == 0
    assert len(into.notes.warnings) == 5


async def test_a_slice_that_others_may_write_is_written_anew(into):
    (into.top / "a").unlink()
    (into.top / "b").chmod(0o666)
    inode = (into.top / "b").stat().st_ino
    await into.restore(Overwrite("changed", 0))
    assert into.whole()
    assert (into.top / "b").stat().st_ino != inode
