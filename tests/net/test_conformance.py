"""The suite of laws against a vault that is far: over TLS, as machines of two domains."""

import pytest

from tests.net.far import ByDomain
from tests.suites.vault import *
from tests.suites.vault import DOMAIN


@pytest.fixture
async def vault(far):
    return ByDomain(far)


@pytest.fixture
def delete_point(far):
    async def delete(point_id):
        await far.vault.delete_point(DOMAIN, point_id)

    return delete
