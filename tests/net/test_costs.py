"""What calls cost a vault behind a server: the same as one that is near."""

import pytest

from tests.net.far import ByDomain
from tests.suites.costs import *


@pytest.fixture
async def vault(far):
    return ByDomain(far)


@pytest.fixture
def path(far):
    return far.path
