"""A restore changes what it made, and nothing else, wherever symlinks and others lie in wait."""

import os
import subprocess

import pytest

from tests.cli.machine import lacking
from transfer.errors import NoSpace, TargetRefused, TargetUnusable
from transfer.files.directories import OpenDirectories
from transfer.files.metadata import ACLS
from transfer.formats.entry import Entry, FileType
from transfer.sources.scan import list_names, scan
from transfer.targets import target_errors
from transfer.targets.names import TEMPORARY, is_abandoned, temporary_name, unowned
from transfer.targets.tree import TreeTarget

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
TIME = 1_600_000_000_123_456_789


def entry(name=b"name", kind=FileType.FILE, mode=0o640, **fields):
    return Entry(name, kind, mode, os.geteuid(), os.getegid(), TIME, 0)._replace(**fields)


@pytest.fixture
def target(root):
    target = TreeTarget(root)
    yield target
    target.close()


@pytest.fixture
def path(root):
    return lambda *parts: os.path.join(root, *parts)


def restore(target, place, wanted, content=b"", **options):
    temporary = target.create_file(place, wanted.name, len(content))
    if content:
        target.write(place, temporary, 0, content)
    try:
        return target.finish_file(place, temporary, wanted, **options)
    except OSError:
        target.discard(place, temporary)
        raise


def names(path):
    return sorted(os.listdir(path()))


def read(path):
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("mtime", [TIME, -1, -1_500_000_001, 0])
@pytest.mark.parametrize("name", [b"\xff\n", b"n" * 255])
def test_a_file_with_its_metadata(target, place, path, name, mtime):
    assert restore(target, place, entry(name, mtime=mtime), b"content") == []
    found = os.lstat(path(name))
    assert read(path(name)) == b"content"
    assert (found.st_mtime_ns, found.st_mode & 0o7777) == (mtime, 0o640)
    assert names(path) == [name]


def test_until_it_is_finished_it_is_the_callers_alone(target, place, path):
    temporary = target.create_file(place, b"name", 10)
    assert temporary.startswith(TEMPORARY)
    assert os.lstat(path(temporary)).st_mode & 0o7777 == 0o600
    target.discard(place, temporary)
    target.discard(place, temporary)
    assert names(path) == []


def test_beyond_the_longest_path(target, place):
    here = place
    for _ in range(20):
        target.make_directory(here, b"d" * 255)
        here = here.child(b"d" * 255)
    assert restore(target, here, entry(), b"x") == []
    assert target.make_symlink(here, entry(b"l", FileType.SYMLINK, target=b"t")) == []
    target.make_hard_link(here, b"h", here, b"name", target.exists(here, b"name").identity)
    assert target.exists(here, b"name").nlink == 2


@needs_root
def test_setuid_stays_after_the_owner_is_set(target, place, path):
    assert restore(target, place, entry(mode=0o6755, uid=54321, gid=54322)) == []
    found = os.lstat(path(b"name"))
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (54321, 54322, 0o6755)


@needs_root
def test_setuid_is_not_given_to_another_owner(root, place, path):
    target = TreeTarget(root, owner="none")
    assert restore(target, place, entry(mode=0o6755, uid=54321, gid=54322)) == ["mode"]
    found = os.lstat(path(b"name"))
    assert (found.st_uid, found.st_mode & 0o7777) == (os.geteuid(), 0o755)
    target.close()


@needs_root
def test_owner_by_name_falls_back_to_the_number(root, place, path):
    target = TreeTarget(root, owner="name")
    restore(target, place, entry(b"a", uid=54321, user=b"root"))
    restore(target, place, entry(b"b", uid=54321, user=b"no-such-user"))
    assert [os.lstat(path(name)).st_uid for name in (b"a", b"b")] == [0, 54321]
    target.close()


