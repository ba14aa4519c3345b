"""Somebody who may write in the target swaps, links and plants, at any moment: what is outside
stays as it is.
"""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.machine import small_disk
from transfer.errors import NoSpace, TargetRefused
from transfer.files.directories import Place
from transfer.files.metadata import open_anchor
from transfer.formats.entry import Entry, FileType
from transfer.targets import tree
from transfer.targets.names import TEMPORARY
from transfer.targets.tree import TreeTarget

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
OTHER = 54321  # somebody's uid
TIME = 1_600_000_000 * 10**9
DEPTH = (b"a", b"b", b"c")


def entry(name, kind=FileType.FILE, mode=0o4777, **fields):
    owner = (OTHER, OTHER) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    return Entry(name, kind, mode, *owner, TIME, 0)._replace(**fields)


class Outside:
    """What is not to be touched, with the names that a restore uses."""

    def __init__(self, top):
        self.top = top
        here = top
        for name in DEPTH:
            here = os.path.join(here, name)
            os.makedirs(here, 0o700)
            for file in (b"file", b"link", b"fifo", b"hard"):
                with open(os.path.join(here, file), "wb") as made:
                    made.write(b"secret")
        self.before = self.found()

    def found(self):
        state = {}
        for here, _, names in os.walk(self.top):
            for path in (here, *(os.path.join(here, name) for name in names)):
                found = os.lstat(path)
                restored = found.st_mtime_ns == TIME
                changed = found.st_ino, found.st_mode, found.st_uid, restored
                raw = b"" if os.path.isdir(path) else Path(os.fsdecode(path)).read_bytes()
                state[path] = (*changed, found.st_nlink, raw)
        return state


@pytest.fixture
def outside(tmp_path_factory):
    made = Outside(os.fsencode(tmp_path_factory.mktemp("outside")))
    yield made
    assert made.found() == made.before


class Restore:
    """A restore of three directories with a file, a symlink, a fifo and a hard link in each; every
    step by a worker that has nothing open, as after a restart.
    """

    def __init__(self, root):
        self.root, self.places, self.files = root, [Place(root)], {}
        self.steps = [(self.enter, name) for name in DEPTH]
        for depth in range(len(DEPTH), 0, -1):
            self.steps += [(self.file, depth), (self.symlink, depth), (self.fifo, depth),
                           (self.hard_link, depth), (self.finish, depth)]  # fmt: skip

    def enter(self, target, name):
        self.places.append(target.enter_directory(self.places[-1], name))

    def file(self, target, depth):
        temporary = target.create_file(self.places[depth], b"file", 6)
        target.write(self.places[depth], temporary, 0, b"public")
        target.finish_file(self.places[depth], temporary, entry(b"file"), replace=True)
        self.files[depth] = target.exists(self.places[depth], b"file").identity

    def symlink(self, target, depth):
        wanted = entry(b"link", FileType.SYMLINK, target=b"file")
        target.make_symlink(self.places[depth], wanted, replace=True)

    def fifo(self, target, depth):
        target.make_special(self.places[depth], entry(b"fifo", FileType.FIFO), replace=True)

    def hard_link(self, target, depth):
        place = self.places[depth]
        file = self.files[depth]
        target.make_hard_link(place, b"hard", place, b"file", file, replace=True)

    def finish(self, target, depth):
        wanted = entry(DEPTH[depth - 1], FileType.DIRECTORY, 0o777)
        target.finish_directory(self.places[depth - 1], wanted, self.places[depth].pin)

    def run(self, attack, at):
        """Each step, what the attack makes impossible left out; the attack comes before *at*."""
        for number, (step, argument) in enumerate(self.steps):
            if number == at:
                attack()
            target = TreeTarget(self.root)
            try:
                with suppress(OSError, TargetRefused, LookupError):
                    step(target, argument)
            finally:
                target.close()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("how", ["symlink", "directory"])
def test_a_directory_that_is_swapped_at_any_moment(tmp_path_factory, outside, depth, how):
    # A directory that is there before the restore comes is entered as any other.
    first = depth if how == "directory" else 0
    for at in range(first, len(Restore(b"").steps)):
        root = os.fsencode(tmp_path_factory.mktemp("target"))
        here, there = os.path.join(root, *DEPTH[:depth]), os.path.join(outside.top, *DEPTH[:depth])

        def swap(here=here, there=there):
            with suppress(FileNotFoundError):
                os.rename(here, here + b"-aside")
            with suppress(FileNotFoundError):
                os.symlink(there, here) if how == "symlink" else os.rename(there, here)

        Restore(root).run(swap, at)
        if how == "directory" and os.path.isdir(here) and not os.path.exists(there):
            os.rename(here, there)


@pytest.mark.parametrize("plant", [os.symlink, os.link])
@pytest.mark.parametrize("name", [b"file", b"link", b"fifo", b"hard"])
def test_a_name_that_leads_to_somebodys_file(tmp_path_factory, outside, plant, name):
    for at in range(len(DEPTH), len(Restore(b"").steps)):
        root = os.fsencode(tmp_path_factory.mktemp("target"))
        victim = os.path.join(outside.top, *DEPTH, name)
        path = os.path.join(root, *DEPTH, name)

        def lay(victim=victim, path=path):
            with suppress(FileNotFoundError):
                os.unlink(path)
            plant(victim, path)

        Restore(root).run(lay, at)
        with suppress(FileNotFoundError):
            os.unlink(path)  # a second name counts as a change of the first


