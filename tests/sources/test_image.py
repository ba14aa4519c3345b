"""An image is a regular file or a block device, and nothing else."""

import os

import pytest

from transfer.errors import NotFound, UsageError
from transfer.formats.entry import FileType
from transfer.sources.image import describe_image, settled_image


def test_a_file_and_a_symlink_to_it(root):
    path = os.path.join(root, b"image")
    with open(path, "wb") as file:
        file.truncate(12345)
    os.symlink(b"image", path + b".link")
    assert settled_image(path)[1:] == settled_image(path + b".link")[1:]
    assert settled_image(path)[1] == 12345
    before = describe_image(path)
    assert before.type is FileType.FILE
    assert describe_image(path) == before
    with open(path, "ab") as file:
        file.write(b"x")
    assert describe_image(path) != before


def test_what_is_no_image(root):
    os.mkfifo(os.path.join(root, b"fifo"))
    for name in (b"fifo", b"."):
        with pytest.raises(UsageError, match="neither"):
            settled_image(os.path.join(root, name))
    with pytest.raises(NotFound):
        settled_image(os.path.join(root, b"missing"))
