"""Reflink copies and extent maps of real file systems."""

import fcntl
import itertools
import os
import stat as modes
import struct
import subprocess
import threading

import pytest

from tests.acceptance.needs import tool
from tests.cli.machine import loop_device, make_read_only, mounted
from tests.sources.disks import content, file_system, opened
from transfer.errors import NoReflinks, NoSpace, TargetRefused, ViewBroken
from transfer.sources.extent_maps import DELALLOC, UNWRITTEN
from transfer.sources.reading import data_extents
from transfer.sources.reflink import changes, clone, extent_map, why_no_reflinks

MIB = 2**20
BLOCK = 4096
ALL = 2**40
_GOINGDOWN, _WITHOUT_LOG = 0x8004587D, 2  # of xfs: as if the power was cut


@pytest.fixture(params=["xfs", "btrfs"])
def files(request, tmp_path):
    with file_system(tmp_path / "disk", request.param) as top, opened(top) as files:
        yield files


@pytest.fixture
def on_xfs(tmp_path):
    with file_system(tmp_path / "disk", "xfs") as top, opened(top) as files:
        yield files


@pytest.fixture
def on_btrfs(tmp_path):
    with file_system(tmp_path / "disk", "btrfs") as top, opened(top) as files:
        yield files


def attribute(change, path):
    subprocess.run([tool("chattr", "e2fsprogs"), change, path], check=True)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


# Copies.


def test_a_copy_is_of_its_moment_and_for_its_owner_alone(files):
    source = files.open("file", b"before" * 1000)
    copy = files.clone(source, "copy")
    os.pwrite(source, b"after!", 0)
    assert content(copy) == b"before" * 1000
    assert modes.S_IMODE((files.top / "copy").stat().st_mode) == 0o600
    assert os.fstat(copy).st_ino == (files.top / "copy").stat().st_ino


def test_the_copy_of_a_file_that_is_written_to_is_of_one_moment(files):
    """Who writes the same number into 64 places in turn never has more than two different ones."""
    source = files.open("file", bytes(64 * 65536))
    stop = threading.Event()

    def write():
        for number in itertools.count(1):
            for place in range(64):
                os.pwrite(source, struct.pack("=Q", number), place * 65536)
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [files.clone(source, f"{number}") for number in range(20)]
    finally:
        stop.set()
        writer.join()
    last = 0
    for copy in copies:
        (*seen,) = (struct.unpack("=Q", os.pread(copy, 8, place * 65536))[0] for place in range(64))
        assert seen == sorted(seen, reverse=True)
        assert seen[0] - seen[-1] <= 1
        assert seen[0] >= last
        last = seen[0]
    assert last > 1


@pytest.mark.parametrize("taken", ["file", "symlink"])
def test_a_name_that_is_taken_is_left_alone(files, taken):
    source = files.open("source", b"content")
    if taken == "symlink":
        (files.top / "copy").symlink_to("elsewhere")
    else:
        (files.top / "copy").write_bytes(b"other")
    before, open_before = sorted(os.listdir(files.top)), descriptors()
    with pytest.raises(TargetRefused, match="copy"):
        clone(source, files.fd, b"copy")
    assert sorted(os.listdir(files.top)) == before
    assert taken == "symlink" or (files.top / "copy").read_bytes() == b"other"
    assert descriptors() == open_before


@pytest.mark.parametrize("where", ["file", "directory"])
def test_without_copy_on_write_there_are_copies_too(on_btrfs, where):
    """Such files have no checksums, and share nothing with files that have."""
    copies = on_btrfs.top / "copies"
    copies.mkdir()
    (on_btrfs.top / "file").touch()
    attribute("+C", on_btrfs.top / "file" if where == "file" else copies)
    source = on_btrfs.open("file", b"x" * MIB)
    with opened(copies) as beside:
        assert why_no_reflinks(source, beside.fd) is None
        old = beside.clone(source, "old")
        os.pwrite(source, b"y" * BLOCK, 10 * BLOCK)
        new = beside.clone(source, "new")
        assert list(changes(old, new, twice=False)) == [(10 * BLOCK, BLOCK)]
        assert content(old) == b"x" * MIB


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_copy_outlives_a_power_cut(tmp_path, kind):
    """All of it: one that had lost a part would have holes where there was content."""
    with file_system(tmp_path / "disk", kind) as top, opened(top) as files:
        source = files.open("file", b"")
        for number in range(50):
            os.pwrite(source, b"content", number * MIB)
        os.fsync(files.fd)
        before = content(files.clone(source, "copy"))
        # What has reached the disk; it cannot be mounted beside the other one.
        subprocess.run(["cp", tmp_path / "disk.image", tmp_path / "cut"], check=True)
    with mounted("-t", kind, "-o", "loop", tmp_path / "cut", top):
        assert (top / "copy").read_bytes() == before


