"""Small files of one block that a killed run has read are not read again by the next run."""

import os

import pytest

from tests.pipeline.test_grouping import blocks_in, fill, whole
from tests.pipeline.test_resume import PROOFS, Notes, Quiet
from transfer.files.directories import OpenDirectories, Place
from transfer.pipeline.files import FileSender
from transfer.pipeline.grouping import Found
from transfer.sources.scan import scan

MIB = 2**20


@pytest.fixture
def send_again(sending, top):
    """Send the files of a directory as a run that was killed would be gone on with."""
    reads = Notes()

    async def send(block_size=MIB, parent=None):
        names = sorted(map(os.fsencode, os.listdir(top)))
        directories = OpenDirectories()
        scanned, _, _ = scan(directories, Place(bytes(top)), names, len)
        directories.close()
        async with sending(reads=reads, trust_parent=parent is not None) as line:
            files = FileSender(line.sender, line.nodes, block_size, Quiet(), PROOFS)

            async def rescan(name):
                raise AssertionError(name)

            before = parent or {}
            found = [Found(each, before.get(each.entry.name)) for each in scanned]
            entries = await files.send(Place(bytes(top)), found, 0, rescan)
        return entries, line.sender.sent

    send.reads = reads
    return send


async def test_blocks_that_a_killed_run_has_stored_are_not_read_again(send_again, top, content):
    fill(top, "acdf")
    (top / "b").write_bytes(bytes(4_000))
    (top / "e").write_bytes(bytes(4_000))
    first, _ = await send_again()
    again, counters = await send_again()
    assert again == first
    assert await whole(top, again, content)
    assert (counters.bytes_read, counters.bytes_resumed) == (0, 28_000)
    assert (counters.bytes_sent, counters.blocks_resent) == (0, 0)


async def test_a_group_of_zeros_and_one_other_is_recalled(send_again, top, content):
    fill(top, "b")
    for name in "ac":
        (top / name).write_bytes(bytes(4_000))
    first, _ = await send_again()
    again, counters = await send_again()
    assert again == first
    assert await whole(top, again, content)
    assert counters.bytes_read == 0


@pytest.mark.parametrize("change", ["add", "remove", "touch"])
async def test_a_group_that_is_another_by_now_is_read(send_again, top, content, change):
    fill(top, "abc")
    await send_again()
    if change == "add":
        fill(top, ["aa"])
    elif change == "remove":
        (top / "b").unlink()
    else:
        os.utime(top / "b", ns=(5, 5))
    entries, counters = await send_again()
    assert await whole(top, entries, content)
    assert (counters.bytes_resumed, counters.bytes_read) == (0, 5_000 * len(entries))


async def test_a_group_whose_block_the_vault_has_lost_is_read(
    send_again, top, vault, opened, content
):
    fill(top, "abc")
    entries, _ = await send_again()
    session = await vault.open_session(opened.domain, None)
    await vault.report_damaged(session.number, list(blocks_in(entries)))
    again, counters = await send_again()
    assert again == entries
    assert (counters.bytes_read, counters.blocks_new) == (15_000, 1)


async def test_what_was_found_to_be_as_the_parent_has_it_is_not_read_again(
    send_again, top, content
):
    fill(top, "abcdef")
    (top / "zeros").write_bytes(bytes(4_000))
    parent, _ = await send_again()
    send_again.reads.known.clear()
    fill(top, "be", 6_000)
    first, counters = await send_again(parent=parent)
    assert (counters.bytes_read, counters.blocks_new) == (36_000, 1)
    again, counters = await send_again(parent=parent)
    assert again == first
    assert await whole(top, again, content)
    assert {name for name in again if again[name].content == parent[name].content} == {
        b"a", b"c", b"d", b"f", b"zeros",
    }  # fmt: skip
    assert (counters.bytes_read, counters.bytes_resumed) == (0, 36_000)
    assert counters.bytes_sent == 0


async def test_what_was_kept_of_one_parent_is_read_for_another(send_again, top, content):
    fill(top, "abc")
    parent, _ = await send_again()
    send_again.reads.known.clear()
    await send_again(parent=parent)
    swapped = {b"a": parent[b"b"], b"b": parent[b"a"], b"c": parent[b"c"]}
    entries, counters = await send_again(parent=swapped)
    assert await whole(top, entries, content)
    assert (counters.bytes_read, counters.bytes_resumed) == (10_000, 5_000)


async def test_what_was_kept_in_a_block_that_the_vault_has_lost_is_read(
    send_again, top, vault, opened
):
    fill(top, "abc")
    parent, _ = await send_again()
    send_again.reads.known.clear()
    await send_again(parent=parent)
    session = await vault.open_session(opened.domain, None)
    await vault.report_damaged(session.number, list(blocks_in(parent)))
    _, counters = await send_again(parent=parent)
    assert (counters.bytes_read, counters.bytes_resumed) == (15_000, 0)
