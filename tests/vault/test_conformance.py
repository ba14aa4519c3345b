"""The suite of laws against the vaults that are near."""

import pytest

from tests.suites.vault import *
from tests.suites.vault import DOMAIN
from transfer.vault.memory import MemoryVault
from transfer.vault.open import open_vault


@pytest.fixture(params=["memory", "stored"])
async def vault(request, tmp_path, clock):
    if request.param == "memory":
        opened = MemoryVault(clock)
    else:
        opened = await open_vault(tmp_path / "vault", create=True, clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
def delete_point(vault):
    async def delete(point_id):
        if isinstance(vault, MemoryVault):
            await vault.delete_point(point_id)
        else:
            await vault.delete_point(DOMAIN, point_id)

    return delete