def test_on_a_full_disk_there_is_no_copy(on_xfs):
    source, filler = on_xfs.open("source", b"x" * MIB), on_xfs.open("filler", b"")
    length = 2**29
    while length >= BLOCK:
        try:
            os.posix_fallocate(filler, os.fstat(filler).st_size, length)
        except OSError:
            length //= 2
    with pytest.raises(NoSpace):
        clone(source, on_xfs.fd, b"copy")
    assert sorted(os.listdir(on_xfs.top)) == ["filler", "source"]


def test_a_failing_disk_breaks_the_view(on_xfs):
    source = on_xfs.open("source", b"x" * MIB)
    fcntl.ioctl(on_xfs.fd, _GOINGDOWN, struct.pack("=I", _WITHOUT_LOG))
    with pytest.raises(ViewBroken):
        clone(source, on_xfs.fd, b"copy")
    with pytest.raises(ViewBroken):
        list(extent_map(source, 0, ALL))
    assert "error" in why_no_reflinks(source, on_xfs.fd)


# Why there are none.


def test_asking_leaves_no_trace(files):
    source = files.open("file", b"x" * 100_000)
    before = list(extent_map(source, 0, ALL)), os.listdir(files.top), descriptors()
    assert why_no_reflinks(source, files.fd) is None
    assert (list(extent_map(source, 0, ALL)), os.listdir(files.top), descriptors()) == before
    assert why_no_reflinks(files.open("empty", b""), files.fd) is None


def test_an_immutable_file_can_be_copied(files):
    source = files.open("file", b"x" * MIB)
    attribute("+i", files.top / "file")
    assert why_no_reflinks(source, files.fd) is None
    assert content(files.clone(source, "copy")) == b"x" * MIB


def refused(source, directory_fd):
    """Why not, and that a copy really cannot be made, and leaves nothing."""
    reason = why_no_reflinks(source, directory_fd)
    before = os.listdir(directory_fd), descriptors()
    with pytest.raises(NoReflinks) as told:
        clone(source, directory_fd, b"copy")
    assert reason in told.value.message
    assert (os.listdir(directory_fd), descriptors()) == before
    return reason


def test_another_kind_of_file_system_is_named(tmp_path):
    with opened(tmp_path) as files:
        in_memory = files.keep(os.memfd_create("file"))
        assert refused(in_memory, files.fd) == "it is on tmpfs, not on xfs or btrfs"


def test_an_xfs_may_have_been_made_without(tmp_path):
    with file_system(tmp_path / "disk", "xfs", "-m", "reflink=0") as top, opened(top) as files:
        reason = refused(files.open("file", b"x"), files.fd)
    assert reason == "its file system has no reflinks"


def test_a_directory_in_which_no_files_are_made_is_another_file_system(on_xfs):
    with opened("/proc/sys") as proc:
        reason = refused(on_xfs.open("file", b"x"), proc.fd)
    assert reason == "it is on another file system than the directory for its copies"


@pytest.mark.parametrize("other", ["xfs", "ext4"])
def test_copies_are_on_the_file_system_of_the_file(on_xfs, tmp_path, other):
    source = on_xfs.open("file", b"x")
    with file_system(tmp_path / "other", other) as top, opened(top) as elsewhere:
        reason = refused(source, elsewhere.fd)
    assert reason == "it is on another file system than the directory for its copies"


def test_only_regular_files_have_copies(on_xfs, tmp_path):
    with loop_device(tmp_path / "image", MIB) as device, open(device, "rb") as disk:
        for fd in (on_xfs.fd, disk.fileno()):
            assert refused(fd, on_xfs.fd) == "it is not a regular file"


@pytest.mark.skipif(not os.path.exists("/proc/swaps"), reason="this kernel does not swap")
def test_swap_space_has_no_copies(on_xfs):
    source, path = on_xfs.open("swap", bytes(MIB)), on_xfs.top / "swap"
    path.chmod(0o600)
    subprocess.run([tool("mkswap", "util-linux"), path], check=True, capture_output=True)
    subprocess.run([tool("swapon", "mount"), path], check=True)
    try:
        assert refused(source, on_xfs.fd) == "it is in use as swap space"
    finally:
        subprocess.run([tool("swapoff", "mount"), path], check=True)


