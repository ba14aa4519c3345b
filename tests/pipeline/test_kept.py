"""Small files that are read again and are as the parent point has them stay as they are there."""

import os
import random

import pytest

from tests.pipeline.test_grouping import blocks_in, fill, found, whole
from tests.pipeline.test_tree import FOREVER, Meddler, sent
from transfer.formats.entry import Inline, Slice
from transfer.formats.reference import Reference
from transfer.formats.stream import Descriptor
from transfer.pipeline import grouping, small_reads
from transfer.pipeline.grouping import SCATTERED, SHARED_MAX
from transfer.pipeline.tasks import DATA

pytestmark = pytest.mark.usefixtures("hashes")
MIB = 2**20


def touch(top, *names):
    for name in names:
        os.utime(top / name)


def contents(entries):
    return {name: each.content for name, each in entries.items()}


def test_what_had_another_length_is_not_kept():
    content = Slice(Reference(DATA, bytes(32)), 0, 5_000, bytes(16))
    of_lengths = [found(0, 5_000 + more) for more in (0, 1)]
    kept = [
        each._replace(before=each.scanned.entry._replace(content=content)).kept(MIB)
        for each in of_lengths
    ]
    assert kept == [(content, content.block, bytes(16)), None]


@pytest.fixture
def asked(vault, monkeypatch):
    """The IDs that the vault is asked for."""
    have, ids = vault.have, []

    async def noted(session, tag, generation, some):
        ids.extend(some)
        return await have(session, tag, generation, some)

    monkeypatch.setattr(vault, "have", noted)
    return ids


@pytest.fixture
def without_ids(monkeypatch):
    """As versions before content IDs wrote slices, until it is called."""
    monkeypatch.setattr(small_reads, "CONTENT_ID_SIZE", 0)
    return lambda: monkeypatch.undo()


