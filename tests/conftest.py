import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from transfer.crypto import wrap
from transfer.formats import keyring


@pytest.fixture(scope="module")
def quick_keyrings():
    """A passphrase costs as little as readers accept; at the full cost, which this gives, each
    takes 0.2 s.
    """
    costs = {name: getattr(wrap, name) for name in ("MEMORY", "PASSES")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wrap, "MEMORY", keyring.MIN_MEMORY)
        patch.setattr(wrap, "PASSES", 1)
        yield costs


@pytest.fixture(scope="session", autouse=True)
def compiled_once():
    """Hundreds of tests start programs. Where the environment forbids bytecode beside the sources,
    each of these would compile them all, in more time than most of them have work for.
    """
    if not sys.dont_write_bytecode:
        yield
        return
    with (
        tempfile.TemporaryDirectory(prefix="transfer-compiled-") as place,
        pytest.MonkeyPatch.context() as patch,
    ):
        os.chmod(place, 0o755)  # programs of other users find it too
        patch.delenv("PYTHONDONTWRITEBYTECODE")
        patch.setenv("PYTHONPYCACHEPREFIX", place)
        yield


@pytest.fixture(autouse=True)
def unfrozen():
    """Commands freeze what was imported before them. Run in this process, they freeze what other
    tests have left as well, and with it whatever that holds.
    """
    yield
    gc.unfreeze()


@pytest.fixture
def memory(tmp_path_factory):
    """A directory in memory, where that has room, for vaults that sync thousands of times: a disk
    takes milliseconds for each, and nothing here can tell what it does for them. Not for sources:
    what a file system lacks that has no UUID is a reason to read more.
    """
    place = Path("/dev/shm")
    if not place.is_dir() or shutil.disk_usage(place).free < 2**30:
        yield tmp_path_factory.mktemp("memory")
        return
    with tempfile.TemporaryDirectory(prefix="transfer-test-", dir=place) as top:
        yield Path(top)
