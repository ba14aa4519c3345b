"""What is tried where there is no room for all of it."""

import os

from hypothesis import given
from hypothesis import strategies as st

from transfer.files.directories import Place
from transfer.jobs.first_files import ENTRY, MISFITS, FirstFiles, Room, after, escaped
from transfer.policy.globs import Globs

NAMES = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.lists(st.sampled_from(b"ab]-[!^\\\xff\x01*?. #\n\r"), min_size=1, max_size=5).map(bytes),
).filter(lambda name: not {0, ord("/")} & set(name) and name not in (b".", b".."))


@given(NAMES, NAMES)
def test_what_follows_a_name_is_matched_and_nothing_else(name, other):
    later = Globs([b"/d/" + pattern for pattern in after(name)])
    assert later.excludes(b"d/" + other, False) == (other > name)
    assert later.excludes(b"d/" + other, True) == (other > name)
    itself = Globs([b"/d/" + escaped(name)])
    assert itself.excludes(b"d/" + other, False) == (other == name)
    assert not itself.excludes(b"e/" + name, False)


def chosen(top, room, own=(0, 0)):
    walk = FirstFiles(Place(os.fsencode(top)), room, own)
    try:
        while walk.step():
            pass
    finally:
        walk.close()
    return walk.selection


def included(top, selection):
    globs = Globs(selection.exclude)
    found = []
    for place, directories, files in os.walk(os.fsencode(top)):
        below = os.path.relpath(place, os.fsencode(top))
        paths = {name: os.path.normpath(os.path.join(below, name)) for name in directories + files}
        directories[:] = [name for name in directories if not globs.excludes(paths[name], True)]
        found += [paths[name] for name in files if not globs.excludes(paths[name], False)]
    return sorted(found)


def test_all_of_it_is_taken_where_there_is_room(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(5))
    room = Room(2 * ENTRY + 5, 2)
    selection = chosen(tmp_path, room)
    assert (selection.whole, selection.exclude, selection.bytes) == (True, [], room.bytes)
    assert (selection.content, selection.entries) == (5, 2)


def test_in_order_of_names_until_the_room_is_taken(tmp_path):
    for name in ("a/x", "b/c/1", "b/c/2", "b/c/3", "b/d/1", "c"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    selection = chosen(tmp_path, Room(2**30, 6))  # a, a/x, b, b/c, b/c/1, b/c/2
    assert (selection.ended, selection.entries) == (True, 6)
    assert included(tmp_path, selection) == [b"a/x", b"b/c/1", b"b/c/2"]


def test_a_file_that_does_not_fit_is_passed_over(tmp_path):
    (tmp_path / "1").write_bytes(bytes(90_000))
    (tmp_path / "2").write_bytes(bytes(100_000))
    (tmp_path / "3").write_bytes(bytes(2_000))
    selection = chosen(tmp_path, Room(110_000, 100))
    assert (selection.whole, selection.left_out, selection.ended) == (False, 1, False)
    assert included(tmp_path, selection) == [b"1", b"3"]


def test_after_many_that_do_not_fit_it_ends(tmp_path):
    for number in range(MISFITS + 5):
        (tmp_path / f"{number:03}").write_bytes(bytes(ENTRY))
    (tmp_path / "last").touch()
    selection = chosen(tmp_path, Room(2 * ENTRY - 1, 100))
    assert (selection.left_out, selection.ended) == (MISFITS, True)
    assert included(tmp_path, selection) == []


def test_the_own_directory_is_left_out(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file").touch()
    (tmp_path / "file").touch()
    stat = (tmp_path / "own").stat()
    selection = chosen(tmp_path, Room(2**30, 100), (stat.st_dev, stat.st_ino))
    assert selection.whole
    assert included(tmp_path, selection) == [b"file"]