async def test_a_slice_has_the_beginning_of_the_id_that_its_file_would_have_alone(
    sending, notes, top
):
    for name in ("a", "b", "alone/file"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_bytes(name[:1].encode() * 5_000)
    _, entries, _, _ = await sent(sending, notes, top)
    assert entries[b"a"].content.content_id == entries[b"alone/file"].content.root.id[:16]
    assert entries[b"b"].content.content_id not in (b"", entries[b"a"].content.content_id)


async def test_files_that_were_touched_keep_their_slices(sending, notes, top, asked):
    fill(top, "abcde")
    first, before, _, _ = await sent(sending, notes, top)
    touch(top, "b", "c")
    asked.clear()
    root, after, counters, _ = await sent(sending, notes, top, first, trusted_until=FOREVER)
    assert contents(after) == contents(before)
    assert after[b"b"].mtime == (top / "b").stat().st_mtime_ns
    assert (counters.bytes_read, counters.blocks_new, counters.nodes_new) == (10_000, 0, 1)
    assert (asked, notes.warnings, root != first) == ([], [], True)


async def test_of_a_block_that_is_read_again_only_what_changed_is_sent(
    sending, notes, top, content
):
    fill(top, "abcde")
    first, before, _, _ = await sent(sending, notes, top)
    fill(top, "bd")
    _, after, counters, _ = await sent(sending, notes, top, first)
    assert await whole(top, after, content)
    assert {name for name in after if after[name].content != before[name].content} == {b"b", b"d"}
    assert len(blocks_in(after) - blocks_in(before)) == counters.blocks_new == 1
    assert counters.bytes_read == 25_000
    assert counters.bytes_sent < 12_000


@pytest.mark.parametrize("seed", range(12))
async def test_after_any_history_a_full_run_sends_only_what_changed(
    sending, notes, top, content, monkeypatch, seed
):
    """In a directory of several pages; of the last changes only the full run hears."""
    monkeypatch.setattr(grouping, "SCATTERED", 100)
    dice = random.Random(seed)
    names = [f"{number:03}" for number in range(150)]
    fill(top, dice.sample(names, 100), 3_000)
    parent, entries, _, _ = await sent(sending, notes, top)
    for step in range(1, 4):
        change(top, names, dice, step)
        before = {path.name: path.read_bytes() for path in top.iterdir()}
        parent, entries, _, _ = await sent(sending, notes, top, parent, trusted_until=FOREVER)
        assert await whole(top, entries, content)
    again, _, counters, _ = await sent(sending, notes, top, parent)
    assert (again, counters.blocks_new) == (parent, 0)
    change(top, names, dice, 4)
    _, after, counters, _ = await sent(sending, notes, top, parent)
    assert await whole(top, after, content)
    assert counters.bytes_read == sum(path.stat().st_size for path in top.iterdir())
    for path in top.iterdir():
        if before.get(path.name) == path.read_bytes():
            name = path.name.encode()
            assert after[name].content == entries[name].content


def change(top, names, dice, step):
    for name in dice.sample(names, 12):
        path = top / name
        match dice.choice(["rewrite", "rewrite", "touch", "remove", "rename"]):
            case "rewrite":
                fill(top, [name], dice.choice([1_000, 3_000, 5_000]))
            case "touch" if path.exists():
                touch(top, name)
            case "remove":
                path.unlink(missing_ok=True)
            case "rename" if path.exists():
                path.rename(top / dice.choice(names))
    for path in top.iterdir():  # no two writes have one time
        if path.stat().st_mtime_ns > 10**15:
            os.utime(path, ns=(step, step))


async def test_a_file_alone_stays_alone_when_others_come(sending, notes, top):
    fill(top, "a")
    first, before, _, _ = await sent(sending, notes, top)
    fill(top, "bc")
    _, after, counters, _ = await sent(sending, notes, top, first)
    assert after[b"a"] == before[b"a"]
    assert isinstance(before[b"a"].content, Descriptor)
    assert len(blocks_in(after)) == counters.blocks_new == 1


async def test_a_slice_stays_one_when_its_company_goes(sending, notes, top):
    fill(top, "abc")
    first, before, _, _ = await sent(sending, notes, top)
    for name in "ac":
        (top / name).unlink()
    _, after, counters, _ = await sent(sending, notes, top, first)
    assert (after[b"b"], counters.blocks_new) == (before[b"b"], 0)


async def test_a_slice_that_gets_a_second_name_has_a_block_of_its_own(sending, notes, top, content):
    fill(top, "abc")
    first, _, _, _ = await sent(sending, notes, top)
    os.link(top / "b", top / "d")
    _, after, counters, _ = await sent(sending, notes, top, first)
    assert await whole(top, after, content)
    assert isinstance(after[b"b"].content, Descriptor)
    assert counters.blocks_new == 1


@pytest.mark.parametrize("names", ["a", "abc"])
async def test_what_became_zeros_of_the_same_size_is_not_kept(sending, notes, top, names):
    fill(top, names)
    first, _, _, _ = await sent(sending, notes, top)
    (top / "a").write_bytes(bytes(5_000))
    _, after, counters, _ = await sent(sending, notes, top, first)
    assert after[b"a"].content == Descriptor(5_000, MIB, 1, None)
    assert counters.blocks_new == 0


async def test_a_file_that_is_kept_but_changes_while_it_is_read_is_read_again(
    sending, notes, top, monkeypatch, content
):
    fill(top, "abc")
    first, before, _, _ = await sent(sending, notes, top)
    Meddler(monkeypatch, lambda: fill(top, "a"))
    _, after, _, _ = await sent(sending, notes, top, first)
    assert await whole(top, after, content)
    assert [after[name].content == before[name].content for name in (b"a", b"b")] == [False, True]


async def test_a_block_size_of_its_own_makes_a_stream_anew_and_no_slice(sending, notes, top):
    fill(top, "abc")
    (top / "alone").mkdir()
    fill(top / "alone", "a", SHARED_MAX + 1)
    first, before, _, _ = await sent(sending, notes, top)
    for entry in (before[b"alone/a"], before[b"a"]):
        assert not isinstance(entry.content, Inline)
    _, after, counters, _ = await sent(sending, notes, top, first, block_size=MIB // 2)
    assert contents(after)[b"a"] == contents(before)[b"a"]
    assert after[b"alone/a"].content.block_size == MIB // 2
    assert counters.blocks_new == 0


async def test_where_the_parent_is_not_trusted_all_is_put_together_anew(
    sending, notes, top, vault, opened, content
):
    fill(top, "abcde")
    whole_anew, entries, _, _ = await sent(sending, notes, top)
    touch(top, "c")
    parent, _, _, _ = await sent(sending, notes, top, whole_anew, trusted_until=FOREVER)
    session = await vault.open_session(opened.domain, None)
    await vault.report_damaged(session.number, list(blocks_in(entries)))
    _, after, counters, _ = await sent(sending, notes, top, parent, trust=False)
    assert contents(after) == contents(entries)
    assert counters.blocks_new == 1
    _, after, counters, _ = await sent(sending, notes, top, parent)
    assert (counters.blocks_new, await whole(top, after, content)) == (0, True)


async def test_what_is_read_twice_is_not_kept_of_a_parent_that_is_not_trusted(
    sending, notes, top, monkeypatch, content
):
    fill(top, "abc")
    parent, before, _, _ = await sent(sending, notes, top)
    Meddler(monkeypatch, lambda: touch(top, "a"))
    _, after, _, _ = await sent(sending, notes, top, parent, trust=False)
    assert await whole(top, after, content)
    assert blocks_in(after).isdisjoint(blocks_in(before))


async def test_a_slice_without_an_id_is_sent_again_and_gets_one(
    sending, notes, top, content, without_ids
):
    fill(top, "abc")
    first, before, _, _ = await sent(sending, notes, top)
    without_ids()
    assert not before[b"b"].content.content_id
    touch(top, "b", "c")
    second, after, counters, _ = await sent(sending, notes, top, first, trusted_until=FOREVER)
    assert counters.blocks_new == 1
    assert after[b"a"] == before[b"a"]
    assert isinstance(after[b"b"].content, Slice) and after[b"b"].content.content_id
    touch(top, "b", "c")
    _, after, counters, _ = await sent(sending, notes, top, second, trusted_until=FOREVER)
    assert (counters.blocks_new, await whole(top, after, content)) == (0, True)


async def test_read_in_full_small_files_in_too_many_blocks_come_together(
    sending, notes, top, content
):
    names = "abcdefgh"[: SCATTERED + 2]
    fill(top, names)
    parent, entries, _, _ = await sent(sending, notes, top)
    for name in names:
        fill(top, name, 6_000)
        parent, entries, _, _ = await sent(sending, notes, top, parent, trusted_until=FOREVER)
    assert not blocks_in(entries)
    touch(top, *names[1:])
    parent, after, counters, _ = await sent(sending, notes, top, parent, trusted_until=FOREVER)
    assert (contents(after), counters.blocks_new) == (contents(entries), 0)
    parent, after, counters, _ = await sent(sending, notes, top, parent)
    assert len(blocks_in(after)) == counters.blocks_new == 1
    assert await whole(top, after, content)
    again, _, counters, _ = await sent(sending, notes, top, parent)
    assert (again, counters.blocks_new) == (parent, 0)


async def test_small_files_in_a_few_blocks_stay_there(sending, notes, top):
    names = "abcdefgh"[:SCATTERED]
    fill(top, names)
    parent, entries, _, _ = await sent(sending, notes, top)
    for name in names:
        fill(top, name, 6_000)
        parent, entries, _, _ = await sent(sending, notes, top, parent, trusted_until=FOREVER)
    _, after, counters, _ = await sent(sending, notes, top, parent)
    assert (contents(after), counters.blocks_new) == (contents(entries), 0)


async def test_read_anew_what_the_parent_has_is_neither_asked_for_nor_sent(
    sending, notes, top, asked
):
    fill(top, "abc")
    fill(top, ["one block"], MIB)
    fill(top, ["several"], 2 * MIB + 1)
    fill(top, ["inline"], 100)
    first, _, _, _ = await sent(sending, notes, top)
    asked.clear()
    again, _, counters, _ = await sent(sending, notes, top, first)
    assert (again, asked) == (first, [])
    assert (counters.blocks_new, counters.bytes_sent, counters.nodes_new) == (0, 0, 0)


async def test_of_a_file_of_several_blocks_only_those_that_are_new_are_asked_for(
    sending, notes, top, asked
):
    fill(top, ["several"], 3 * MIB)
    first, _, _, _ = await sent(sending, notes, top)
    with (top / "several").open("r+b") as file:
        file.seek(MIB)
        file.write(b"new")
    asked.clear()
    _, _, counters, _ = await sent(sending, notes, top, first)
    assert len(asked) == counters.blocks_new == 1
