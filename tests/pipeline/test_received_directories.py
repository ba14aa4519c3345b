"""Directories that come back: entered and finished together, and refused each by itself."""

import os

from tests.pipeline.test_receive import directory, entry, restored
from transfer.files.directories import Place
from transfer.formats.entry import FileType, Inline
from transfer.pipeline import directory_tasks
from transfer.pipeline.directory_tasks import Done, enter_directories, finish_directories


async def many(line, count):
    """A root of so many directories, each with one small file."""
    below = [
        entry(b"d%02d" % n, await directory(line, entry(b"f", Inline(b"%d" % n))),
              FileType.DIRECTORY)._replace(mode=0o750)
        for n in range(count)
    ]  # fmt: skip
    return await directory(line, *below)


async def test_directories_beside_each_other_are_entered_and_finished_together(
    sending, receiving, notes, tmp_path
):
    async with sending() as line:
        root = await many(line, 12)
    calls = []

    async def listen(line):
        call = line.pool.call

        async def heard(function, *arguments):
            calls.append((function.__name__, len(arguments[0])))
            return await call(function, *arguments)

        line.pool.call = heard

    await restored(receiving, notes, root, tmp_path, meanwhile=listen)
    entered = [size for name, size in calls if name == "enter_directories"]
    finished = [size for name, size in calls if name == "finish_directories"]
    assert entered == [1]  # those in it with its page
    assert (sum(finished), len(finished) < 13) == (13, True)
    for n in range(12):
        assert (tmp_path / f"out/top/d{n:02}/f").read_bytes() == b"%d" % n
        assert (tmp_path / f"out/top/d{n:02}").stat().st_mode & 0o777 == 0o750


async def test_a_directory_that_cannot_be_made_is_named_and_those_beside_it_come_back(
    sending, receiving, notes, tmp_path
):
    async with sending() as line:
        root = await many(line, 5)
    (tmp_path / "out/top").mkdir()
    (tmp_path / "out/top/d02").write_text("mine")
    await restored(receiving, notes, root, tmp_path)
    assert notes.warnings == [(b"top/d02", "exists")]
    assert (tmp_path / "out/top/d02").read_text() == "mine"
    for n in (0, 1, 3, 4):
        assert (tmp_path / f"out/top/d{n:02}/f").read_bytes() == b"%d" % n


async def test_a_directory_that_is_not_the_one_entered_is_not_finished_and_those_beside_it_are(
    receiving, tmp_path
):
    out = tmp_path / "out"
    place = Place(os.fsencode(out))
    names = [b"a", b"b", b"c"]
    async with receiving() as line:
        asked = [(place, name) for name in names]
        entered = await line.pool.call(enter_directories, asked, False, True)
        entered[1] = entered[1]._replace(place=entered[1].place._replace(pin=(0, 0)))
        done = [
            Done(place, entry(name, None, FileType.DIRECTORY)._replace(mode=0o751), each.place)
            for name, each in zip(names, entered, strict=True)
        ]
        first, replaced, last = await line.pool.call(finish_directories, done, True)
    assert (first, last) == ([], [])
    assert isinstance(replaced, directory_tasks.Refusal)
    modes = {each.name: each.stat().st_mode & 0o777 for each in out.iterdir()}
    assert modes == {"a": 0o751, "b": 0o700, "c": 0o751}
