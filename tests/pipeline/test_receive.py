"""What comes back into a tree: slices, links, and what other tries have left."""

import asyncio
import os
import signal

import pytest

from transfer.errors import FormatError
from transfer.files.directories import Place
from transfer.formats.directory import IndexEntry, encode_index, encode_page
from transfer.formats.entry import Entry, FileType, Inline, Root, Slice
from transfer.formats.reference import Kind, tag_of
from transfer.pipeline.check import TreeChecker
from transfer.pipeline.directories import DirectoryBuilder
from transfer.pipeline.receive import TreeReceiver
from transfer.pipeline.receive_files import ReceiveOptions
from transfer.pipeline.receive_streams import Received
from transfer.pipeline.streams import assemble
from transfer.targets.names import TEMPORARY

DATA = tag_of(Kind.DATA)


def entry(name, content, kind=FileType.FILE, group=b""):
    return Entry(name, kind, 0o644, os.getuid(), os.getgid(), 10**18, 10**18, content,
                 link_group=group)  # fmt: skip


async def directory(line, *entries):
    builder = DirectoryBuilder(line.sender, set())
    for each in sorted(entries, key=lambda each: each.name):
        await builder.add(each, 0)
    return Root(await builder.finish())


async def restored(receiving, notes, root, tmp_path, workers=0, meanwhile=None, **options):
    received = Received()
    async with receiving(workers) as line:
        receiver = TreeReceiver(
            line.pool, line.nodes, received, ReceiveOptions(**options), notes, line.group
        )
        place = Place(os.fsencode(tmp_path / "out"))
        task = line.group.create_task(
            receiver.directory(place, entry(b"top", root, FileType.DIRECTORY), b"top")
        )
        if meanwhile is not None:
            await meanwhile(line)
        await task
    return received


async def test_slices_of_shared_blocks_come_back(sending, receiving, notes, tmp_path):
    block = os.urandom(100_000)
    async with sending() as line:
        shared = await line.sender.node(DATA, block, b"")
        root = await directory(
            line,
            entry(b"first", Slice(shared, 0, 5_000)),
            entry(b"last", Slice(shared, 99_990, 10)),
            entry(b"beyond", Slice(shared, 99_990, 11)),
        )
    received = await restored(receiving, notes, root, tmp_path)
    assert (tmp_path / "out/top/first").read_bytes() == block[:5_000]
    assert (tmp_path / "out/top/last").read_bytes() == block[-10:]
    assert not (tmp_path / "out/top/beyond").exists()
    assert [each.startswith("top/beyond: ") for each in received.damaged] == [True]


async def test_names_of_one_inode_in_many_directories_are_one_inode(
    sending, receiving, notes, tmp_path
):
    content = os.urandom(5 * 2**20)
    async with sending() as line:
        ids = [
            (await line.sender.node(DATA, content[at : at + 2**20], b"")).id
            for at in range(0, len(content), 2**20)
        ]
        stream = await assemble(line.sender, len(content), 2**20, ids)
        below = [
            entry(b"d%02d" % n, await directory(line, entry(b"f", stream, group=b"g" * 16)),
                  FileType.DIRECTORY)
            for n in range(12)
        ]  # fmt: skip
        root = await directory(line, *below)
    await restored(receiving, notes, root, tmp_path)
    found = [(tmp_path / f"out/top/d{n:02}/f").stat() for n in range(12)]
    assert {each.st_ino for each in found} == {found[0].st_ino}
    assert found[0].st_nlink == 12
    assert (tmp_path / "out/top/d07/f").read_bytes() == content
    assert not notes.warnings


async def test_names_of_one_group_with_other_content_are_other_files(
    sending, receiving, notes, tmp_path
):
    async with sending() as line:
        root = await directory(
            line, entry(b"a", Inline(b"one"), group=b"g" * 16),
            entry(b"b", Inline(b"two"), group=b"g" * 16),
        )  # fmt: skip
    await restored(receiving, notes, root, tmp_path)
    assert (tmp_path / "out/top/a").read_bytes() == b"one"
    assert (tmp_path / "out/top/b").read_bytes() == b"two"


