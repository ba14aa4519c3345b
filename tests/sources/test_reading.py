"""Only the file that was scanned is read, and all of it."""

import os
import pickle
import socket

import pytest

from transfer.files.metadata import to_stat
from transfer.sources.reading import (
    SourceChanged,
    SourceFile,
    data_extents,
    open_file,
    read_into,
    unchanged,
)


@pytest.fixture
def path(root):
    path = os.path.join(root, b"file")
    with open(path, "wb") as file:
        file.write(b"content" * 1000)
    os.utime(path, ns=(0, 10**18))
    return path


@pytest.fixture
def file(place, path):
    return SourceFile(place, b"file", to_stat(os.lstat(path)))


def refusal(directories, file):
    with pytest.raises(SourceChanged) as raised, open_file(directories, file):
        pass
    return raised.value.code


def test_it_reads_what_was_scanned(directories, file):
    view = memoryview(bytearray(10000))
    with open_file(directories, file) as fd:
        assert read_into(fd, 0, view) == 7000
        assert bytes(view[:7000]) == b"content" * 1000
        assert read_into(fd, 6999, view[:1]) == 1
        assert read_into(fd, 7000, view) == 0
        assert unchanged(fd, file.stat)


def test_reading_leaves_no_trace(directories, path, file):
    with open_file(directories, file) as fd:
        read_into(fd, 0, memoryview(bytearray(100)))
    assert os.lstat(path).st_atime_ns == 0


def test_a_write_meanwhile_is_seen_afterwards(directories, path, file):
    with open_file(directories, file) as fd:
        with open(path, "ab") as other:
            other.write(b"more")
        assert not unchanged(fd, file.stat)
    assert refusal(directories, file) == "changed"


def test_a_change_with_its_mtime_set_back_is_seen(directories, path, file):
    with open(path, "r+b") as other:
        other.write(b"CONTENT")
    os.utime(path, ns=(0, 10**18))
    assert refusal(directories, file) == "changed"


def symlink(path):
    os.symlink(b"/etc/passwd", path)


def listener(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fsdecode(path))


def same_again(path):
    with open(path, "wb") as file:
        file.write(b"content" * 1000)
    os.utime(path, ns=(0, 10**18))


@pytest.mark.parametrize("replace", [symlink, os.mkfifo, os.mkdir, listener, same_again])
def test_whatever_takes_its_name_is_not_read(directories, path, file, replace):
    os.rename(path, path + b".old")
    replace(path)
    assert refusal(directories, file) == "replaced"


def test_a_directory_on_the_way_that_became_a_symlink(root, directories, place, path):
    os.mkdir(os.path.join(root, b"d"))
    os.link(path, os.path.join(root, b"d", b"file"))
    file = SourceFile(place.child(b"d"), b"file", to_stat(os.lstat(path)))
    os.rename(os.path.join(root, b"d"), os.path.join(root, b"e"))
    os.symlink(b"e", os.path.join(root, b"d"))
    assert refusal(directories, file) == "replaced"


def test_a_file_that_is_gone_is_to_be_scanned_again(directories, path, file):
    os.unlink(path)
    with pytest.raises(SourceChanged) as told, open_file(directories, file):
        pass
    assert told.value.code == "replaced"


def test_the_refusal_comes_back_whole_from_a_worker():
    error = pickle.loads(pickle.dumps(SourceChanged("changed", b"\xff")))
    assert (error.code, error.name) == ("changed", b"\xff")


def test_data_extents_leave_out_holes(root):
    path = os.path.join(root, b"sparse")
    with open(path, "wb") as file:
        file.truncate(10 * 2**20)
        for at in (2**20, 5 * 2**20):
            file.seek(at)
            file.write(b"x" * 65536)
    fd = os.open(path, os.O_RDONLY)
    extents = list(data_extents(fd, 0, 10 * 2**20))
    if extents == [(0, 10 * 2**20)]:
        pytest.skip("the file system does not tell holes")
    assert extents == [(2**20, 65536), (5 * 2**20, 65536)]
    assert list(data_extents(fd, 2**20 + 100, 2**20 + 200)) == [(2**20 + 100, 100)]
    assert list(data_extents(fd, 6 * 2**20, 10 * 2**20)) == []
    assert list(data_extents(fd, 0, 2**20)) == []
    assert list(data_extents(fd, 5, 5)) == []
    os.close(fd)


def test_where_holes_are_unknown_everything_is_data():
    reader, writer = os.pipe()  # cannot seek at all
    assert list(data_extents(reader, 3, 10)) == [(3, 7)]
    os.close(reader)
    os.close(writer)
