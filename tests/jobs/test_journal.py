"""A point whose fate is unknown is in doubt until somebody asked the vault."""

import pytest

from transfer.errors import UsageError
from transfer.formats.journal import Begin
from transfer.jobs.journal import RunJournal

VAULT, ITEM, POINT = b"v" * 16, b"i" * 16, b"p" * 32
BEGIN = Begin(VAULT, 1, 1, ITEM, bytes(32), 1, 2**20)


@pytest.fixture
def journal(tmp_path):
    journal = RunJournal(tmp_path, VAULT, ITEM)
    yield journal
    journal.close()


def test_a_posted_point_is_in_doubt_until_its_end(journal, tmp_path):
    assert journal.in_doubt() is None
    journal.begin(BEGIN)
    assert journal.in_doubt() is None
    journal.post(POINT)
    assert RunJournal(tmp_path, VAULT, ITEM).in_doubt() == POINT
    assert RunJournal(tmp_path, VAULT, b"j" * 16).in_doubt() is None
    assert RunJournal(tmp_path, b"w" * 16, ITEM).in_doubt() is None
    journal.end(True)
    assert journal.in_doubt() is None
    journal.begin(BEGIN)
    journal.post(POINT)
    journal.end(False)
    assert journal.in_doubt() is None


def test_a_torn_end_leaves_the_point_in_doubt(journal, tmp_path):
    journal.begin(BEGIN)
    journal.post(POINT)
    journal.end(True)
    path = next((tmp_path / "journals").iterdir())
    assert path.stat().st_mode & 0o777 == 0o600
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert journal.in_doubt() == POINT


def test_a_place_that_takes_no_journal_is_named(tmp_path):
    (tmp_path / "journals").write_text("in the way")
    with pytest.raises(UsageError, match="journals"):
        RunJournal(tmp_path, VAULT, ITEM).begin(BEGIN)