@pytest.mark.parametrize("kills", [1, 3])
async def test_a_worker_killed_in_the_middle_costs_no_file_and_leaves_nothing(
    sending, receiving, notes, tmp_path, kills
):
    async with sending() as line:
        below = []
        for n in range(30):
            files = [entry(b"%03d" % i, Inline(b"%d %d" % (n, i))) for i in range(100)]
            below.append(entry(b"d%02d" % n, await directory(line, *files), FileType.DIRECTORY))
        root = await directory(line, *below)

    async def kill(line):
        for n in range(kills):
            while len(list((tmp_path / "out").glob("top/*/*"))) < 200 * (n + 1):
                await asyncio.sleep(0.001)
            os.kill(line.pool._workers[n % 2]._process.pid, signal.SIGKILL)

    received = await restored(receiving, notes, root, tmp_path, workers=2, meanwhile=kill)
    found = sorted(path for path in (tmp_path / "out/top").rglob("*") if path.is_file())
    assert len(found) == 3000
    assert not any(os.fsencode(path.name).startswith(TEMPORARY) for path in found)
    assert (tmp_path / "out/top/d29/099").read_bytes() == b"29 99"
    assert (received.damaged, notes.warnings) == ([], [])


async def test_a_check_opens_everything_or_a_sample(sending, receiving, notes, vault):
    async with sending() as line:
        blocks = [await line.sender.node(DATA, b"%d" % n * 3000, b"") for n in range(20)]
        root = await directory(
            line, *(entry(b"%02d" % n, Slice(block, 0, 3000)) for n, block in enumerate(blocks))
        )

    async def checked(chosen):
        received = Received()
        async with receiving() as line:
            checker = TreeChecker(line.pool, line.nodes, received, chosen, lambda size: None)
            await checker.run(root.reference)
        return received

    whole = await checked(lambda: True)
    assert (whole.blocks, whole.files, whole.damaged) == (20, 20, [])
    turns = iter(range(100))
    assert (await checked(lambda: next(turns) % 4 == 0)).blocks == 5


async def built(line, pages):
    """An index over pages that no writer would put below one."""
    found = []
    for page in pages:
        plain, children = encode_page(page)
        node = await line.sender.node(tag_of(Kind.PAGE), plain, children)
        found.append(IndexEntry(page[0].name, node))
    plain, children = encode_index(1, found)
    return Root(await line.sender.node(tag_of(Kind.INDEX, 1), plain, children))


async def test_a_name_that_comes_again_on_another_page_is_not_entered(
    sending, receiving, notes, tmp_path
):
    """First a symlink that leads outside, then a directory of that name."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = entry(b"c", None, FileType.SYMLINK)._replace(target=os.fsencode(outside))
    async with sending() as line:
        below = await directory(line, entry(b"planted", Inline(b"x")))
        first, again = [entry(b"a", Inline(b"a")), link], entry(b"c", below, FileType.DIRECTORY)
        duplicate = await built(line, [first, [again]])
        disordered = await built(line, [first, [entry(b"b", Inline(b"b")), again]])
    for bad in (duplicate, disordered):
        with pytest.raises((FormatError, ExceptionGroup)):
            await restored(receiving, notes, bad, tmp_path)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("by", [-1, 1, 2**16])
async def test_a_stream_under_another_length_is_damaged_and_not_published(
    sending, receiving, notes, tmp_path, by
):
    content = os.urandom(3 * 2**16)
    async with sending() as line:
        ids = [
            (await line.sender.node(DATA, content[at : at + 2**16], b"")).id
            for at in range(0, len(content), 2**16)
        ]
        stream = await assemble(line.sender, len(content), 2**16, ids)
        lying = stream._replace(length=stream.length + by)
        root = await directory(line, entry(b"lying", lying), entry(b"sound", stream))
    received = await restored(receiving, notes, root, tmp_path)
    assert (tmp_path / "out/top/sound").read_bytes() == content
    assert not (tmp_path / "out/top/lying").exists()
    assert received.damaged
