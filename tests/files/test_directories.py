"""Directories by descriptor: no path is too long, and no symlink is followed below the root."""

import os

import pytest

from transfer.files.directories import OpenDirectories, Place, identity

NAME = b"n" * 255


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def build(root, parts):
    """A chain of directories, which is longer than any path may be."""
    fd = os.open(root, os.O_RDONLY)
    for part in parts:
        os.mkdir(part, dir_fd=fd)
        below = os.open(part, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    identity = os.fstat(fd).st_ino
    os.close(fd)
    return identity


def remove(root, parts):
    opened = OpenDirectories()
    for depth in range(len(parts) - 1, -1, -1):
        os.rmdir(parts[depth], dir_fd=opened.fd(Place(root, parts[:depth])))
    opened.close()


@pytest.mark.parametrize("parts", [(NAME,) * 40, (b"d",) * 1500], ids=["long", "deep"])
def test_any_length_and_depth_opens_with_few_descriptors(root, parts):
    inode = build(root, parts)
    before = open_descriptors()
    opened = OpenDirectories(limit=16)
    assert os.fstat(opened.fd(Place(root, parts))).st_ino == inode
    assert len(opened) <= 16
    assert open_descriptors() - before <= 16
    opened.close()
    assert open_descriptors() == before
    remove(root, parts)


def test_a_second_look_opens_nothing(root, directories):
    os.makedirs(os.path.join(root, b"a/b"))
    first = directories.fd(Place(root, (b"a", b"b")))
    assert directories.fd(Place(root, (b"a", b"b"))) == first
    assert len(directories) == 3


def test_a_symlink_on_the_way_is_refused_but_the_root_may_be_one(root, directories):
    os.makedirs(os.path.join(root, b"real/below"))
    os.symlink(b"real", os.path.join(root, b"link"))
    with pytest.raises(NotADirectoryError):
        directories.fd(Place(root, (b"link", b"below")))
    directories.fd(Place(os.path.join(root, b"link"), (b"below",)))


def test_a_failed_walk_leaves_no_descriptor(root):
    build(root, (b"d",) * 40)
    before = open_descriptors()
    opened = OpenDirectories(limit=8)
    with pytest.raises(FileNotFoundError):
        opened.fd(Place(root, (*(b"d",) * 40, b"missing")))
    opened.close()
    assert open_descriptors() == before


def test_what_is_forgotten_is_opened_anew(root, directories):
    os.makedirs(os.path.join(root, b"a/b"))
    old = os.fstat(directories.fd(Place(root, (b"a", b"b")))).st_ino
    os.rename(os.path.join(root, b"a"), os.path.join(root, b"c"))
    os.makedirs(os.path.join(root, b"a/b"))
    directories.forget(Place(root, (b"a",)))
    assert os.fstat(directories.fd(Place(root, (b"a", b"b")))).st_ino != old


def test_a_pinned_place_is_that_very_directory(root, directories):
    top = os.path.join(root, b"a")
    os.makedirs(os.path.join(top, b"b"))
    place = Place(root, (b"a", b"b"))
    pinned = place._replace(pin=identity(directories.fd(place)))
    assert directories.fd(pinned) == directories.fd(place)
    os.rename(top, top + b"-aside")
    os.makedirs(os.path.join(top, b"b"))
    fresh = OpenDirectories()
    assert fresh.fd(place) != fresh.fd(Place(root, (b"a",)))
    with pytest.raises(OSError, match="another directory"):
        fresh.fd(pinned)
    with pytest.raises(FileNotFoundError):
        fresh.fd(pinned.child(b"below"))  # what is below is pinned by itself
    fresh.close()


def test_listing_leaves_no_trace_in_a_directorys_atime(root):
    below = os.path.join(root, b"below")
    os.mkdir(below)
    os.utime(below, (1000, 1000))
    directories = OpenDirectories()
    os.listdir(directories.fd(Place(root, (b"below",))))
    directories.close()
    assert os.stat(below).st_atime == 1000
