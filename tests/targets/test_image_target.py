"""An image target is never overwritten by accident, and never too small."""

import os
import tempfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.machine import loop_device
from transfer.errors import NoSpace, NotFound, TargetRefused, TargetUnusable
from transfer.files.direct import DirectWriter
from transfer.targets.block_file import BlockFile
from transfer.targets.image import image_target, zero
from transfer.targets.names import TEMPORARY

MIB = 2**20


@pytest.fixture
def path(root):
    return os.path.join(root, b"image")


@pytest.fixture
def device(path):
    with loop_device(path, 4 * MIB) as device:
        with open(device, "wb") as file:
            file.write(b"x" * 4 * MIB)
        yield os.fsencode(device)


def write_block(fd, offset, block):
    file = BlockFile(os.dup(fd))
    file.write(offset, block)
    file.flush()
    file.close()


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_a_new_file_is_the_callers_alone_and_sparse(path):
    with image_target(path, 3 * MIB, replace=False) as target:
        write_block(target.fd, MIB, b"x" * MIB)
        zero(target.fd, 0, MIB)
        assert not os.path.lexists(path)
        target.finish()
    found = os.lstat(path)
    assert found.st_mode & 0o7777 == 0o600
    assert found.st_blocks * 512 < 2 * MIB
    assert content(path) == bytes(MIB) + b"x" * MIB + bytes(MIB)


def test_a_file_that_is_there_needs_replace_and_keeps_equal_bytes(path):
    with open(path, "wb") as file:
        file.write(b"y" * 2 * MIB)
    with pytest.raises(TargetRefused), image_target(path, MIB, replace=False):
        pass
    assert content(path) == b"y" * 2 * MIB
    with image_target(path, 3 * MIB, replace=True) as target:
        zero(target.fd, 10, 100_000)
        zero(target.fd, 10, 0)
    assert content(path) == b"y" * 10 + bytes(100_000) + b"y" * (2 * MIB - 100_010) + bytes(MIB)


def test_an_empty_file_is_no_loss(path):
    with open(path, "wb"):
        pass
    with image_target(path, MIB, replace=False) as target:
        target.finish()
    assert os.lstat(path).st_size == MIB


def test_a_directory_that_is_missing_is_named(path):
    target = image_target(path + b"/no-such-directory/image", MIB, replace=False)
    with pytest.raises(NotFound, match="no-such-directory"), target:
        raise AssertionError("there is nothing to write to")


def test_what_is_not_finished_goes_and_what_came_meanwhile_stays(path, root):
    with pytest.raises(KeyError), image_target(path, MIB, replace=False):
        raise KeyError
    assert os.listdir(root) == []
    with image_target(path, MIB, replace=False) as target:
        assert [name.startswith(TEMPORARY) for name in os.listdir(root)] == [True]
        with open(path, "wb") as file:
            file.write(b"mine")
        with pytest.raises(TargetRefused):
            target.finish()
    assert content(path) == b"mine"
    assert os.listdir(root) == [os.path.basename(path)]


def test_what_cannot_be_a_target(path, root):
    os.mkfifo(path)
    for refused in (path, root):
        with pytest.raises(TargetRefused), image_target(refused, 1, replace=True):
            pass


@pytest.mark.parametrize("plant", [os.symlink, os.link])
@pytest.mark.parametrize("raw", [b"", b"secret"])
def test_what_leads_to_somebodys_file_is_refused(path, root, plant, raw):
    victim = os.path.join(root, b"victim")
    with open(victim, "wb") as file:
        file.write(raw)
    plant(victim, path)
    before = os.lstat(victim)
    for replace in (False, True):
        with pytest.raises(TargetRefused), image_target(path, MIB, replace):
            pass
    assert (os.lstat(victim), content(victim)) == (before, raw)


def test_a_symlink_to_nothing_makes_nothing(path, root):
    os.symlink(os.path.join(root, b"victim"), path)
    with pytest.raises(TargetRefused), image_target(path, MIB, replace=True):
        pass
    assert os.listdir(root) == [os.path.basename(path)]


