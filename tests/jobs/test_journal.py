"""What a journal says of an interrupted run, and what it costs when it is torn or full."""

import errno
import os

import pytest

from transfer.errors import NoSpace, UsageError
from transfer.formats.journal import Begin, End, PointPosted, Read, decode_all, encode
from transfer.jobs import journal as journals
from transfer.jobs.journal import RunJournal

VAULT, ITEM, POINT = b"v" * 16, b"i" * 16, b"p" * 32
BEGIN = Begin(VAULT, 1, 7, ITEM, bytes(32), 1, 2**20)
KEYS = [bytes([n]) * 16 for n in range(1, 5)]
IDS = [(bytes([n]) * 32, None) for n in range(1, 5)]


@pytest.fixture
def again(tmp_path):
    """The journal as the next run finds it; the one before was killed."""
    made = []

    def journal(item=ITEM):
        made.append(RunJournal(tmp_path, VAULT, item))
        return made[-1]

    yield journal
    for each in made:
        each.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journals" / f"{VAULT.hex()}.{ITEM.hex()}"


async def read_by(journal, *numbers, resume=False):
    known = journal.begin(BEGIN, resume)
    await journal.note([(KEYS[n], IDS[n]) for n in numbers])
    return known


def records(path):
    return decode_all(path.read_bytes()).records


def test_a_posted_point_is_in_doubt_until_its_end(again, tmp_path):
    journal = again()
    assert journal.interrupted() is None
    journal.begin(BEGIN, False)
    assert again().interrupted() == (BEGIN, None)
    journal.post(POINT)
    assert again().interrupted() == (BEGIN, POINT)
    assert again(b"j" * 16).interrupted() is None
    assert RunJournal(tmp_path, b"w" * 16, ITEM).interrupted() is None
    journal.end(True)
    assert again().interrupted() is None
    journal.begin(BEGIN, False)
    journal.post(POINT)
    journal.end(False)
    assert again().interrupted() is None


def test_a_torn_end_leaves_the_point_in_doubt(again, path):
    journal = again()
    journal.begin(BEGIN, False)
    journal.post(POINT)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes() + encode(End(False))[:-1])
    assert again().interrupted() == (BEGIN, POINT)


async def test_what_a_killed_run_read_is_known_to_the_next_and_to_those_after_it(again):
    assert not await read_by(again(), 0, 1)
    second = again()
    assert await read_by(second, 2, resume=True)
    assert await second.recall(KEYS) == [IDS[0], IDS[1], None, None]
    third = again()
    assert third.begin(BEGIN, True)
    assert await third.recall(KEYS) == [*IDS[:3], None]


async def test_a_commit_forgets_what_was_read(again, path):
    journal = again()
    await read_by(journal, 0)
    journal.post(POINT)
    journal.end(True)
    assert path.stat().st_size == 0
    assert not again().begin(BEGIN, True)


async def test_a_commit_whose_truncation_was_lost_forgets_as_well(again, path):
    await read_by(again(), 0)
    path.write_bytes(path.read_bytes() + encode(End(True)))
    assert not await read_by(again(), 1, resume=True)
    last = again()
    assert last.begin(BEGIN, True)
    assert await last.recall(KEYS[:2]) == [None, IDS[1]]


async def test_a_run_that_was_refused_leaves_what_it_read(again):
    journal = again()
    await read_by(journal, 0)
    journal.post(POINT)
    journal.end(False)
    journal.begin(BEGIN, True)
    assert await journal.recall(KEYS[:1]) == IDS[:1]


async def test_a_run_that_reads_everything_forgets_what_was_read(again):
    await read_by(again(), 0)
    assert not again().begin(BEGIN, False)
    assert not again().begin(BEGIN, True)


@pytest.mark.parametrize("lost", [1, 30, 60])
async def test_a_torn_tail_costs_what_it_said_and_nothing_that_follows(again, path, lost):
    journal = again()
    await read_by(journal, 0)
    await journal.note([(KEYS[1], IDS[1])])
    path.write_bytes(path.read_bytes()[:-lost])
    await read_by(again(), 2, resume=True)
    last = again()
    assert last.begin(BEGIN, True)
    assert await last.recall(KEYS) == [IDS[0], None, IDS[2], None]


async def test_a_later_note_of_a_key_counts(again):
    journal = again()
    await read_by(journal, 0)
    await journal.note([(KEYS[0], IDS[3])])
    after = again()
    after.begin(BEGIN, True)
    assert await after.recall(KEYS[:1]) == [IDS[3]]


@pytest.mark.parametrize("written", [None, 5])
async def test_a_full_disk_costs_notes_but_neither_the_run_nor_its_point(
    again, monkeypatch, written
):
    """*written* is what the disk still takes of a record."""
    journal, whole = again(), os.pwrite
    await read_by(journal, 0)

    def full(fd, raw, offset):
        if written is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(fd, raw[:written], offset)

    monkeypatch.setattr(os, "pwrite", full)
    await journal.note([(KEYS[1], IDS[1])])
    with pytest.raises(NoSpace):
        journal.post(POINT)
    monkeypatch.undo()
    journal.post(POINT)
    assert again().interrupted() == (BEGIN, POINT)
    after = again()
    after.begin(BEGIN, True)
    assert await after.recall(KEYS[:2]) == [None, None]  # it made room for what says more


async def test_notes_make_room_for_a_point(again, path, monkeypatch):
    journal, whole = again(), os.pwrite
    await read_by(journal, 0, 1, 2)
    most = path.stat().st_size

    def full(fd, raw, offset):
        return whole(fd, raw[: max(0, most - offset)], offset)

    monkeypatch.setattr(os, "pwrite", full)
    await journal.note([(KEYS[3], IDS[3])])
    journal.post(POINT)
    assert again().interrupted() == (BEGIN, POINT)
    journal.end(True)
    assert again().interrupted() is None


async def test_a_journal_has_a_largest_size(again, path, monkeypatch):
    journal = again()
    await read_by(journal, 0)
    monkeypatch.setattr(journals, "MAX_JOURNAL", path.stat().st_size)
    await journal.note([(KEYS[1], IDS[1])])
    journal.post(POINT)
    assert records(path)[1:] == [Read(((KEYS[0], IDS[0]),)), PointPosted(POINT)]


async def test_a_closed_journal_neither_knows_nor_notes(again, path):
    await read_by(again(), 0)
    journal = again()
    journal.begin(BEGIN, True)
    journal.close()
    size = path.stat().st_size
    await journal.note([(KEYS[1], IDS[1])])
    assert await journal.recall(KEYS[:1]) == [None]
    assert path.stat().st_size == size


def test_a_place_that_takes_no_journal_is_named(tmp_path):
    (tmp_path / "journals").write_text("in the way")
    with pytest.raises(UsageError, match="journals"):
        RunJournal(tmp_path, VAULT, ITEM).begin(BEGIN, False)
