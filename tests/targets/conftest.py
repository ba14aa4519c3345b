import os

import pytest

from transfer.files.directories import OpenDirectories, Place


@pytest.fixture
def root(tmp_path):
    return os.fsencode(tmp_path)


@pytest.fixture
def place(root):
    return Place(root)


@pytest.fixture
def directories():
    opened = OpenDirectories()
    yield opened
    opened.close()
