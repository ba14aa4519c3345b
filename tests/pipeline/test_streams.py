"""A stream comes back as it was, and costs what its parent does not have."""

import asyncio
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.files.directories import Place
from transfer.files.metadata import stat_at
from transfer.formats.reference import NULL_ID, Kind, Reference, tag_of
from transfer.formats.stream import FANOUT, MIN_BLOCK, Descriptor, depth
from transfer.pipeline import tasks
from transfer.pipeline.sealing import SealKeys
from transfer.pipeline.streams import block_runs, packed, send_stream
from transfer.pipeline.worker_process import Lane
from transfer.sources.reading import SourceChanged, SourceFile

SIZE = MIN_BLOCK
LEAF = FANOUT * SIZE


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def source(path):
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        return SourceFile(
            Place(bytes(path.parent)), os.fsencode(path.name), stat_at(fd, bytes(path.name, "utf8"))
        )
    finally:
        os.close(fd)


def make(path, length, pieces):
    """A sparse file; *pieces* are (offset, content)."""
    with path.open("wb") as file:
        file.truncate(length)
        for offset, content in pieces:
            file.seek(offset)
            file.write(content)


async def send(sending, path, parent=None, **options):
    """The stream, and how many blocks and nodes were new."""
    async with sending(**options) as line:
        length = path.stat().st_size
        stream = await send_stream(
            line.sender, line.nodes, source(path), length, SIZE, parent, True
        )
    return stream, line.sender.sent.blocks_new, line.sender.sent.nodes_new


async def blocks_of(receiving, stream):
    """The plaintext of each block that is not null, by number."""
    async with receiving() as line:
        found = {}
        async for number, id in line.nodes.blocks(stream):
            if id is not None:
                plain, _ = await line.nodes.load(Reference(tag_of(Kind.DATA), id))
                found[number] = plain
        return found