@needs_root
def test_a_victims_directory_gets_no_metadata_and_no_file(root, place, tmp_path):
    """In a directory that all may write, names can be exchanged without any right over either."""
    os.mkdir(os.path.join(root, b"victims"), 0o700)
    os.chown(os.path.join(root, b"victims"), OTHER, OTHER)
    target = TreeTarget(root)
    below = target.enter_directory(place, b"d")
    target.close()
    os.rename(os.path.join(root, b"d"), os.path.join(root, b"aside"))
    os.rename(os.path.join(root, b"victims"), os.path.join(root, b"d"))
    target = TreeTarget(root)
    with pytest.raises(OSError, match="another directory"):
        target.create_file(below, b"x", 1)
    with pytest.raises(OSError, match="another directory"):
        target.finish_directory(place, entry(b"d", FileType.DIRECTORY, 0o777), below.pin)
    found = os.lstat(os.path.join(root, b"d"))
    assert (found.st_uid, found.st_mode & 0o7777) == (OTHER, 0o700)
    assert os.listdir(os.path.join(root, b"d")) == []
    target.close()


def test_a_directory_that_was_there_is_entered(root, place):
    os.makedirs(os.path.join(root, b"d", b"mine"), 0o755)
    target = TreeTarget(root)
    below = target.enter_directory(place, b"d")
    assert below.pin == target.exists(place, b"d").identity
    assert target.exists(below, b"mine").mode == 0o755
    os.symlink(b"d", os.path.join(root, b"link"))
    with pytest.raises(FileExistsError):
        target.enter_directory(place, b"link")
    target.close()


def test_what_was_linked_meanwhile_is_not_finished(root, place):
    target = TreeTarget(root)
    temporary = target.create_file(place, b"setuid", 1)
    os.link(os.path.join(root, temporary), os.path.join(root, b"kept"))
    with pytest.raises(TargetRefused):
        target.finish_file(place, temporary, entry(b"setuid"))
    assert os.lstat(os.path.join(root, b"kept")).st_mode & 0o7777 == 0o600
    target.close()


def test_whatever_fails_leaves_no_temporary_name(root, place):
    target = TreeTarget(root)
    too_long = entry(b"l" * 300, FileType.SYMLINK, target=b"x")
    target.make_special(place, entry(b"fifo", FileType.FIFO))
    target.make_directory(place, b"directory")
    fifo = place, b"fifo", target.exists(place, b"fifo").identity
    for attempt in (
        lambda: target.make_symlink(place, too_long),
        lambda: target.make_special(place, entry(b"f" * 300, FileType.FIFO)),
        lambda: target.create_file(place, b"x", 2**63 - 1),
        lambda: target.make_hard_link(place, b"directory", *fifo, replace=True),
    ):
        with pytest.raises(OSError):
            attempt()
        assert [name for name in os.listdir(root) if name.startswith(TEMPORARY)] == []
    target.close()


@needs_root
def test_a_full_disk_is_named_and_keeps_no_temporary_name(root, place, tmp_path):
    with small_disk(tmp_path / "small", size="64k") as disk:
        small = Place(os.fsencode(disk))
        target = TreeTarget(small.root)
        temporary = target.create_file(small, b"x", 2**20)
        with pytest.raises(NoSpace, match=r"small/\.transfer-"):
            target.write(small, temporary, 0, os.urandom(2**20))
        target.discard(small, temporary)
        assert os.listdir(disk) == []
        target.close()


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_what_was_made_is_swapped_before_it_gets_its_metadata(root, place, plant, monkeypatch):
    victim = os.path.join(root, b"victim")
    os.mkfifo(victim, 0o600)
    before = os.lstat(victim)

    def attacked(fd, name):
        os.unlink(name, dir_fd=fd)
        plant(victim, os.path.join(root, name))
        return open_anchor(fd, name)

    target = TreeTarget(root)
    monkeypatch.setattr(tree, "open_anchor", attacked)
    for attempt in (
        lambda: target.make_special(place, entry(b"x", FileType.FIFO)),
        lambda: target.make_symlink(place, entry(b"x", FileType.SYMLINK, target=b"y")),
    ):
        # A symlink in the place of a symlink is one that anybody could have made.
        with suppress(TargetRefused):
            assert attempt() in ([], ["owner"]) and plant is os.symlink
    assert [name for name in os.listdir(root) if name.startswith(TEMPORARY)] == []
    after = os.lstat(victim)
    assert (after.st_mode, after.st_uid, after.st_mtime_ns, after.st_nlink) == (
        before.st_mode, before.st_uid, before.st_mtime_ns, 1,
    )  # fmt: skip
    target.close()


def test_a_new_directory_is_swapped_before_it_is_entered(root, place, monkeypatch):
    def attacked(self, place, name):
        made = make_directory(self, place, name)
        os.rename(os.path.join(root, name), os.path.join(root, b"aside"))
        os.makedirs(os.path.join(root, name, b"somebodys"))
        return made

    make_directory = TreeTarget.make_directory
    monkeypatch.setattr(TreeTarget, "make_directory", attacked)
    target = TreeTarget(root)
    with pytest.raises(TargetRefused):
        target.enter_directory(place, b"d")
    target.close()


def test_asking_and_removing_in_a_directory_that_is_another_now(root, place):
    target = TreeTarget(root)
    below = target.enter_directory(place, b"d")
    target.close()
    for swap in (os.mkdir, lambda path: os.symlink(b"/", path), lambda path: None):
        os.rename(os.path.join(root, b"d"), os.path.join(root, b"aside"))
        swap(os.path.join(root, b"d"))
        target = TreeTarget(root)
        assert target.exists(below, b"x") is None
        target.discard(below, b"x")
        with pytest.raises(OSError):
            target.create_file(below, b"x", 1)
        target.close()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.rmdir(os.path.join(root, b"d"))
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(root, b"d"))
        os.rename(os.path.join(root, b"aside"), os.path.join(root, b"d"))
