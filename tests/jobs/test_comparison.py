"""Every way in which a tree can differ is found, and nothing else."""

import os
import shutil
import struct
import time

import pytest

from tests.cli.machine import mounted
from transfer.files.directories import Place
from transfer.files.metadata import to_stat
from transfer.jobs.comparison import Comparison, Difference
from transfer.policy.globs import Globs
from transfer.sources.reading import SourceFile

MIB = 2**20


@pytest.fixture
def both(tmp_path):
    """A tree, and a copy of it that is the same in all that is compared."""
    left, right = tmp_path / "left", tmp_path / "right"
    (left / "deep" / "deeper").mkdir(parents=True)
    (left / "empty").touch()
    (left / "deep" / "file").write_bytes(os.urandom(2 * MIB + 5))
    (left / "deep" / "deeper" / "one").write_text("one")
    (left / "link").symlink_to("deep/file")
    (left / "away").symlink_to("/nowhere")
    os.mkfifo(left / "fifo")
    os.link(left / "empty", left / "twin")
    with (left / "sparse").open("wb") as file:
        file.seek(50 * MIB)
        file.write(b"end")
    shutil.copytree(left, right, symlinks=True, ignore=lambda *_: ["fifo", "twin"])
    os.mkfifo(right / "fifo")
    os.link(right / "empty", right / "twin")
    for path in [left, *left.rglob("*")]:
        os.utime(right / path.relative_to(left), ns=(1, path.lstat().st_mtime_ns),
                 follow_symlinks=False)  # fmt: skip
    return left, right


def acl(user):
    """Like mode 0644, and *user* may read; see acl(5) and linux/posix_acl_xattr.h."""
    none = 0xFFFFFFFF
    entries = [(1, 6, none), (2, 4, user), (4, 4, none), (16, 4, none), (32, 4, none)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def compared(both, exclude=(), since=None, excused=lambda path, what: False):
    """The differences; nothing counts as changed meanwhile, unless *since* says so."""
    left, right = (Place(os.fsencode(each)) for each in both)
    since = time.time_ns() + 10**12 if since is None else since
    comparison = Comparison(Globs(exclude), since, excused, lambda size: None)
    try:
        comparison.begin(left, right)
        while comparison.step():
            pass
        return comparison.differences
    finally:
        comparison.close()


def test_a_faithful_copy_is_the_same(both):
    assert compared(both) == []


def flip(path):
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes((last[0] ^ 1,)))


def keeping_times(path, change):
    stat = path.lstat()
    change()
    os.utime(path, ns=(1, stat.st_mtime_ns), follow_symlinks=False)


def write_at(path, offset, content):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


CHANGES = {
    ("deep/file", "content"): lambda top: keeping_times(
        top / "deep/file", lambda: flip(top / "deep/file")
    ),
    ("deep/deeper/one", "content"): lambda top: keeping_times(
        top / "deep/deeper/one", lambda: (top / "deep/deeper/one").write_text("more")
    ),
    ("deep/deeper", "mode"): lambda top: (top / "deep/deeper").chmod(0o701),
    ("empty", "mode"): lambda top: (top / "empty").chmod(0o4755),
    ("fifo", "times"): lambda top: os.utime(top / "fifo", ns=(1, 1)),
    ("link", "times"): lambda top: os.utime(top / "link", ns=(1, 1), follow_symlinks=False),
    ("", "times"): lambda top: os.utime(top, ns=(1, top.stat().st_mtime_ns + 1)),
    ("sparse", "content"): lambda top: keeping_times(top / "sparse", lambda: flip(top / "sparse")),
    ("sparse", "content", "in a hole"): lambda top: keeping_times(
        top / "sparse", lambda: write_at(top / "sparse", 20 * MIB, b"!")
    ),
    ("deep/file", "acl"): lambda top: os.setxattr(
        top / "deep/file", "system.posix_acl_access", acl(1)
    ),
    ("deep/file", "owner"): lambda top: os.chown(top / "deep/file", 1, -1),
    ("deep/file", "owner", "group"): lambda top: os.chown(top / "deep/file", -1, 1),
    ("deep/file", "xattr"): lambda top: os.setxattr(top / "deep/file", "user.more", b"1"),
}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("place", CHANGES, ids=" ".join)
def test_one_change_on_one_side_is_one_difference(both, place, side):
    path, what = place[:2]
    if what == "owner" and os.geteuid() != 0:
        pytest.skip("only root gives a file to somebody else")
    CHANGES[place](both[side])
    found = {(each.path.decode(), each.what) for each in compared(both)}
    # Of two names of one inode both are told.
    assert found == {(path, what)} | ({("twin", what)} if path == "empty" else set())


def replaced(path, make):
    """Put another thing in *path*'s place; its directory's and its own times stay."""
    above, stat = path.parent.stat(), path.lstat()
    path.unlink()
    make(path)
    os.utime(path, ns=(1, stat.st_mtime_ns), follow_symlinks=False)
    os.utime(path.parent, ns=(1, above.st_mtime_ns))