def expected(path):
    length = path.stat().st_size
    found = {}
    with path.open("rb") as file:
        for number in range(-(-length // SIZE)):
            file.seek(number * SIZE)
            block = file.read(SIZE)
            if block.count(0) != len(block):
                found[number] = block
    return found


SHAPES = [
    (0, []),
    (1, [(0, b"x")]),
    (10, []),
    (SIZE, [(0, b"y" * SIZE)]),
    (SIZE + 1, [(SIZE, b"z")]),
    (LEAF, [(LEAF - 1, b"z")]),
    (LEAF + 1, [(0, b"a"), (LEAF, b"z")]),
    (3 * LEAF - 5, [(n * LEAF - 3, b"xxxxxx") for n in (1, 2)]),
    (FANOUT * LEAF + SIZE, [(5 * LEAF, b"m" * 3 * SIZE), (FANOUT * LEAF, b"end")]),
]


@pytest.mark.parametrize(("length", "pieces"), SHAPES, ids=lambda each: str(each)[:20])
async def test_a_stream_comes_back(sending, receiving, path, length, pieces):
    make(path, length, pieces)
    stream, _, _ = await send(sending, path)
    assert stream[:3] == (length, SIZE, 1)
    if length < LEAF * 9:
        assert await blocks_of(receiving, stream) == expected(path)
    else:
        found = await blocks_of(receiving, stream)
        assert sorted(found) == [5 * FANOUT, 5 * FANOUT + 1, 5 * FANOUT + 2, FANOUT * FANOUT]
        assert found[FANOUT * FANOUT].startswith(b"end")
    assert (stream.root is None) == (not pieces)


async def test_one_changed_block_costs_itself_and_the_nodes_above(sending, receiving, path):
    make(path, FANOUT * LEAF + SIZE, [(n * LEAF, b"%d" % n * 1000) for n in range(0, 250, 10)])
    parent, _, _ = await send(sending, path)
    assert depth(parent.length, SIZE) == 3
    again, blocks, nodes = await send(sending, path, parent, trust_parent=True)
    assert (again, blocks, nodes) == (parent, 0, 0)
    with path.open("r+b") as file:
        file.seek(20 * LEAF + 100)
        file.write(b"changed")
    changed, blocks, nodes = await send(sending, path, parent, trust_parent=True)
    assert (blocks, nodes) == (1, 3)
    assert changed.root != parent.root
    assert (await blocks_of(receiving, changed))[20 * FANOUT][100:107] == b"changed"


@pytest.mark.parametrize("length", [5, SIZE, 3 * SIZE, LEAF + 9, 2 * LEAF])
async def test_a_parent_of_another_length_is_compared_all_the_same(
    sending, receiving, path, length
):
    make(path, LEAF + 77, [(0, os.urandom(5 * SIZE)), (LEAF, b"end")])
    parent, _, _ = await send(sending, path)
    os.truncate(path, length)
    stream, blocks, _ = await send(sending, path, parent, trust_parent=True)
    assert blocks <= 1
    assert await blocks_of(receiving, stream) == expected(path)


async def test_an_untrusted_or_unreadable_parent_costs_reading_and_gives_the_same(
    sending, path, vault
):
    make(path, 2 * LEAF, [(0, os.urandom(2 * SIZE)), (LEAF, b"second")])
    parent, _, _ = await send(sending, path)
    assert (await send(sending, path, parent, trust_parent=False))[0] == parent
    gone = Descriptor(2 * LEAF, SIZE, 1, Reference(tag_of(Kind.STREAM, 2), b"\1" * 32))
    assert (await send(sending, path, gone, trust_parent=True))[0] == parent
    other = parent._replace(block_size=2 * SIZE)
    assert (await send(sending, path, other, trust_parent=True))[0] == parent


async def test_a_file_that_was_written_or_replaced_is_told(sending, path):
    make(path, 3 * SIZE, [(0, b"one")])
    async with sending() as line:
        scanned = source(path)
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(SourceChanged) as told:
            await send_stream(line.sender, line.nodes, scanned, 3 * SIZE, SIZE, None, True)
        assert told.value.code == "changed"
        stream = await send_stream(line.sender, line.nodes, scanned, 3 * SIZE, SIZE, None, False)
        assert stream.length == 3 * SIZE
        path.rename(path.with_name("elsewhere"))
        make(path, 3 * SIZE, [(0, b"two")])
        with pytest.raises(SourceChanged) as told:
            await send_stream(line.sender, line.nodes, scanned, 3 * SIZE, SIZE, None, False)
        assert told.value.code == "replaced"


@pytest.mark.parametrize(("room", "sealed"), [(1000, 100), (40, 40)])
async def test_sealed_blocks_hold_no_lane_and_are_bounded(sending, path, monkeypatch, room, sealed):
    """In batches of four blocks there are many more of them than lanes."""
    monkeypatch.setattr("transfer.pipeline.send.UNDER_WAY", room * SIZE)
    monkeypatch.setattr(tasks, "BATCH", 4 * SIZE)
    make(path, 100 * SIZE, [(0, os.urandom(100 * SIZE))])
    async with sending() as line:
        store, may_store = line.vault.store, asyncio.Event()

        async def storing(session, raw):
            await may_store.wait()
            return await store(session, raw)

        line.vault.store = storing
        stream = asyncio.create_task(
            send_stream(line.sender, line.nodes, source(path), 100 * SIZE, SIZE, None, True)
        )
        async with asyncio.timeout(10):
            while line.sender.under_way < (sealed - 4) * SIZE:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert line.sender.under_way <= (room + 4) * SIZE
        may_store.set()
        await stream
        assert line.sender.under_way == 0
    assert line.sender.sent.blocks_new == 100


async def test_a_worker_that_dies_costs_a_try(sending, receiving, path):
    make(path, 40 * 2**20, [(0, os.urandom(40 * 2**20))])
    async with sending(workers=2) as line:
        task = line.group.create_task(
            send_stream(line.sender, line.nodes, source(path), 40 * 2**20, SIZE, None, True)
        )
        while line.sender.sent.blocks_new < 100 and not task.done():
            await line.pool.call(nothing)
        line.pool._workers[0]._process.kill()
        stream = await task
    assert NULL_ID not in {stream.root.id}
    assert await blocks_of(receiving, stream) == expected(path)


def nothing(lane):
    return None


def pairs(cuts):
    """Disjoint ascending extents between cuts."""
    ends = sorted(cuts)
    return [(ends[n] * 10, (ends[n + 1] - ends[n]) * 10) for n in range(0, len(ends) - 1, 2)]


extents = st.lists(st.integers(0, 40), min_size=2, max_size=12, unique=True).map(pairs)


@given(extents, st.integers(1, 64), st.integers(1, 8))
def test_runs_cover_each_block_of_the_extents_once(extents, block_size, per_batch):
    runs = block_runs(extents, 0, block_size, per_batch)
    batches = packed(runs, per_batch)
    assert [run for batch in batches for run in batch] == runs
    assert all(sum(count for _, count in batch) <= per_batch for batch in batches)
    for one, other in pairwise(batches):  # none that could have taken more
        assert sum(count for _, count in (*one, other[0])) > per_batch
    covered = [block for first, count in runs for block in range(first, first + count)]
    needed = {byte // block_size for start, size in extents for byte in range(start, start + size)}
    assert len(covered) == len(set(covered))
    assert set(covered) == needed
    assert all(1 <= count <= per_batch for _, count in runs)
    assert runs == sorted(runs)


def test_what_is_missing_at_the_end_reads_as_zeros_whatever_was_read_before(path):
    keys = SealKeys(b"d" * 16, 1, b"epoch-01", {1: b"i" * 32}, {b"epoch-01": b"s" * 32})
    lane = Lane(tasks.Tools(keys), memoryview(bytearray(8)))

    def read(*extents):
        lane.kept.clear()  # as at the end of a lease
        ids = tasks.read_blocks(lane, source(path), extents, SIZE, False)
        return ids, [bytes(block) for block in lane.kept["blocks"]]

    path.write_bytes(b"x" * 2 * SIZE)
    assert read((0, 2 * SIZE))[1] == [b"x" * SIZE] * 2
    os.truncate(path, SIZE + 10)
    ids, blocks = read((SIZE, SIZE), (2 * SIZE, SIZE))
    assert blocks == [b"x" * 10 + bytes(SIZE - 10), bytes(SIZE)]
    assert ids[0] is not None and ids[1] is None


def test_blocks_of_one_lease_keep_their_content(path):
    keys = SealKeys(b"d" * 16, 1, b"epoch-01", {1: b"i" * 32}, {b"epoch-01": b"s" * 32})
    lane = Lane(tasks.Tools(keys), memoryview(bytearray(8)))
    path.write_bytes(b"a" * SIZE + b"b" * SIZE)
    for start in (0, SIZE):
        tasks.read_blocks(lane, source(path), [(start, SIZE)], SIZE, True)
    assert [bytes(block[:1]) for block in lane.kept["blocks"]] == [b"a", b"b"]
