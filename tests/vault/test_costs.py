"""What calls cost a vault that is near."""

import pytest

from tests.suites.costs import *
from tests.vault.stored import opened


@pytest.fixture
async def vault(path, clock):
    async with opened(path, create=True, clock=clock) as vault:
        yield vault
