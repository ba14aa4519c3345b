import pytest

from tests.net.far import far_vault
from tests.vault.conftest import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def far(tmp_path, clock, quick_keyrings):
    """A running server."""
    async with far_vault(tmp_path / "vault", clock) as running:
        yield running