def test_a_symlink_to_a_device_is_refused(path, device):
    link = path + b"-link"
    os.symlink(device, link)
    with pytest.raises(TargetRefused), image_target(link, MIB, replace=True):
        pass


def test_a_full_disk_is_named():
    with pytest.raises(NoSpace, match="/dev/full"):
        write_block(os.open("/dev/full", os.O_WRONLY), 0, b"x")


def test_a_device_needs_replace_and_room(device):
    with pytest.raises(TargetRefused), image_target(device, MIB, replace=False):
        pass
    with pytest.raises(TargetUnusable), image_target(device, 5 * MIB, replace=True):
        pass


def test_a_device_in_use_is_refused(device):
    with (
        image_target(device, MIB, replace=True),
        pytest.raises(TargetUnusable),
        image_target(device, MIB, replace=True),
    ):
        pass


def test_a_device_is_written_and_zeroed_at_any_offset(device):
    with image_target(device, 4 * MIB, replace=True) as target:
        write_block(target.fd, 0, b"y" * MIB)
        zero(target.fd, 1000, 2 * MIB)
        zero(target.fd, 10, 20)
        target.finish()
    wanted = bytearray(b"y" * MIB + b"x" * 3 * MIB)
    wanted[1000 : 1000 + 2 * MIB] = bytes(2 * MIB)
    wanted[10:30] = bytes(20)
    assert content(device) == wanted


def test_the_systems_own_name_of_a_device_is_followed_and_no_other(device, root):
    planted = os.path.join(root, b"planted")
    os.symlink(device, planted)
    with pytest.raises(TargetRefused), image_target(planted, MIB, replace=True):
        pass
    own = b"/dev/transfer-test-%d" % os.getpid()
    os.symlink(device, own)
    try:
        with image_target(own, MIB, replace=True) as target:
            assert os.fstat(target.fd).st_rdev == os.stat(device).st_rdev
    finally:
        os.unlink(own)
    os.symlink(os.path.join(root, b"image"), own)
    try:
        with pytest.raises(TargetRefused), image_target(own, MIB, replace=True):
            pass
    finally:
        os.unlink(own)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 20_000), st.booleans()), max_size=8))
def test_blocks_stand_where_they_were_written_whatever_their_offset_and_length(blocks):
    with tempfile.TemporaryFile(buffering=0) as opened:
        file, expected = BlockFile(os.dup(opened.fileno())), bytearray(2 * MIB)
        os.ftruncate(opened.fileno(), len(expected))
        for number, (place, length, aligned) in enumerate(blocks):
            offset = place * (4096 if aligned else 1001)
            block = bytes([number + 1]) * length
            file.write(offset, block)
            expected[offset : offset + length] = block
        file.flush()
        file.close()
        assert os.pread(opened.fileno(), 2 * MIB, 0) == expected


def test_a_block_that_cannot_be_written_is_told_of_before_the_one_after_it_or_at_the_end():
    file = BlockFile(os.open("/dev/full", os.O_RDWR))
    file.write(0, b"x" * MIB)
    with pytest.raises(NoSpace):
        file.write(MIB, b"y")
    file.flush()  # that one was not taken
    file.write(0, b"z")
    with pytest.raises(NoSpace):
        file.flush()
    file.flush()
    file.close()


def test_blocks_that_follow_each_other_fast_are_each_written_as_they_were(path, monkeypatch):
    """The disk is slow, and memory is used again while it writes."""
    write = DirectWriter.write

    def slowly(self, sectors, offset):
        time.sleep(0.02)
        write(self, sectors, offset)

    monkeypatch.setattr(DirectWriter, "write", slowly)
    block = bytearray(MIB)
    with image_target(path, 4 * MIB, replace=False) as target:
        file = BlockFile(os.dup(target.fd))
        for number in range(4):
            block[:] = bytes([number]) * MIB
            file.write(number * MIB, block)
        file.flush()
        assert content(b"/proc/self/fd/%d" % target.fd) == b"".join(
            bytes([number]) * MIB for number in range(4)
        )
        file.close()
        target.finish()