def as_user(root, work):
    """*work* with a target that is a user's own."""
    os.chown(root, 54321, 54321)
    for above in (os.path.dirname(root), os.path.dirname(os.path.dirname(root))):
        os.chmod(above, 0o755)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
            os.chdir(root)
            target = TreeTarget(b".")
            work(target, target.place())
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@needs_root
def test_what_a_user_may_not_set_is_counted(root):
    def work(target, place):
        wanted = entry(mode=0o4755, uid=7, gid=8, xattrs=((b"trusted.x", b"1"),))
        device = entry(b"dev", FileType.CHARACTER, device=(1, 3))
        assert restore(target, place, wanted) == ["owner", "xattr", "mode"]
        assert target.make_special(place, device) == ["device"]

    as_user(root, work)


@needs_root
def test_what_a_user_restored_of_others_may_stay(root):
    """Also with more names, which must be as they would be made."""

    def work(target, place):
        wanted = entry(mode=0o4755, uid=7, gid=8, link_group=b"g" * 16)
        restore(target, place, wanted)
        os.link("name", "second")
        stat = target.exists(place, b"name")
        assert target.may_keep(wanted, stat)
        assert not target.may_keep(wanted, stat._replace(mode=0o4755))
        assert not target.may_keep(wanted, stat._replace(uid=7777))
        assert not target.may_keep(wanted._replace(link_group=b""), stat)

    as_user(root, work)


@needs_root
def test_a_file_with_more_names_stays_only_with_the_owner_of_its_entry(target, place):
    wanted = entry(uid=7, gid=8, link_group=b"g" * 16)
    restore(target, place, wanted)
    stat = target.exists(place, b"name")._replace(nlink=2)
    assert target.may_keep(wanted, stat)
    assert not target.may_keep(wanted, stat._replace(uid=0))


def test_what_was_changed_since_it_was_compared_gets_no_metadata(target, place, path):
    restore(target, place, entry(), b"content")
    stat = target.exists(place, b"name")
    os.utime(path(b"name"), ns=(5, 5))
    with pytest.raises(TargetRefused, match="changed"):
        target.keep(place, entry(mode=0o600), stat)
    assert os.lstat(path(b"name")).st_mode & 0o7777 == 0o640
    assert target.keep(place, entry(mode=0o600), target.exists(place, b"name")) == []
    found = os.lstat(path(b"name"))
    assert (found.st_mtime_ns, found.st_mode & 0o7777) == (TIME, 0o600)


def test_nothing_is_replaced_unless_asked(target, place, path):
    restore(target, place, entry(), b"old")
    with pytest.raises(FileExistsError):
        restore(target, place, entry(), b"new")
    with pytest.raises(FileExistsError):
        target.make_symlink(place, entry(kind=FileType.SYMLINK, target=b"x"))
    assert (read(path(b"name")), names(path)) == (b"old", [b"name"])
    restore(target, place, entry(), b"new", replace=True)
    assert (read(path(b"name")), names(path)) == (b"new", [b"name"])
    target.make_symlink(place, entry(kind=FileType.SYMLINK, target=b"x"), replace=True)
    assert os.readlink(path(b"name")) == b"x"


def test_planted_symlinks_are_not_followed(target, place, path, tmp_path_factory):
    outside = os.fsencode(tmp_path_factory.mktemp("outside"))
    secret = os.path.join(outside, b"secret")
    with open(secret, "wb") as file:
        file.write(b"secret")
    before = os.lstat(secret)
    os.symlink(secret, path(b"name"))
    os.symlink(outside, path(b"directory"))
    with pytest.raises(FileExistsError):
        restore(target, place, entry(), b"x")
    with pytest.raises(FileExistsError):
        target.make_directory(place, b"directory")
    with pytest.raises(NotADirectoryError):
        target.create_file(place.child(b"directory"), b"x", 1)
    with pytest.raises(NotADirectoryError):
        target.finish_directory(place, entry(b"directory", FileType.DIRECTORY))
    restore(target, place, entry(), b"x", replace=True)
    assert os.lstat(secret) == before
    assert (os.listdir(outside), read(path(b"name"))) == ([b"secret"], b"x")


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_a_temporary_file_that_was_swapped_is_not_written(root, target, place, path, plant):
    temporary = target.create_file(place, b"name", 3)
    victim = path(b"victim")
    with open(victim, "wb") as file:
        file.write(b"victim")
    os.unlink(path(temporary))
    plant(victim, path(temporary))
    other = TreeTarget(root)  # a worker that did not make the file, and only knows its name
    with pytest.raises((TargetRefused, OSError)):
        other.write(place, temporary, 0, b"new")
    with pytest.raises(TargetRefused):  # the one that made it writes into what it made
        target.finish_file(place, temporary, entry())
    assert read(victim) == b"victim"
    other.close()


