"""The comparison itself: it must notice each single difference, and nothing else."""

import os

import pytest

from tests.acceptance import trees
from tests.acceptance.compare import PIECE, differences
from tests.acceptance.conftest import tricky_tree

AS_ROOT = os.geteuid() == 0


def keeping_times(path, action):
    """Do *action*, and give *path* and its directory their times back."""
    places = {place: place.lstat().st_mtime_ns for place in (path.parent, path)}
    action()
    for place, when in places.items():
        if place.is_symlink() or place.exists():
            os.utime(place, ns=(when, when), follow_symlinks=False)


def written(path, offset, content):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def replaced(path, make):
    path.unlink()
    make()


def alone(path):
    """The same content and metadata, in a file of its own."""
    content, mode = path.read_bytes(), path.stat().st_mode & 0o7777
    replaced(path, lambda: path.write_bytes(content))
    path.chmod(mode)


def emptied(path):
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)


def filled(path):
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


# (where, what is noticed there, what is done to it); each place once
MUTATIONS = [
    ("names/*", "missing", lambda path: path.unlink()),
    ("contents/empty directory", "missing", lambda path: path.rmdir()),
    ("names/ ", "type", lambda path: replaced(path, lambda: os.mkfifo(path))),
    ("contents/noise-1", "content", lambda path: written(path, 0, b"?")),
    ("contents/large", "content", lambda path: written(path, 9 * 2**20 + 4, b"?")),
    ("contents/again", "content", lambda path: written(path, PIECE, b"?")),
    ("sparse/all", "content", lambda path: written(path, 5 << 30, b"?")),
    ("contents/text", "size", lambda path: os.truncate(path, path.stat().st_size + 1)),
    ("contents/empty", "mode", lambda path: path.chmod(0o601)),
    ("metadata/sticky", "mode", lambda path: path.chmod(0o777)),
    ("links/dangling", "target", lambda path: replaced(path, lambda: path.symlink_to("no"))),
    ("metadata/attributes", "xattrs", lambda path: os.setxattr(path, "user.empty", b"x")),
    ("metadata/mode-777", "xattrs", lambda path: os.setxattr(path, "user.new", b"")),
    ("metadata/shared", "xattrs", lambda path: os.removexattr(path, trees.ACL_ACCESS)),
    (
        "metadata/set-group",
        "xattrs",
        lambda path: os.setxattr(path, trees.ACL_DEFAULT, trees.acl(12345, 0o74)),
    ),
    ("sparse/front", "sparse", filled),
    ("sparse/full", "sparse", emptied),
    ("links/other/small", "links", alone),
    (
        "links/other/twin",
        "links",
        lambda path: replaced(path, lambda: os.link(path.parent.parent / "twin", path)),
    ),
]
FOR_ROOT = [
    ("contents/noise-2048", "owner", lambda path: os.chown(path, 5, 0)),
    ("links/up", "owner", lambda path: os.lchown(path, 0, 5)),
    (
        "privileged/null",
        "device",
        lambda path: replaced(path, lambda: os.mknod(path, 0o20666, os.makedev(1, 5))),
    ),
    (
        "privileged/foreign-link",
        "xattrs",
        lambda path: os.setxattr(path, "trusted.of", b"", follow_symlinks=False),
    ),
    ("privileged/foreign-fifo", "xattrs", lambda path: os.removexattr(path, "trusted.of")),
]


@pytest.fixture
def twins(tmp_path):
    return tricky_tree(tmp_path / "left"), tricky_tree(tmp_path / "right")


def test_equal_trees_have_no_difference_either_way(twins):
    assert differences(*twins) == []
    backwards = differences(*reversed(twins))
    socket = (b"privileged/socket", "extra") if AS_ROOT else None
    assert [each[:2] for each in backwards] in ([], [socket])


def test_each_difference_is_noticed_and_named_and_nothing_else_is(twins):
    mutations = MUTATIONS + (FOR_ROOT if AS_ROOT else [])
    for where, _, mutate in mutations:
        path = twins[1] / where
        keeping_times(path, lambda: mutate(path))  # noqa: B023 - it is called here and now
    wanted = {(os.fsencode(where), what) for where, what, _ in mutations}
    found = {(each.path, each.what) for each in differences(*twins)}
    # The file that got a second name has that one's time.
    assert found - {(b"links/twin", "mtime")} == wanted


def touch_bottom(top):
    fd = os.open(top / "deep", os.O_RDONLY)
    for name in trees.DEEP:
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.utime(b"bottom", ns=(1, 2), dir_fd=fd)
    os.close(fd)


def test_times_are_compared_to_the_nanosecond_everywhere(twins):
    top = twins[1]
    when = (top / "contents" / "text").stat().st_mtime_ns + 1
    os.utime(top / "contents" / "text", ns=(0, when))
    os.utime(top / "links" / "up", ns=(5, 5), follow_symlinks=False)
    os.utime(top / "metadata" / "sticky", ns=(5, 5))
    touch_bottom(top)
    os.utime(top, ns=(5, 5))
    found = differences(*twins)
    bottom = b"/".join((b"deep", *trees.DEEP, b"bottom"))
    paths = {b".", b"contents/text", b"links/up", b"metadata/sticky", bottom}
    assert {each.path for each in found} == paths
    assert {each.what for each in found} == {"mtime"}


def test_a_name_too_many_is_noticed(twins):
    path = twins[1] / "names" / "new"
    keeping_times(path.parent, path.touch)
    assert [each[:2] for each in differences(*twins)] == [(b"names/new", "extra")]


def test_what_is_ignored_is_not_told(twins):
    path = twins[1] / "contents" / "text"
    keeping_times(path, lambda: written(path, 0, b"?"))
    assert [found.what for found in differences(*twins)] == ["content"]
    assert differences(*twins, ignore=frozenset(["content"])) == []
