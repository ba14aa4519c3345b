import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.acceptance import trees
from tests.acceptance.needs import lacking
from tests.acceptance.served import shell_at
from tests.acceptance.shell import end_all, started
from tests.cli.test_confined import confined  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    before = started()
    yield
    end_all(before)


@pytest.fixture
def shell(tmp_path, request):
    """Its vault is near, unless the test asks for one that is "far"."""
    return shell_at(tmp_path, getattr(request, "param", "near"))


@pytest.fixture
def work():
    """A directory for large things, gone at the end; everybody may look into it."""
    path = Path(tempfile.mkdtemp(prefix="transfer-acceptance-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def tricky_tree(top):
    try:
        return trees.tricky(top, as_root=os.geteuid() == 0)
    except OSError as error:
        lacking(f"the file system of TMPDIR cannot hold the hard cases: {error}")


@pytest.fixture
def tricky(tmp_path):
    return tricky_tree(tmp_path / "tricky")
