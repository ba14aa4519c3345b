"""Pages of new directories are given back in workers as a whole, and what is unusual as ever."""

import os

import pytest

from tests.pipeline.test_receive import DATA, built, directory, entry, restored
from tests.pipeline.test_slices import broken, copies_of
from transfer.errors import WorkerLost
from transfer.files.directories import Place
from transfer.formats.entry import FileType, Inline, Root, Slice
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import FIXED, Descriptor
from transfer.pipeline import page_tasks, page_writer
from transfer.pipeline.overwrite import Overwrite
from transfer.pipeline.streams import assemble
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.units import LIKELY
from transfer.pipeline.workers import Leased

BLOCK = 2**20
MIXED = os.urandom(BLOCK)


@pytest.fixture
def calls(monkeypatch):
    """Of what a lane is asked for."""
    found, call = [], Leased.call

    async def heard(self, function, *arguments, **named):
        found.append(function.__name__)
        return await call(self, function, *arguments, **named)

    monkeypatch.setattr(Leased, "call", heard)
    return found


async def mixed(line):
    """A directory with whatever a worker can give back by itself, in 40 names of one page."""
    whole = await line.sender.node(DATA, MIXED, b"")
    short = await line.sender.node(DATA, b"short", b"")
    return await directory(
        line,
        entry(b"empty", Inline(b"")),
        entry(b"fifo", None, FileType.FIFO),
        entry(b"holes", Descriptor(5 * 2**16, BLOCK, FIXED, None))._replace(sparse=True),
        entry(b"inline", Inline(b"inline")),
        entry(b"link", None, FileType.SYMLINK)._replace(target=b"inline"),
        entry(b"short", Descriptor(5, BLOCK, FIXED, short)),
        entry(b"slice", Slice(whole, 10, 100)),
        entry(b"whole", Descriptor(BLOCK, BLOCK, FIXED, whole)),
        entry(b"zeros", Descriptor(5 * 2**16, BLOCK, FIXED, None)),
    )


