"""Small files of many directories: written together, and each answered for by itself."""

import os

from tests.pipeline.test_receive import DATA, entry
from transfer.files.directories import Place
from transfer.formats.entry import Inline, Slice
from transfer.formats.reference import Reference
from transfer.pipeline.overwrite import Wanted
from transfer.pipeline.receive_streams import Received
from transfer.pipeline.small_files import Ask, SmallWriter
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.units import Planned, Unit
from transfer.pipeline.write_tasks import Piece


def planned(directory, name, content):
    pieces = []
    if isinstance(content, Slice):
        pieces = [Piece(content.block, 0, content.length, content.offset)]
    return Planned(Wanted(entry(name, content), directory + b"/" + name, None, False), pieces, [])


def ask(top, number, content):
    name = b"d%02d" % number
    (top / os.fsdecode(name)).mkdir(parents=True)
    return Place(os.fsencode(top), (name,)), [Unit([planned(name, b"f", content)])]


async def written(line, asks):
    """What was written of each, and how many frames each call to the vault asked for."""
    fetch, asked = line.vault.fetch, []

    async def counted(session, references, arrived):
        asked.append(len(references))
        await fetch(session, references, arrived)

    line.vault.fetch = counted
    writer = SmallWriter(line.pool, line.nodes, Received(), line.group)
    tasks = [line.group.create_task(writer.write(*each)) for each in asks]
    try:
        return [await each for each in tasks], asked
    finally:
        del line.vault.fetch


async def test_files_of_many_directories_come_in_one_fetch(sending, receiving, tmp_path):
    contents = [os.urandom(5_000) for _ in range(12)]
    async with sending() as line:
        blocks = [await line.sender.node(DATA, content, b"") for content in contents]
    asks = [
        ask(tmp_path / "out", n, Slice(block, 0, 5_000)) for n, block in enumerate(blocks)
    ]  # fmt: skip
    async with receiving() as line:
        found, asked = await written(line, asks)
    assert asked == [12]
    assert [list(each) for each in found] == [[b"d%02d/f" % n] for n in range(12)]
    for n, content in enumerate(contents):
        assert (tmp_path / f"out/d{n:02}/f").read_bytes() == content


async def test_a_frame_that_is_missing_is_that_of_one_file_alone(sending, receiving, tmp_path):
    async with sending() as line:
        block = await line.sender.node(DATA, b"x" * 5_000, b"")
    lost = Reference(DATA, b"?" * 32)
    asks = [
        ask(tmp_path / "out", n, Slice(each, 0, 5_000)) for n, each in enumerate([lost, block])
    ] + [ask(tmp_path / "out", 2, Inline(b"inline"))]  # fmt: skip
    async with receiving() as line:
        (damaged, whole, inline), _ = await written(line, asks)
    assert damaged[b"d00/f"].damaged == (lost,)
    assert not (tmp_path / "out/d00/f").exists()
    assert (whole[b"d01/f"].damaged, inline[b"d02/f"].damaged) == ((), ())
    assert (tmp_path / "out/d02/f").read_bytes() == b"inline"


async def test_what_is_written_together_fits_a_slot_and_a_message(receiving, tmp_path):
    """Extended attributes and empty files are nothing of a slot, but of a message."""
    xattrs = ((b"user.large", b"x" * 65_000),)
    empty = planned(b"d", b"f", Inline(b""))
    full = empty.entry._replace(xattrs=xattrs)
    heavy = Unit([empty._replace(wanted=empty.wanted._replace(entry=full))])
    assert Ask(Place(b"/"), [heavy] * 100).weight > BATCH
    assert Ask(Place(b"/"), [Unit([empty])] * 100_000).weight > BATCH
