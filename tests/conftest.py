import os
import sys
import tempfile

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
