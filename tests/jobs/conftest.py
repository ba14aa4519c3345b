import pytest

from tests.net.far import far_vault
from tests.vault.conftest import Clock
from transfer.crypto import wrap


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def far(tmp_path, clock, monkeypatch):
    """A running server; passphrases cost as little as readers accept."""
    monkeypatch.setattr(wrap, "MEMORY", 19 * 1024)
    monkeypatch.setattr(wrap, "PASSES", 1)
    async with far_vault(tmp_path / "vault", clock) as running:
        yield running
