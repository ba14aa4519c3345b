"""A stream of which the changes are known costs these, and is what a reading of it all would be."""

import asyncio
import os
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.test_streams import LEAF, SIZE, blocks_of, make, send, source
from transfer.errors import FormatError
from transfer.formats.reference import Kind
from transfer.formats.stream import FANOUT, depth
from transfer.pipeline.changed_streams import Changes, TrackerLied, send_changed
from transfer.pipeline.stream_nodes import ParentStream
from transfer.pipeline.tasks import DATA

LARGE = FANOUT * LEAF + 3 * LEAF + 5 * SIZE + 17  # three levels of nodes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


async def each(extents):
    for one in extents:
        yield one


async def changed(sending, path, parent, extents, sample=(), **options):
    """The stream, and what it cost."""
    async with sending(trust_parent=True, **options) as line:
        stream = await send_changed(
            line.sender, line.nodes, source(path), path.stat().st_size, parent, each(extents),
            True, sample,
        )  # fmt: skip
    return stream, line.sender.sent


def write(path, at, content):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)
    return at, len(content)


async def test_what_is_not_changed_is_neither_read_nor_sent(sending, path):
    make(path, LARGE, [(n * LEAF, b"%d" % n * 1000) for n in range(0, 258, 10)])
    parent, _, _ = await send(sending, path)
    assert depth(LARGE, SIZE) == 3
    stream, sent = await changed(sending, path, parent, [])
    assert stream == parent
    assert (sent.bytes_read, sent.blocks_new, sent.nodes_new) == (0, 0, 0)
    extents = [write(path, at, b"new") for at in (5, 20 * LEAF + 100, 257 * LEAF, LARGE - 3)]
    again, sent = await changed(sending, path, parent, extents)
    assert again == (await send(sending, path))[0]
    assert sent.bytes_read == 3 * SIZE + 17
    assert (sent.blocks_new, sent.nodes_new) == (4, 4 + 2 + 1)


@pytest.mark.parametrize("resumes", [False, True])
async def test_of_changed_blocks_nobody_is_asked_unless_a_run_was_interrupted(
    sending, path, resumes, monkeypatch
):
    """Of two that are equal the second is sent no more once the first has arrived."""
    make(path, 3 * LEAF, [])
    parent, _, _ = await send(sending, path)
    content = os.urandom(SIZE)
    for at in (0, LEAF):
        write(path, at, content)
    extents = [(0, SIZE), (LEAF, SIZE)]
    monkeypatch.setattr("transfer.pipeline.changed_streams.AHEAD", 1)
    async with sending(trust_parent=True) as line:
        line.sender.resumes = resumes
        asked, have = [], line.vault.have

        async def hear(session, tag, generation, ids):
            asked.extend(ids if tag == DATA else ())
            return await have(session, tag, generation, ids)

        line.vault.have = hear
        await send_changed(
            line.sender, line.nodes, source(path), 3 * LEAF, parent, each(extents), True
        )
    assert bool(asked) == resumes
    assert (line.sender.sent.blocks_new, line.sender.sent.blocks_resent) == (1, 0)


async def test_a_leaf_that_cannot_be_loaded_is_read_whole_and_sends_what_is_new(
    sending, path, monkeypatch
):
    make(path, 3 * LEAF, [(0, os.urandom(20 * SIZE))])
    parent, _, _ = await send(sending, path)
    extents = [write(path, SIZE, os.urandom(SIZE))]
    slots = ParentStream.slots

    async def damaged(self, level, index):
        if level == 1:
            raise FormatError("damaged")
        return await slots(self, level, index)

    monkeypatch.setattr(ParentStream, "slots", damaged)
    _, sent = await changed(sending, path, parent, extents)
    assert sent.bytes_read == 20 * SIZE
    assert (sent.blocks_new, sent.blocks_resent) == (1, 0)


async def test_one_change_loads_the_nodes_above_it_and_no_others(sending, path):
    make(path, LARGE, [(n * LEAF, b"%d" % n * 1000) for n in range(0, 258, 2)])
    parent, _, _ = await send(sending, path)
    extents = [write(path, 100 * LEAF, b"new")]
    async with sending(trust_parent=True) as line:
        loaded, real = [], line.nodes.load

        async def load(reference):
            loaded.append(reference)
            return await real(reference)

        line.nodes.load = load
        await send_changed(
            line.sender, line.nodes, source(path), LARGE, parent, each(extents), True
        )
    assert sorted(one.level for one in loaded) == [1, 2, 3]