def test_another_worker_goes_on(root, target, place, path):
    temporary = target.create_file(place, b"name", 6)
    target.write(place, temporary, 0, b"one")
    other = TreeTarget(root)
    other.write(place, temporary, 3, b"two")
    assert other.finish_file(place, temporary, entry()) == []
    assert read(path(b"name")) == b"onetwo"
    other.close()


def test_holes_stay_holes_and_zeros_stay_zeros(target, place, path):
    size = 2**20
    content = bytearray(size)
    content[300_000:300_010] = b"x" * 10
    for name, sparse in ((b"holes", True), (b"zeros", False)):
        temporary = target.create_file(place, name, size)
        target.write(place, temporary, 0, memoryview(content), sparse=sparse)
        target.finish_file(place, temporary, entry(name))
        assert read(path(name)) == content
    target.sync(place)
    assert os.lstat(path(b"holes")).st_blocks * 512 < 65536
    assert os.lstat(path(b"zeros")).st_blocks * 512 >= size


def test_a_hole_covers_what_an_earlier_try_wrote(target, place, path):
    temporary = target.create_file(place, b"name", 20000)
    target.write(place, temporary, 0, b"x" * 20000)
    target.write(place, temporary, 100, bytes(15000), sparse=True)
    target.finish_file(place, temporary, entry())
    assert read(path(b"name")) == b"x" * 100 + bytes(15000) + b"x" * 4900


def test_allocated_zeros_take_space(target, place, path):
    temporary = target.create_file(place, b"name", 2**20)
    target.allocate(place, temporary, 0, 2**20)
    target.allocate(place, temporary, 0, 0)
    assert os.lstat(path(temporary)).st_blocks * 512 >= 2**20


def test_directories_get_their_metadata_last(target, place, path):
    assert target.make_directory(place, b"d") is True
    assert target.make_directory(place, b"d") is False
    assert os.lstat(path(b"d")).st_mode & 0o7777 == 0o700
    restore(target, place.child(b"d"), entry(), b"x")
    assert target.finish_directory(place, entry(b"d", FileType.DIRECTORY, 0o2751)) == []
    found = os.lstat(path(b"d"))
    assert (found.st_mtime_ns, found.st_mode & 0o7777) == (TIME, 0o2751)


def test_symlinks_have_metadata_of_their_own(target, place, path):
    restore(target, place, entry(b"file"), b"x")
    owner = 54321 if os.geteuid() == 0 else os.geteuid()
    wanted = entry(b"l", FileType.SYMLINK, 0o777, target=b"file", uid=owner, mtime=-5)
    assert target.make_symlink(place, wanted) == []
    link, file = os.lstat(path(b"l")), os.stat(path(b"l"))
    assert (link.st_mtime_ns, link.st_uid) == (-5, owner)
    assert (file.st_mtime_ns, file.st_uid) == (TIME, os.geteuid())
    assert os.readlink(path(b"l")) == b"file"


