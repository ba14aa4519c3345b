import pytest

from tests.net.far import far_vault
from tests.vault.conftest import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def far(memory, clock):
    async with far_vault(memory / "vault", clock) as running:
        yield running