@pytest.mark.parametrize(
    "length",
    [0, 5, SIZE, 3 * SIZE, LEAF - 1, LEAF, LEAF + 9, 2 * LEAF, 2 * LEAF + 1, LARGE - 20, LARGE + 1,
     LARGE + 3 * LEAF, 2 * FANOUT * LEAF],
)  # fmt: skip
@pytest.mark.parametrize("before", [5, SIZE + 1, LEAF, 2 * LEAF + 77, LARGE])
async def test_a_stream_that_grew_or_shrank_is_what_a_reading_would_be(
    sending, path, before, length
):
    pieces = [(at, b"p" * 50) for at in range(0, before - 50, 3 * LEAF + SIZE)]
    make(path, before, [*pieces, (max(0, before - 3), b"end"[:before])])
    parent, _, _ = await send(sending, path)
    os.truncate(path, length)
    stream, _ = await changed(sending, path, parent, [])
    assert stream == (await send(sending, path))[0]
    extents = [write(path, length // 2, b"new")] if length > 3 else []
    if length > before + 10 * SIZE:
        write(path, before + 5 * SIZE, b"in what grew")
    stream, _ = await changed(sending, path, parent, extents)
    assert stream == (await send(sending, path))[0]


@pytest.mark.parametrize("seed", range(6))
async def test_any_changes_give_what_a_reading_gives(sending, path, seed):
    chosen = random.Random(seed)
    make(path, 3 * LEAF + 99, [(chosen.randrange(3 * LEAF), os.urandom(9)) for _ in range(200)])
    parent, _, _ = await send(sending, path)
    extents = []
    for at in sorted(chosen.sample(range(0, 3 * LEAF, SIZE // 2), 40)):
        content = bytes(400) if chosen.random() < 0.3 else os.urandom(chosen.randrange(1, 900))
        extents.append(write(path, at, content))
    if seed % 2:  # many in one leaf, of which some are holes
        extents = [each for each in extents if not LEAF <= each[0] < 2 * LEAF]
        extents.append((LEAF, LEAF))
    stream, _ = await changed(sending, path, parent, sorted(extents))
    assert stream == (await send(sending, path))[0]


async def test_holes_of_a_leaf_with_many_changes_are_not_read(sending, path):
    make(path, 3 * LEAF, [(at, b"x") for at in range(0, 3 * LEAF, SIZE)])
    parent, _, _ = await send(sending, path)
    make(path, 3 * LEAF, [(LEAF + 7 * SIZE, b"only")])
    stream, sent = await changed(sending, path, parent, [(0, 3 * LEAF)])
    assert stream == (await send(sending, path))[0]
    assert sent.bytes_read < 20 * SIZE


async def test_a_parent_that_cannot_be_read_costs_reading(sending, path, vault):
    make(path, 3 * LEAF, [(n * LEAF + SIZE, b"%d" % n) for n in range(3)])
    parent, _, _ = await send(sending, path)
    extents = [write(path, 5 * SIZE, b"new"), write(path, LEAF + 9, b"new")]
    domain = next(iter(vault._domains.values()))
    leaves = [one for one in domain.copies if one.kind is Kind.STREAM and one.level == 1]
    for lost in leaves[:2], [parent.root]:
        for reference in lost:
            domain.copies.pop(reference, None)
        stream, _ = await changed(sending, path, parent, extents)
        assert stream == (await send(sending, path))[0]


async def test_a_sample_of_what_is_clean_shows_a_tracker_that_lied(sending, path):
    make(path, 2 * LEAF, [(at, b"x") for at in range(0, 2 * LEAF, SIZE)])
    parent, _, _ = await send(sending, path)
    told = write(path, 3 * SIZE, b"told")
    write(path, 300 * SIZE, b"not told")
    _, sent = await changed(sending, path, parent, [told], sample=[3, 5, 299, 511])
    assert sent.bytes_read == 4 * SIZE
    with pytest.raises(TrackerLied) as lied:
        await changed(sending, path, parent, [told], sample=[5, 300])
    assert lied.value.blocks == [300]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8),
    st.integers(1, 70), st.integers(1, 70), st.lists(st.integers(1, 70), max_size=6),
)  # fmt: skip
def test_changes_are_cut_at_any_places_and_lose_nothing(pieces, old, new, ends):
    extents, at = [], 0
    for gap, length in pieces:
        extents.append((at + gap, length))
        at += gap + length

    async def taken():
        changes, found = Changes(each(extents), old, new, 8), []
        for end in [*sorted(ends), 100]:
            before = await changes.any_before(end)
            some = await changes.take(end)
            assert before == bool(some)
            assert all(offset + length <= end for offset, length in some)
            found += some
        return found

    found = asyncio.run(taken())
    assert all(sum(one) <= other[0] for one, other in pairwise(found))
    covered = {byte for offset, length in found for byte in range(offset, offset + length)}
    real = {byte for offset, length in extents for byte in range(offset, offset + length)}
    tail = set() if old == new else set(range(min(old, new) // 8 * 8, new))
    assert covered == ({byte for byte in real if byte < new} | tail)


async def test_the_blocks_come_back(sending, receiving, path):
    make(path, LEAF + 9, [(0, b"first"), (LEAF, b"last")])
    parent, _, _ = await send(sending, path)
    stream, _ = await changed(sending, path, parent, [write(path, 9 * SIZE, b"new")])
    found = await blocks_of(receiving, stream)
    assert sorted(found) == [0, 9, FANOUT]
    assert found[9].startswith(b"new")
