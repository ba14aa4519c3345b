"""A restore is marked as unfinished from before its first byte until all is durable."""

import os

import msgspec
import pytest

from transfer.errors import UsageError
from transfer.jobs.state import StateDirectory
from transfer.jobs.unfinished import RestoreMark, mark, unfinished

VAULT, POINT, TARGET = b"v" * 16, b"p" * 32, b"/srv/back"


@pytest.fixture
def state(tmp_path):
    return StateDirectory(tmp_path / "state")


def made(**other):
    return msgspec.structs.replace(mark(VAULT, POINT, "home", TARGET), **other)


def test_a_mark_goes_when_all_is_whole(state):
    own = RestoreMark(state, made())
    assert own.begin() is None
    assert unfinished(state) == []  # it is under way
    own.end(True)
    assert unfinished(state) == []
    assert list((state.path / "restores").iterdir()) == []


def test_what_was_interrupted_is_found_by_the_next_of_the_same(state):
    first = made()
    own = RestoreMark(state, first)
    own.begin()
    own.end(False)
    assert unfinished(state) == [first]
    for other in (made(vault=b"w" * 16), made(point=b"q" * 32), made(target=b"/srv/other")):
        stranger = RestoreMark(state, other)
        assert stranger.begin() is None
        stranger.end(True)
    for _ in range(2):  # it stays the first one's mark, however often it is interrupted
        later = RestoreMark(state, made())
        assert later.begin() == first
        later.end(False)
    last = RestoreMark(state, made())
    assert last.begin() == first
    last.end(True)
    assert unfinished(state) == []


def test_the_images_that_it_writes_are_known_to_the_next(state):
    own = RestoreMark(state, made())
    own.begin()
    own.owns(b"one")
    own.owns(b"two")
    own.owns(b"one", 123)
    own.end(False)
    again = RestoreMark(state, made())
    assert not again.is_own(b"two", 5)
    again.begin()
    assert again.is_own(b"two", 5)  # it was being written
    assert again.is_own(b"one", 123)
    assert not again.is_own(b"one", 124)  # whole, and used since
    assert not again.is_own(b"three", 5)
    assert not again.is_own(b"", 0)
    again.end(False)


def test_what_is_torn_of_a_mark_leaves_what_was_there_before(state):
    first = made()
    own = RestoreMark(state, first)
    own.begin()
    own.owns(b"one")
    own.end(False)
    path = next((state.path / "restores").iterdir())
    path.write_bytes(path.read_bytes()[:-5])
    assert unfinished(state) == [first]


def test_a_second_one_beside_the_first_has_no_mark(state):
    first, second = RestoreMark(state, made()), RestoreMark(state, made())
    first.begin()
    assert second.begin() is None
    second.end(True)
    first.end(False)
    assert len(unfinished(state)) == 1


@pytest.mark.parametrize("torn", [b"", b"{", b"\0" * 100, b'{"vault":"dg=="}'])
def test_a_torn_mark_is_none(state, torn):
    own = RestoreMark(state, made())
    own.begin()
    own.end(False)
    path = next((state.path / "restores").iterdir())
    path.write_bytes(torn)
    assert unfinished(state) == []
    new = made()
    again = RestoreMark(state, new)
    assert again.begin() is None
    again.end(False)
    assert unfinished(state) == [new]


def test_a_mark_is_the_callers_alone_and_follows_no_symlink(state, tmp_path):
    own = RestoreMark(state, made())
    own.begin()
    own.end(False)
    path = next((state.path / "restores").iterdir())
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(UsageError, match="restores"):
        RestoreMark(state, made()).begin()
    assert not (tmp_path / "elsewhere").exists()
