"""A scan says everything about a name, takes nothing for another thing, and never fails."""

import os
import socket
import stat as modes
import subprocess

import pytest

from tests.cli.machine import mounted, small_disk
from transfer.files.directories import Place
from transfer.files.metadata import ACLS
from transfer.formats.entry import FileType
from transfer.sources.scan import filesystem_type, is_pseudo, list_names, scan, sync_filesystem


def cut(name):
    return len(name)


def scan_all(directories, place):
    return scan(directories, place, list_names(directories, place)[0], cut)


def entry_of(directories, place, name):
    ((found, *_), skipped, _) = scan(directories, place, [name], cut)
    assert not skipped
    return found.entry


def path(place, name):
    return os.path.join(place.root, *place.parts, name)


def make(place, name, content=b""):
    with open(path(place, name), "wb") as file:
        file.write(content)


def test_names_are_bytes_of_any_kind_and_sorted_as_such(place, directories):
    names = [b"\xff\xfe", b"n" * 255, b" ", b"a\nb", "ä".encode(), b"-rf", b"*"]
    for name in names:
        make(place, name)
    scanned, skipped, sockets = scan_all(directories, place)
    assert [found.entry.name for found in scanned] == sorted(names)
    assert [found.cut for found in scanned] == [len(name) for name in sorted(names)]
    assert (skipped, sockets) == ([], 0)


def test_a_directory_beyond_the_longest_path(place, directories):
    here = place
    for _ in range(20):
        os.mkdir(b"d" * 255, dir_fd=directories.fd(here))
        here = here.child(b"d" * 255)
    os.symlink(b"x", b"end", dir_fd=directories.fd(here))
    assert len(here.path) > 4096
    assert entry_of(directories, here, b"end").target == b"x"


