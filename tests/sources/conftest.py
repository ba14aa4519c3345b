import os

import pytest
from hypothesis import settings

from tests.acceptance import shell
from tests.sources.live import Daemon
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


@pytest.fixture
def started(tmp_path):
    """Starts daemons, and kills them at the end."""
    before = shell.started()
    yield lambda *sizes, **options: Daemon(tmp_path, sizes, **options).start()
    shell.end_all(before)


@pytest.fixture
def daemon(started):
    return started(16 << 20, 8 << 20)


@pytest.fixture
def small(started):
    return started(4 << 20)
