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