def test_every_type(place, directories):
    make(place, b"file", b"12345")
    os.mkdir(path(place, b"directory"))
    os.symlink(b"\xff/nowhere", path(place, b"symlink"))
    os.mkfifo(path(place, b"fifo"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fsdecode(path(place, b"socket")))
        scanned, skipped, sockets = scan_all(directories, place)
    types = {found.entry.name: found.entry.type for found in scanned}
    assert types == {
        b"file": FileType.FILE,
        b"directory": FileType.DIRECTORY,
        b"symlink": FileType.SYMLINK,
        b"fifo": FileType.FIFO,
    }
    assert (skipped, sockets) == ([], 1)
    assert entry_of(directories, place, b"symlink").target == b"\xff/nowhere"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_devices(place, directories):
    os.mknod(path(place, b"null"), modes.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(path(place, b"disk"), modes.S_IFBLK | 0o600, os.makedev(259, 70000))
    assert entry_of(directories, place, b"null")[1] is FileType.CHARACTER
    assert entry_of(directories, place, b"null").device == (1, 3)
    assert entry_of(directories, place, b"disk").device == (259, 70000)


@pytest.mark.parametrize("mtime", [-1, -1_500_000_001, 0, 1_700_000_000_123_456_789])
def test_mode_owner_and_times(place, directories, mtime):
    make(place, b"file")
    os.utime(path(place, b"file"), ns=(0, mtime))
    os.chmod(path(place, b"file"), 0o4751)
    entry = entry_of(directories, place, b"file")
    assert (entry.mtime, entry.mode) == (mtime, 0o4751)
    assert (entry.uid, entry.gid) == (os.geteuid(), os.getegid())
    assert entry.handle


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_have_their_names_where_there_are_names(place, directories):
    make(place, b"file")
    assert entry_of(directories, place, b"file").user == b"root"
    os.chown(path(place, b"file"), 54321, 54322)
    entry = entry_of(directories, place, b"file")
    assert (entry.uid, entry.gid, entry.user, entry.group) == (54321, 54322, b"", b"")


def test_xattrs_and_acls(place, directories):
    make(place, b"file")
    try:
        os.setxattr(path(place, b"file"), b"user.z", b"\0\xff")
        os.setxattr(path(place, b"file"), b"user.a", b"")
    except OSError:
        pytest.skip("the file system has no user xattrs")
    assert entry_of(directories, place, b"file").xattrs == (
        (b"user.a", b""),
        (b"user.z", b"\0\xff"),
    )
    try:
        subprocess.run(["setfacl", "-m", "u:54321:r", path(place, b"file")], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no ACLs here")
    assert ACLS[0] in dict(entry_of(directories, place, b"file").xattrs)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sets trusted xattrs")
def test_xattrs_of_a_symlink_are_its_own(place, directories):
    make(place, b"file")
    os.setxattr(path(place, b"file"), b"trusted.of", b"file")
    os.symlink(b"file", path(place, b"link"))
    assert entry_of(directories, place, b"link").xattrs == ()
    os.setxattr(path(place, b"link"), b"trusted.of", b"link", follow_symlinks=False)
    assert entry_of(directories, place, b"link").xattrs == ((b"trusted.of", b"link"),)


def test_a_hole_makes_it_sparse(place, directories):
    make(place, b"full", b"x" * 10000)
    make(place, b"empty")
    make(place, b"holes")
    os.truncate(path(place, b"holes"), 2**20)
    sync_filesystem(directories.fd(place))
    sparse = {f.entry.name: f.entry.sparse for f in scan_all(directories, place)[0]}
    assert sparse == {b"full": False, b"empty": False, b"holes": True}


def test_a_name_used_again_has_another_handle(place, directories):
    make(place, b"file")
    if entry_of(directories, place, b"file").handle.startswith(b"\xff" * 4):
        pytest.skip("the file system has no handles")
    handles = set()
    for _ in range(5):
        make(place, b"file")
        handles.add(entry_of(directories, place, b"file").handle)
        os.unlink(path(place, b"file"))
    assert len(handles) == 5


def test_what_vanished_is_said_and_the_rest_goes_on(place, directories):
    make(place, b"here")
    scanned, skipped, _ = scan(directories, place, [b"gone", b"here"], cut)
    assert [found.entry.name for found in scanned] == [b"here"]
    assert [(found.name, found.code) for found in skipped] == [(b"gone", "vanished")]


def test_a_directory_that_cannot_be_opened_skips_its_names(root, directories):
    place = Place(root, (b"missing",))
    assert [s.code for s in scan(directories, place, [b"a", b"b"], cut)[1]] == ["vanished"] * 2
    with pytest.raises(FileNotFoundError):
        list_names(directories, place)


def test_pseudo_file_systems_are_known_by_type(place, directories):
    def kind(where):
        fd = os.open(where, os.O_RDONLY)
        try:
            return filesystem_type(where), filesystem_type(fd), is_pseudo(fd)
        finally:
            os.close(fd)

    assert kind(b"/proc") == ("proc", "proc", True)
    assert kind(b"/sys")[2]
    assert kind(b"/dev/shm")[0] == "tmpfs"
    assert not kind(b"/dev/shm")[2]
    assert not is_pseudo(directories.fd(place))


def test_what_is_mounted_over_a_name_is_known_and_left_out_if_it_is_made_up(
    place, directories, tmp_path
):
    for name in (b"own", b"other", b"made up"):
        make(place, name)
    with (
        small_disk(tmp_path / "disk") as disk,
        mounted("--bind", "/proc/version", tmp_path / "made up"),
    ):
        (disk / "file").touch()
        with mounted("--bind", disk / "file", tmp_path / "other"):
            scanned, skipped, _ = scan_all(directories, place)
    found = {each.entry.name: each.is_mounted for each in scanned}
    assert (found, skipped) == ({b"own": False, b"other": True, b"disk": True}, [])


def test_names_come_in_parts_that_take_bounded_room(directories, tmp_path):
    names = sorted(b"%03d" % n * (1 + n % 7) for n in range(300))
    for name in names:
        (tmp_path / name.decode()).touch()
    place = Place(bytes(tmp_path))
    for room in (1, 100, 1000, 5000, 10**6):
        found, after, more = [], b"", True
        while more:
            part, more = list_names(directories, place, after, room)
            assert len(part) == 1 or sum(41 + len(name) for name in part) <= room
            found += part
            after = part[-1]
        assert found == names
    assert list_names(directories, place, names[-1]) == ([], False)
