"""Small files of a directory share blocks: names, sizes and contents alone say which."""

import os
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.test_tree import FOREVER, Meddler, sent
from transfer.files.metadata import Stat
from transfer.formats.entry import INLINE_MAX, Entry, FileType, Slice
from transfer.formats.stream import MIN_BLOCK, Descriptor
from transfer.pipeline.grouping import (
    MAX_FILES,
    SHARED_BLOCK,
    SHARED_MAX,
    Found,
    batched,
    grouped,
)
from transfer.pipeline.tasks import BATCH
from transfer.sources.base import Scanned

MIB = 2**20


def found(number, size, run=0, nlink=1):
    entry = Entry(b"%06d" % number, FileType.FILE, 0o644, 0, 0, 0, 0)
    stat = Stat(*[0] * len(Stat._fields))._replace(type=FileType.FILE, size=size, nlink=nlink)
    return Found(Scanned(entry, stat, 0, False), None, run)


pytestmark = pytest.mark.usefixtures("hashes")
SIZES = st.sampled_from(
    [0, INLINE_MAX, INLINE_MAX + 1, 9_000, 60_000, SHARED_MAX, SHARED_MAX + 1, BATCH]
)  # fmt: skip
BLOCK_SIZES = st.sampled_from([MIN_BLOCK, SHARED_BLOCK, 4 * MIB])


@st.composite
def directories(draw):
    """Files in runs, as ends of pages make them."""
    sizes = draw(st.lists(st.tuples(SIZES, st.booleans(), st.sampled_from([1, 1, 1, 2]))))
    files, run = [], 1
    for number, (size, ends, nlink) in enumerate(sizes):
        files.append(found(number, size, run, nlink))
        run += ends
    return files


@given(directories(), BLOCK_SIZES)
def test_each_file_is_in_one_group_and_a_group_is_one_block_and_a_batch_one_lanes(
    files, block_size
):
    groups = grouped(files, block_size)
    batches = batched(groups)
    assert [group for batch in batches for group in batch] == groups
    assert sorted(each.name for group in groups for each in group) == [each.name for each in files]
    for group in groups:
        assert [each.name for each in group] == sorted(each.name for each in group)
        if len(group) > 1:
            assert sum(each.size for each in group) <= min(block_size, SHARED_BLOCK)
            assert {INLINE_MAX < each.size <= SHARED_MAX for each in group} == {True}
            assert {(each.run, each.scanned.stat.nlink) for each in group} == {(group[0].run, 1)}
    for batch in batches:
        assert len(batch) == 1 or sum(each.size for group in batch for each in group) <= BATCH
        assert sum(map(len, batch)) <= MAX_FILES


@given(directories(), BLOCK_SIZES, st.data())
def test_a_file_that_is_gone_changes_no_block_of_another_run(files, block_size, data):
    if not files:
        return
    gone = data.draw(st.sampled_from(files))
    others = [each for each in files if each is not gone]
    of_other_runs = [
        [group for group in grouped(some, block_size) if group[0].run != gone.run]
        for some in (files, others)
    ]
    assert of_other_runs[0] == of_other_runs[1]