def check_mixed(top):
    assert (top / "empty").read_bytes() == b""
    assert (top / "fifo").is_fifo()
    assert (top / "inline").read_bytes() == b"inline"
    assert os.readlink(top / "link") == "inline"
    assert (top / "short").read_bytes() == b"short"
    assert (top / "slice").read_bytes() == MIXED[10:110]
    assert (top / "whole").read_bytes() == MIXED
    for name, blocks in (("holes", 0), ("zeros", 5 * 2**16 // 512)):
        assert (top / name).read_bytes() == bytes(5 * 2**16)
        assert (top / name).stat().st_blocks == blocks


@pytest.mark.parametrize("workers", [0, 1])
async def test_all_that_a_worker_can_do_comes_back(
    sending, receiving, notes, tmp_path, calls, workers
):
    async with sending() as line:
        root = await directory(line, entry(b"d", await mixed(line), FileType.DIRECTORY))
    calls.clear()
    received = await restored(receiving, notes, root, tmp_path, workers)
    check_mixed(tmp_path / "out/top/d")
    assert (received.files, received.blocks) == (7, 3)
    assert received.bytes_written == notes.done == BLOCK + 100 + 5 + 6 + 2 * 5 * 2**16
    assert (received.damaged, notes.warnings) == ([], [])
    assert set(calls) == {
        "enter_directories", "open_pages", "write_units", "finish_directories",
    }  # fmt: skip


async def test_what_is_unusual_comes_back_beside_it(sending, receiving, notes, tmp_path):
    content = os.urandom(3 * BLOCK)
    async with sending() as line:
        ids = [
            (await line.sender.node(DATA, content[at : at + BLOCK], b"")).id
            for at in range(0, len(content), BLOCK)
        ]
        stream = await assemble(line.sender, len(content), BLOCK, ids)
        attributes = await line.sender.content(b"\x06user.x" + (3).to_bytes(4, "little") + b"abc")
        root = await directory(
            line,
            entry(b"first", Inline(b"linked"), group=b"g" * 16),
            entry(b"large", stream),
            entry(b"second", Inline(b"linked"), group=b"g" * 16),
            entry(b"small", Inline(b"small")),
            entry(b"with attributes", Inline(b"y"))._replace(xattr_stream=attributes),
        )
    received = await restored(receiving, notes, root, tmp_path)
    top = tmp_path / "out/top"
    assert (top / "first").stat().st_ino == (top / "second").stat().st_ino
    assert (top / "large").read_bytes() == content
    assert (top / "small").read_bytes() == b"small"
    assert os.getxattr(top / "with attributes", b"user.x") == b"abc"
    assert (received.files, received.damaged, notes.warnings) == (5, [], [])


async def test_what_stands_there_already_is_looked_at_name_by_name(
    sending, receiving, notes, tmp_path, calls
):
    async with sending() as line:
        root = await directory(line, entry(b"d", await mixed(line), FileType.DIRECTORY))
    (tmp_path / "out/top/d").mkdir(parents=True)
    (tmp_path / "out/top/d/inline").write_bytes(b"mine")
    calls.clear()
    await restored(receiving, notes, root, tmp_path)
    assert (tmp_path / "out/top/d/inline").read_bytes() == b"mine"
    assert notes.warnings == [(b"top/d/inline", "exists")]
    assert "open_pages" not in calls


@pytest.mark.parametrize(("mode", "content"), [("never", b"mine"), ("changed", b"inline")])
async def test_what_somebody_puts_there_meanwhile_is_treated_as_the_mode_says(
    sending, receiving, notes, tmp_path, monkeypatch, mode, content
):
    async with sending() as line:
        root = await mixed(line)
    top = tmp_path / "out/top"
    real = page_tasks.decode_page

    def decode(*node):
        (top / "inline").write_bytes(b"mine")
        return real(*node)

    monkeypatch.setattr(page_tasks, "decode_page", decode)
    await restored(receiving, notes, root, tmp_path, overwrite=Overwrite(mode))
    assert (top / "inline").read_bytes() == content
    assert notes.warnings == ([(b"top/inline", "unwritable")] if mode == "never" else [])
    assert (top / "whole").read_bytes() == MIXED


async def test_a_damaged_page_costs_what_stands_on_it(
    sending, receiving, notes, tmp_path, vault, opened
):
    async with sending() as line:
        lost = await directory(line, entry(b"f", Inline(b"lost")))
        malformed = Root(await line.sender.node(tag_of(Kind.PAGE), b"no page", b""))
        missing = Root(Reference(tag_of(Kind.PAGE), b"?" * 32))
        root = await directory(
            line,
            entry(b"lost", lost, FileType.DIRECTORY),
            entry(b"malformed", malformed, FileType.DIRECTORY),
            entry(b"missing", missing, FileType.DIRECTORY),
            entry(b"whole", await mixed(line), FileType.DIRECTORY),
        )
    copies = copies_of(vault, opened, lost.reference)
    copies[0].arrived = copies[0].arrived._replace(raw=broken(copies[0].arrived.raw))
    received = await restored(receiving, notes, root, tmp_path)
    assert sorted(each.split(":")[0] for each in received.damaged) == [
        "top/lost", "top/malformed", "top/missing",
    ]  # fmt: skip
    # What opens is no fault of the vault.
    assert [copy.good for copy in copies_of(vault, opened, malformed.reference)] == [True]
    check_mixed(tmp_path / "out/top/whole")
    assert all((tmp_path / "out/top" / name).is_dir() for name in ("lost", "malformed", "missing"))


async def test_of_two_copies_of_a_page_or_block_the_one_that_opens_is_taken(
    sending, receiving, notes, tmp_path, vault, opened
):
    async with sending() as line:
        root = await mixed(line)
    for reference in (root.reference, *blocks_of(vault, opened)):
        copies = copies_of(vault, opened, reference)
        bad = copies[0].arrived._replace(raw=broken(copies[0].arrived.raw))
        copies.insert(0, type(copies[0])(bad))
    received = await restored(receiving, notes, root, tmp_path)
    check_mixed(tmp_path / "out/top")
    assert (received.files, received.damaged) == (7, [])


def blocks_of(vault, opened):
    return [each for each in vault._domain(opened.domain).copies if each.tag == DATA]


async def test_a_worker_that_is_lost_between_pages_and_blocks_costs_nothing(
    sending, receiving, notes, tmp_path, monkeypatch
):
    async with sending() as line:
        root = await mixed(line)
    lost, call = [], Leased.call

    async def losing(self, function, *arguments, **named):
        done = await call(self, function, *arguments, **named)
        if function is page_tasks.write_units and not lost:
            lost.append(function)
            raise WorkerLost("a test")
        return done

    monkeypatch.setattr(Leased, "call", losing)
    received = await restored(receiving, notes, root, tmp_path)
    check_mixed(tmp_path / "out/top")
    assert lost
    assert (received.files, received.damaged, notes.warnings) == (7, [], [])


async def test_a_directory_of_many_pages_and_directories_comes_back(
    sending, receiving, notes, tmp_path, calls
):
    count = page_tasks.FEW + 10
    async with sending() as line:
        below = [
            entry(b"d%03d" % n, await directory(line, entry(b"f", Inline(b"%d" % n))),
                  FileType.DIRECTORY)
            for n in range(count)
        ]  # fmt: skip
        files = [
            [entry(b"f%d-%d" % (page, n), Inline(b"%d %d" % (page, n))) for n in range(5)]
            for page in range(9)
        ]
        root = await built(line, [below, *files])
    calls.clear()
    received = await restored(receiving, notes, root, tmp_path)
    top = tmp_path / "out/top"
    assert len(os.listdir(top)) == count + 45
    assert (top / f"d{count - 1:03}/f").read_bytes() == b"%d" % (count - 1)
    assert (top / "f8-4").read_bytes() == b"8 4"
    assert (received.files, received.damaged) == (count + 45, [])
    assert "existing" not in calls


async def test_of_a_page_of_many_directories_nothing_is_made_before_there_is_room(
    sending, receiving, tmp_path
):
    count = page_tasks.FEW + 1
    async with sending() as line:
        empty = Root(None)
        root = await directory(
            line, *(entry(b"d%03d" % n, empty, FileType.DIRECTORY) for n in range(count))
        )
    async with receiving() as line:
        how = page_tasks.How(False, False, True)
        writer = page_writer.PageWriter(line.pool, line.nodes, None, how, line.group)
        place = Place(os.fsencode(tmp_path / "out"))
        new = page_tasks.NewPage(place, root.reference, narrow=True)
        assert isinstance(await writer.write(new), page_tasks.Left)
        assert os.listdir(tmp_path / "out") == []
        given = await writer.write(new._replace(narrow=False))
        assert len(given.below) == len(os.listdir(tmp_path / "out")) == count


async def test_blocks_of_many_files_are_fetched_some_at_a_time(sending, receiving, notes, tmp_path):
    count = 3 * BATCH // LIKELY
    async with sending() as line:
        blocks = [
            await line.sender.node(DATA, b"%d" % n * 1000, b"") for n in range(10, 10 + count)
        ]
        root = await directory(
            line, *(entry(b"%02d" % n, Slice(each, 0, 2000)) for n, each in enumerate(blocks))
        )
    most = []

    async def listen(line):
        fetch = line.vault.fetch

        async def counted(session, references, arrived):
            most.append(len(references))
            await fetch(session, references, arrived)

        line.vault.fetch = counted

    received = await restored(receiving, notes, root, tmp_path, meanwhile=listen)
    assert max(most) == BATCH // LIKELY
    assert received.files == count
