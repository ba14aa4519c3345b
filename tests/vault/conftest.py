import pytest


class Clock:
    """Nanoseconds that pass only when told to."""

    def __init__(self):
        self.now = 1_700_000_000 * 10**9

    def __call__(self):
        return self.now

    def days(self, count):
        self.now += count * 24 * 3600 * 10**9


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vault"
