"""What was read is found by its key, without a trace on the disk; and a full disk knows nothing."""

import os
import tracemalloc

import pytest

from tests.cli.machine import lacking, small_disk
from transfer.jobs.known_reads import KnownReads

KEY, OTHER = b"k" * 16, b"o" * 16
IDS = (b"1" * 32, None, b"2" * 32)


@pytest.fixture
def known(tmp_path):
    known = KnownReads(tmp_path)
    yield known
    known.close()


def test_what_was_added_is_found_and_the_last_of_a_key_counts(known, tmp_path):
    assert not known
    known.add([(KEY, (None,)), (OTHER, (b"3" * 32,))])
    known.add([(KEY, IDS)])
    assert known
    assert known.find([OTHER, b"x" * 16, KEY]) == [(b"3" * 32,), None, IDS]
    assert os.listdir(tmp_path) == []
    known.clear()
    assert not known
    assert known.find([KEY]) == [None]


def test_a_million_extents_take_disk_and_not_memory(known, tmp_path):
    tracemalloc.start()
    for number in range(200):
        known.add((b"%016d" % (number * 500 + n), (b"%032d" % n,)) for n in range(500))
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
    assert known.find([b"%016d" % 77_777])[0] == (b"%032d" % 277,)
    assert os.listdir(tmp_path) == []


def test_a_place_that_takes_no_file_knows_nothing(tmp_path):
    known = KnownReads(tmp_path / "missing")
    known.add([(KEY, IDS)])
    assert not known
    assert known.find([KEY]) == [None]
    known.clear()
    known.close()


def test_a_closed_one_knows_nothing(known):
    known.add([(KEY, IDS)])
    known.close()
    assert known.find([KEY]) == [None]
    known.close()


def test_a_full_disk_ends_the_knowing_and_not_the_run(tmp_path):
    if os.geteuid() != 0:
        lacking("only root may mount a small disk")
    with small_disk(tmp_path / "disk", size="1m") as place:
        known = KnownReads(place)
        for number in range(100):
            known.add((b"%016d" % (number * 500 + n), (b"%032d" % n,)) for n in range(500))
        assert not known
        known.close()