def test_a_directory_that_cannot_be_written_to(on_xfs):
    source = on_xfs.open("file", b"x")
    copies = on_xfs.top / "copies"
    copies.mkdir()
    with opened(copies) as beside:
        attribute("+i", copies)
        reason = "nothing may be made in the directory for its copies"
        assert refused(source, beside.fd) == reason
        attribute("-i", copies)
    with opened(on_xfs.top) as again:
        source = again.keep(os.open(on_xfs.top / "file", os.O_RDONLY))
        on_xfs.close()
        make_read_only(on_xfs.top)
        assert refused(source, again.fd) == "the directory for its copies is read-only"


# Maps.


def test_a_map_has_all_that_was_written_and_no_more(files):
    """More extents than one call gives, and none of them was on the disk before."""
    source = files.open("file", b"")
    for number in range(100):
        os.pwrite(source, b"x" * BLOCK, number * 4 * BLOCK)
    os.ftruncate(source, 500 * BLOCK)
    whole = list(extent_map(source, 0, ALL))
    written = [(e.offset, e.length) for e in whole if not e.flags & UNWRITTEN]
    assert written == list(data_extents(source, 0, 500 * BLOCK))
    assert not any(extent.flags & DELALLOC for extent in whole)
    for start, end in [(0, 1), (5, 70 * BLOCK), (40 * BLOCK + 7, 40 * BLOCK + 9), (9, 9)]:
        parts = [part for extent in whole if (part := extent.within(start, end))]
        assert [e[:3] for e in extent_map(source, start, end)] == [part[:3] for part in parts]


def test_reserved_space_is_not_content(files):
    source = files.open("file", b"x" * BLOCK)
    os.posix_fallocate(source, 0, MIB)
    (written, *reserved) = extent_map(source, 0, ALL)
    assert (written.length, written.flags & UNWRITTEN) == (BLOCK, 0)
    assert reserved and all(extent.flags & UNWRITTEN for extent in reserved)


def test_where_there_are_no_maps_that_is_said():
    with open(os.memfd_create("file"), "rb") as file, pytest.raises(NoReflinks):
        list(extent_map(file.fileno(), 0, 1))


# What changed.


WRITTEN = [(number * 16 * BLOCK, BLOCK) for number in range(120)]


def scattered(files):
    """Two copies of a file that was written in many places before the first, and before the second.

    So both are in many pieces, and that is where they differ.
    """
    source, copies = files.open("file", b"x" * 8 * MIB), []
    for name in ("oldest", "old", "new"):
        copies.append(files.clone(source, name))
        for offset, length in WRITTEN:
            os.pwrite(source, os.urandom(length), offset)
    return copies[1:]


def test_what_was_written_is_what_changed(files):
    old, new = scattered(files)
    assert list(changes(old, new, twice=False)) == WRITTEN
    assert list(changes(new, old, twice=True)) == WRITTEN
    assert list(changes(new, new, twice=True)) == []


def test_a_write_to_the_file_moves_no_copy(files):
    """What it had shared with a copy is the copy's alone then, and the copy's map says so."""
    old, new = scattered(files)
    found = changes(old, new, twice=True)
    first, before = next(found), list(extent_map(new, 0, ALL))
    source = files.open("file")
    os.pwrite(source, bytes(8 * MIB), 0)
    os.fsync(source)
    assert [first, *found] == WRITTEN
    assert list(extent_map(new, 0, ALL)) != before


@pytest.mark.parametrize("moved", ["old", "new"])
def test_a_copy_that_is_moved_while_it_is_compared_is_noticed(on_btrfs, moved):
    old, new = scattered(on_btrfs)
    found = changes(old, new, twice=True)
    assert next(found) == WRITTEN[0]
    words = [tool("btrfs", "btrfs-progs"), "filesystem", "defragment", "-f", on_btrfs.top / moved]
    subprocess.run(words, check=True)
    with pytest.raises(ViewBroken, match="moved"):
        list(found)


def test_copies_on_two_file_systems_are_not_compared(on_xfs, tmp_path):
    copy = on_xfs.clone(on_xfs.open("file", b"x"), "copy")
    with file_system(tmp_path / "other", "xfs") as top, opened(top) as elsewhere:
        other = elsewhere.clone(elsewhere.open("file", b"x"), "copy")
        with pytest.raises(NoReflinks):
            list(changes(copy, other, twice=False))
