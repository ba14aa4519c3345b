"""An image target is never overwritten by accident, and never too small."""

import os
import subprocess

import pytest

from transfer.errors import TargetRefused, TargetUnusable
from transfer.targets.image import finish, open_image_target, write_block, zero

MIB = 2**20


@pytest.fixture
def path(root):
    return os.path.join(root, b"image")


@pytest.fixture
def device(path):
    with open(path, "wb") as file:
        file.write(b"x" * 4 * MIB)
    try:
        made = subprocess.run(
            ["losetup", "--find", "--show", path], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no loop devices here")
    name = made.stdout.strip()
    yield name
    subprocess.run(["losetup", "--detach", name], check=True)


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_a_new_file_is_the_callers_alone_and_sparse(path):
    fd = open_image_target(path, 3 * MIB, replace=False)
    write_block(fd, MIB, b"x" * MIB)
    zero(fd, 0, MIB)
    finish(fd)
    os.close(fd)
    found = os.lstat(path)
    assert found.st_mode & 0o7777 == 0o600
    assert found.st_blocks * 512 < 2 * MIB
    assert content(path) == bytes(MIB) + b"x" * MIB + bytes(MIB)


def test_a_file_that_is_there_needs_replace_and_keeps_equal_bytes(path):
    with open(path, "wb") as file:
        file.write(b"y" * 2 * MIB)
    with pytest.raises(TargetRefused):
        open_image_target(path, MIB, replace=False)
    assert content(path) == b"y" * 2 * MIB
    fd = open_image_target(path, 3 * MIB, replace=True)
    zero(fd, 10, 100_000)
    zero(fd, 10, 0)
    os.close(fd)
    assert content(path) == b"y" * 10 + bytes(100_000) + b"y" * (2 * MIB - 100_010) + bytes(MIB)


def test_an_empty_file_is_no_loss(path):
    with open(path, "wb"):
        pass
    os.close(open_image_target(path, MIB, replace=False))
    assert os.lstat(path).st_size == MIB


def test_what_cannot_be_a_target(path, root):
    os.mkfifo(path)
    for refused in (path, root):
        with pytest.raises(TargetRefused):
            open_image_target(refused, 1, replace=True)


def test_a_device_needs_replace_and_room(device):
    with pytest.raises(TargetRefused):
        open_image_target(device, MIB, replace=False)
    with pytest.raises(TargetUnusable):
        open_image_target(device, 5 * MIB, replace=True)


def test_a_device_in_use_is_refused(device):
    fd = open_image_target(device, MIB, replace=True)
    with pytest.raises(TargetUnusable):
        open_image_target(device, MIB, replace=True)
    os.close(fd)


def test_a_device_is_written_and_zeroed_at_any_offset(device):
    fd = open_image_target(device, 4 * MIB, replace=True)
    write_block(fd, 0, b"y" * MIB)
    zero(fd, 1000, 2 * MIB)
    zero(fd, 10, 20)
    finish(fd)
    os.close(fd)
    wanted = bytearray(b"y" * MIB + b"x" * 3 * MIB)
    wanted[1000 : 1000 + 2 * MIB] = bytes(2 * MIB)
    wanted[10:30] = bytes(20)
    assert content(device) == wanted