def test_a_block_takes_what_fits():
    full = [found(n, 25_000) for n in range(11)]
    assert list(map(len, grouped(full, 4 * MIB))) == [10, 1]
    tiny = [found(n, 2_100) for n in range(300)]
    assert [len(each) for each in batched([[each] for each in tiny])] == [MAX_FILES, 44]
    half = [found(n, SHARED_BLOCK // 8) for n in range(9)]
    assert list(map(len, grouped(half, MIB))) == [8, 1]


def fill(top, names, size=5_000):
    for name in names:
        (top / name).write_bytes(os.urandom(size))


async def whole(top, entries, content):
    for path in top.iterdir():
        assert await content(entries[os.fsencode(path.name)]) == path.read_bytes(), path
    return True


def blocks_in(entries):
    return {each.content.block for each in entries.values() if isinstance(each.content, Slice)}


async def test_small_files_share_a_block_and_others_do_not(sending, notes, top, content):
    fill(top, ["a", "c", "e"])
    fill(top, ["most"], SHARED_MAX)
    fill(top, ["tiny"], INLINE_MAX)
    fill(top, ["too large"], SHARED_MAX + 1)
    fill(top, ["linked"])
    os.link(top / "linked", top / "link")
    for name, size in (("d zeros", 9_000), ("empty", 0)):
        (top / name).write_bytes(bytes(size))
    _, entries, counters, _ = await sent(sending, notes, top)
    assert await whole(top, entries, content)
    shared = {name for name, each in entries.items() if isinstance(each.content, Slice)}
    assert shared == {b"a", b"c", b"e", b"most"}
    assert len(blocks_in(entries)) == 1
    assert entries[b"d zeros"].content == Descriptor(9_000, MIB, 1, None)
    assert counters.blocks_new == 3


async def test_a_page_names_a_block_once(sending, notes, top, vault, opened):
    fill(top, "abcdefgh")
    root, entries, _, _ = await sent(sending, notes, top)
    (page,) = vault._domain(opened.domain).copies[root.reference]
    assert page.arrived.references == tuple(blocks_in(entries))


async def test_one_file_alone_has_a_block_of_its_own_wherever_it_is(sending, notes, top):
    for name in "ab":
        (top / name).mkdir()
        (top / name / "file").write_bytes(b"the same" * 1000)
    (top / "b" / "zeros").write_bytes(bytes(9_000))
    _, entries, counters, _ = await sent(sending, notes, top)
    assert entries[b"a/file"].content == entries[b"b/file"].content
    assert isinstance(entries[b"a/file"].content, Descriptor)
    assert counters.blocks_new - counters.blocks_resent == 1


async def test_read_anew_an_unchanged_tree_is_the_same(sending, notes, top):
    for name in "abc":
        (top / name).mkdir()
        fill(top / name, map(str, range(60)))
    first, _, _, _ = await sent(sending, notes, top, workers=2)
    for parent in (None, first):
        again, _, counters, _ = await sent(sending, notes, top, parent, workers=2)
        assert again == first
        assert counters.bytes_read == 3 * 60 * 5_000
        assert (counters.blocks_new, counters.blocks_resent) == (0, 0)


@pytest.mark.parametrize("change", ["add", "remove", "grow"])
async def test_read_anew_one_file_changes_the_blocks_around_it_alone(sending, notes, top, change):
    """Also of a directory that is scanned in several parts."""
    fill(top, (f"{number:04}" for number in range(1200)), INLINE_MAX + 1)
    _, before, first, _ = await sent(sending, notes, top)
    if change == "add":
        fill(top, ["0003 more"])
    elif change == "remove":
        (top / "0003").unlink()
    else:
        fill(top, ["0003"])
    _, after, counters, _ = await sent(sending, notes, top)
    assert first.blocks_new > 10
    assert counters.blocks_new == len(blocks_in(after) - blocks_in(before)) == 1


async def test_what_is_unchanged_keeps_its_slice_and_is_not_read(sending, notes, top, content):
    fill(top, "abcde")
    first, before, _, _ = await sent(sending, notes, top)
    fill(top, "b", 6_000)
    fill(top, "d", SHARED_MAX + 1)
    _, after, counters, _ = await sent(sending, notes, top, first, trusted_until=FOREVER)
    assert await whole(top, after, content)
    for name in (b"a", b"c", b"e"):
        assert after[name] == before[name]
    assert counters.bytes_read == 6_000 + SHARED_MAX + 1
    assert (counters.blocks_new, counters.bytes_stored < 150_000) == (2, True)


async def test_a_slice_that_has_grown_large_has_no_parent(sending, notes, top):
    fill(top, "ab")
    first, _, _, _ = await sent(sending, notes, top)
    fill(top, "b", BATCH + MIB)
    _, entries, counters, _ = await sent(sending, notes, top, first, trusted_until=FOREVER)
    assert entries[b"b"].size == counters.bytes_read == BATCH + MIB
    assert isinstance(entries[b"b"].content, Descriptor)
    assert counters.blocks_new == 5


@pytest.mark.parametrize("changed", ["first", "second", "third"])
async def test_a_file_that_changes_while_it_is_read_drops_out_of_its_block(
    sending, notes, top, monkeypatch, content, changed
):
    fill(top, ["first", "second", "third"])
    names = iter(["first", "second", "third"])

    def change():
        if next(names) == changed:
            fill(top, [changed], 7_000)

    Meddler(monkeypatch, change, times=3)
    _, entries, _, tree = await sent(sending, notes, top)
    assert await whole(top, entries, content)
    assert isinstance(entries[changed.encode()].content, Descriptor)
    assert len(blocks_in(entries)) == 1
    assert (notes.warnings, tree.files.counts.files) == ([], 3)


async def test_a_file_that_cannot_be_read_costs_the_others_nothing(
    sending, notes, top, monkeypatch, content
):
    fill(top, "abc")
    names = cycle("abc")  # it is tried twice

    def fail():
        if next(names) == "b":
            raise PermissionError(1, "no")

    Meddler(monkeypatch, fail, times=6)
    _, entries, _, _ = await sent(sending, notes, top)
    assert notes.warnings == [(os.fsencode(top / "b"), "unreadable")]
    (top / "b").unlink()
    assert await whole(top, entries, content)


async def test_noise_where_samples_are_taken_does_not_keep_the_rest_of_a_block_from_being_packed(
    sending, notes, top
):
    for name in "bd":
        (top / name).write_bytes(b"words " * 10_000)
    fill(top, "ace", 20_000)
    _, entries, counters, _ = await sent(sending, notes, top)
    assert len(blocks_in(entries)) == 1
    assert counters.bytes_stored < 70_000
