"""The comparison itself: it must notice each single difference, and nothing else."""

import os

import pytest

from tests.acceptance import trees
from tests.acceptance.compare import PIECE, differences
from tests.acceptance.conftest import tricky_tree
from tests.acceptance.needs import needs_root


def write(path, offset, content):
    """Change bytes and nothing else."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))


def edit(path, action):
    """Change a name in a directory, and leave the directory's time alone."""
    before = path.parent.stat()
    action()
    os.utime(path.parent, ns=(before.st_mtime_ns, before.st_mtime_ns))


def retarget(path):
    before = path.lstat().st_mtime_ns
    edit(path, path.unlink)
    edit(path, lambda: path.symlink_to("elsewhere"))
    os.utime(path, ns=(before, before), follow_symlinks=False)


def touch_deep(top):
    fd = os.open(top / "deep", os.O_RDONLY)
    for name in trees.DEEP:
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.utime(b"bottom", ns=(1, 2), dir_fd=fd)
    os.close(fd)


def unlink_hard(path):
    """The same content and metadata in a file of its own."""
    content, before = path.read_bytes(), path.stat()
    edit(path, path.unlink)
    edit(path, lambda: path.write_bytes(content))
    path.chmod(before.st_mode & 0o7777)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))


def link_twins(path, other):
    edit(other, other.unlink)
    edit(other, lambda: os.link(path, other))


def fill(path):
    before = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    os.utime(path, ns=(before, before))


def punch(path):
    size, before = path.stat().st_size, path.stat().st_mtime_ns
    os.truncate(path, 0)
    os.truncate(path, size)
    os.utime(path, ns=(before, before))


def other_device(place):
    (place / "null").unlink()
    os.mknod(place / "null", 0o20666, os.makedev(1, 5))


def grow(path):
    before = path.stat().st_mtime_ns
    os.truncate(path, path.stat().st_size + 1)
    os.utime(path, ns=(before, before))


MUTATIONS = {
    "missing": lambda top: edit(top / "names/*", (top / "names/*").unlink),
    "missing empty directory": lambda top: edit(
        top / "contents/empty directory", (top / "contents/empty directory").rmdir
    ),
    "extra": lambda top: edit(top / "names/new", (top / "names/new").touch),
    "content, first byte": lambda top: write(top / "contents/noise-1", 0, b"?"),
    "content, last byte": lambda top: write(top / "contents/large", 9 * 2**20 + 4, b"?"),
    "content, next piece": lambda top: write(top / "contents/large", PIECE, b"?"),
    "content in a hole": lambda top: write(top / "sparse/all", 5 << 30, b"?"),
    "size": lambda top: grow(top / "contents/text"),
    "mode": lambda top: (top / "contents/text").chmod(0o601),
    "mode of a directory": lambda top: (top / "metadata/sticky").chmod(0o777),
    "mtime by a nanosecond": lambda top: os.utime(
        top / "contents/text", ns=(0, (top / "contents/text").stat().st_mtime_ns + 1)
    ),
    "mtime of a symlink": lambda top: os.utime(top / "links/up", ns=(5, 5), follow_symlinks=False),
    "mtime of the top": lambda top: os.utime(top, ns=(5, 5)),
    "mtime beyond the longest path": touch_deep,
    "target": lambda top: retarget(top / "links/dangling"),
    "xattrs, a value": lambda top: os.setxattr(top / "metadata/attributes", "user.empty", b"x"),
    "xattrs, one less": lambda top: os.removexattr(top / "metadata/attributes", "user.empty"),
    "xattrs, an ACL": lambda top: os.removexattr(top / "metadata/shared", trees.ACL_ACCESS),
    "xattrs, a default ACL": lambda top: os.setxattr(
        top / "metadata/set-group", trees.ACL_DEFAULT, trees.acl(12345, 0o74)
    ),
    "sparse, filled": lambda top: fill(top / "sparse/front"),
    "sparse, emptied": lambda top: punch(top / "sparse/full"),
    "links, one apart": lambda top: unlink_hard(top / "links/other/small"),
    "links, two joined": lambda top: link_twins(top / "links/twin", top / "links/other/twin"),
    "type": lambda top: (
        edit(top / "names/*", (top / "names/*").unlink),
        edit(top / "names/*", lambda: os.mkfifo(top / "names/*")),
    ),
}
FOR_ROOT = {
    "owner": lambda top: os.chown(top / "contents/text", 5, 0),
    "owner, group of a symlink": lambda top: os.chown(
        top / "links/up", 0, 5, follow_symlinks=False
    ),
    "device": lambda top: (
        edit(top / "privileged/null", (top / "privileged/null").unlink),
        edit(
            top / "privileged/null",
            lambda: os.mknod(top / "privileged/null", 0o20666, os.makedev(1, 5)),
        ),
    ),
    "xattrs of a symlink": lambda top: os.setxattr(
        top / "privileged/foreign-link", "trusted.of", b"", follow_symlinks=False
    ),
    "xattrs of a fifo": lambda top: os.removexattr(top / "privileged/foreign-fifo", "trusted.of"),
}


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    return tricky_tree(tmp_path_factory.mktemp("twins") / "left")


@pytest.fixture
def twins(left, tmp_path):
    return left, tricky_tree(tmp_path / "right")


def test_equal_trees_have_no_difference_either_way(twins):
    assert differences(*twins) == []
    assert [found.what for found in differences(*reversed(twins))] in ([], ["extra"])  # the socket


def check(twins, name, mutate):
    """The first word of *name* is noticed, and nothing else that the mutation does not do."""
    mutate(twins[1])
    what = name.split()[0].rstrip(",")
    found = {each.what for each in differences(*twins)}
    assert what in found and found <= {what, "mtime"}


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_difference_is_noticed_and_named(twins, name):
    check(twins, name, MUTATIONS[name])


@needs_root
@pytest.mark.parametrize("name", FOR_ROOT)
def test_each_difference_that_only_root_can_make_is_noticed(twins, name):
    check(twins, name, FOR_ROOT[name])


def test_what_is_ignored_is_not_told(twins):
    write(twins[1] / "contents/text", 0, b"?")
    assert [found.what for found in differences(*twins)] == ["content"]
    assert differences(*twins, ignore=frozenset(["content"])) == []
