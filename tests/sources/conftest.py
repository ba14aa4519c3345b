import os

import pytest
from hypothesis import settings

from transfer.files.directories import OpenDirectories, Place

settings.register_profile("sources", deadline=None, derandomize=True)
settings.load_profile("sources")


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