def test_links_lead_where_they_led(both):
    replaced(both[1] / "away", lambda path: path.symlink_to("/elsewhere"))
    assert compared(both) == [Difference(b"away", "content", False)]


def test_a_name_is_what_it_was(both):
    replaced(both[1] / "fifo", lambda path: path.touch())
    assert [(each.path, each.what) for each in compared(both)] == [(b"fifo", "type")]


@pytest.mark.parametrize("side", [0, 1])
def test_names_of_one_inode_stay_together_and_others_apart(both, side):
    replaced(both[side] / "twin", lambda path: path.touch(0o644))
    (both[side] / "twin").chmod((both[1 - side] / "twin").stat().st_mode)
    assert [(each.path, each.what) for each in compared(both)] == [(b"twin", "link")]


def test_what_is_missing_or_more_is_told_and_sockets_and_excluded_names_are_not(both):
    (both[1] / "deep" / "file").unlink()
    (both[1] / "more").mkdir()
    (both[1] / "more" / "below").touch()
    (both[0] / "left out").touch()
    os.mknod(both[0] / "socket", 0o140644)
    os.utime(both[1], ns=(1, both[0].stat().st_mtime_ns))
    os.utime(both[1] / "deep", ns=(1, (both[0] / "deep").stat().st_mtime_ns))
    found = [(each.path, each.what) for each in compared(both, [b"/left out"])]
    assert found == [(b"deep/file", "missing"), (b"more", "extra")]
    assert [each.path for each in compared(both)] == [b"deep/file", b"left out", b"more"]


def test_what_a_kernel_makes_up_over_a_name_need_not_come_back(both):
    (both[0] / "version").touch()
    os.utime(both[1], ns=(1, both[0].stat().st_mtime_ns))
    with mounted("--bind", "/proc/version", both[0] / "version"):
        assert compared(both) == []
    assert [each.path for each in compared(both)] == [b"version"]


def test_what_was_named_before_is_excused(both):
    (both[1] / "deep").chmod(0o700)
    (both[1] / "empty").chmod(0o600)
    assert {each.path for each in compared(both, excused=lambda path, what: path == b"deep")} == {
        b"empty", b"twin",
    }  # fmt: skip


def test_only_what_changed_since_the_start_counts_as_changed(both):
    since = time.time_ns()
    time.sleep(0.05)
    (both[1] / "deep" / "deeper" / "one").write_text("else")
    flip(both[0] / "deep" / "file")
    (both[0] / "new").touch()
    found = {
        (each.path, each.what): each.changed for each in compared(both, since=since + 4 * 10**7)
    }
    assert found.pop((b"deep/deeper/one", "content")) is False
    assert found.pop((b"deep/deeper/one", "times")) is False
    assert set(found) == {
        (b"", "times"), (b"deep/file", "content"), (b"deep/file", "times"), (b"new", "missing"),
    }  # fmt: skip
    assert all(found.values())


def test_a_name_that_goes_while_they_are_compared_has_changed(both):
    time.sleep(0.05)
    since = time.time_ns()
    comparison = Comparison(Globs([]), since, lambda path, what: False, lambda size: None)
    try:
        comparison.begin(*(Place(os.fsencode(each)) for each in both))
        (both[0] / "fifo").unlink()
        while comparison.step():
            pass
    finally:
        comparison.close()
    assert comparison.differences == [Difference(b"fifo", "extra", True)]


def test_what_did_not_come_back_at_all_is_missing(both, tmp_path):
    assert compared((both[0], tmp_path / "nothing")) == [Difference(b"", "missing", False)]
    comparison = Comparison(Globs([]), 0, lambda path, what: False, lambda size: None)
    file = both[0] / "deep" / "file"
    source = SourceFile(Place(os.fsencode(file.parent)), b"file", to_stat(file.stat()))
    comparison.image(source, 1, Place(os.fsencode(tmp_path)), b"nothing", busy=True)
    comparison.close()
    assert comparison.differences == [Difference(b"", "missing", False)]


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("change", [lambda path: None, flip, lambda path: os.truncate(path, MIB)])
def test_an_image_is_its_content(tmp_path, change, busy):
    image, right = tmp_path / "image", tmp_path / "right"
    image.write_bytes(os.urandom(MIB + 1))
    right.mkdir()
    shutil.copyfile(image, right / "image")
    change(right / "image")
    file = SourceFile(Place(os.fsencode(tmp_path)), b"image", to_stat(image.stat()))
    read = []
    comparison = Comparison(
        Globs([]), time.time_ns() + 10**12, lambda path, what: False, read.append
    )
    try:
        comparison.image(file, MIB + 1, Place(os.fsencode(right)), b"image", busy)
    finally:
        comparison.close()
    same = (right / "image").read_bytes() == image.read_bytes()
    assert comparison.differences == ([] if same else [Difference(b"", "content", busy)])
    assert not same or sum(read) == MIB + 1