@needs_root
def test_fifos_devices_and_xattrs_of_symlinks_come_back_as_scanned(target, place):
    xattrs = ((b"trusted.a", b"\0"), (b"trusted.b", b"2"))
    made = [
        entry(b"block", FileType.BLOCK, 0o640, device=(259, 70000)),
        entry(b"char", FileType.CHARACTER, 0o4777, device=(1, 3), uid=5, gid=6, xattrs=xattrs),
        entry(b"fifo", FileType.FIFO, 0o622, mtime=-1, uid=7),
        entry(b"link", FileType.SYMLINK, 0o777, target=b"\xff", xattrs=xattrs, gid=9),
    ]
    for wanted in made:
        make = target.make_symlink if wanted.type is FileType.SYMLINK else target.make_special
        assert make(place, wanted) == []
    opened = OpenDirectories()
    scanned, _, _ = scan(opened, place, list_names(opened, place)[0], len)
    clean = {"ctime": 0, "user": b"", "group": b"", "handle": b""}
    assert [found.entry._replace(**clean) for found in scanned] == made
    opened.close()


def test_acls_and_xattrs_come_back_and_inherited_ones_go(target, place, path):
    restore(target, place, entry(b"model"))
    os.mkdir(path(b"d"))
    try:
        os.setxattr(path(b"model"), b"user.x", b"1")
        subprocess.run(["setfacl", "-m", "u:54321:rw", path(b"model")], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:54321:rwx", path(b"d")], check=True)
    except FileNotFoundError:
        lacking("setfacl is missing (Debian: apt install acl)")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the file system of TMPDIR has no ACLs")
    acl = os.getxattr(path(b"model"), ACLS[0])
    below = place.child(b"d")
    xattrs = ((ACLS[0], acl), (b"user.x", b"1"))
    assert restore(target, below, entry(b"with", mode=0o660, xattrs=xattrs)) == []
    assert restore(target, below, entry(b"without", mode=0o660)) == []
    assert os.getxattr(path(b"d", b"with"), ACLS[0]) == acl
    assert os.listxattr(path(b"d", b"without")) == []


def test_a_hard_link_goes_only_to_the_file_that_was_written(target, place, path):
    restore(target, place, entry(b"first"), b"x")
    identity = target.exists(place, b"first").identity
    target.make_hard_link(place, b"second", place, b"first", identity)
    target.make_hard_link(place, b"second", place, b"first", identity, replace=True)
    assert target.exists(place, b"second").identity == identity
    with pytest.raises(FileExistsError):
        target.make_hard_link(place, b"second", place, b"first", identity)
    restore(target, place, entry(b"third"), b"other")
    target.make_hard_link(place, b"third", place, b"first", identity, replace=True)
    assert target.exists(place, b"third").identity == identity
    os.unlink(path(b"first"))
    os.symlink(b"second", path(b"first"))
    with pytest.raises(TargetRefused):
        target.make_hard_link(place, b"fourth", place, b"first", identity)
    assert names(path) == [b"first", b"second", b"third"]


def test_what_ends_a_restore_has_an_error_of_its_own():
    for number, ours in ((28, NoSpace), (122, NoSpace), (30, TargetUnusable)):
        with pytest.raises(ours), target_errors(b"x"):
            raise OSError(number, "full")
    with pytest.raises(PermissionError), target_errors(b"x"):
        raise OSError(13, "denied")


def test_it_leaves_no_descriptor(root, place):
    before = len(os.listdir("/proc/self/fd"))
    target = TreeTarget(root)
    for number in range(100):
        target.create_file(place, b"x", number)
    target.make_symlink(place, entry(kind=FileType.SYMLINK, target=b"x"))
    target.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_dead_process_left_is_abandoned_and_what_a_living_one_writes_is_not():
    assert not is_abandoned(temporary_name())
    assert not is_abandoned(temporary_name(b"key"))
    assert is_abandoned(unowned(temporary_name(b"key")))
    assert is_abandoned(TEMPORARY + b"%d.deadbeef-0123" % os.getpid())  # before the machine started
    of_another = temporary_name().split(b".")
    of_another[3] = b"1-0123456789abcdef"  # a process that had this one's number
    assert is_abandoned(b".".join(of_another))
    process = subprocess.Popen(["true"])
    name = TEMPORARY + b"%d-0123" % process.pid
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_abandoned(name)  # a zombie
    process.wait()
    assert is_abandoned(name)
    for other in (b"file", TEMPORARY + b"x", TEMPORARY + b"-1", TEMPORARY):
        assert not is_abandoned(other)
