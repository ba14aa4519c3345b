"""What a run waits for decides how hard it compresses and how many connections it has."""

import os
from pathlib import Path

import pytest

from tests.jobs.test_bottleneck import MIB, backed_up, setup_of
from transfer.jobs import tuning
from transfer.jobs.limits import RunLimits, limited
from transfer.policy import compression


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    """24 MiB of Python: what a higher level makes an eighth smaller."""
    path = tmp_path_factory.mktemp("prose") / "text"
    with path.open("wb") as file:
        for each in sorted(Path(os.__file__).parent.rglob("*.py")):
            file.write(each.read_bytes())
            if file.tell() > 24 * MIB:
                return path
    pytest.skip("this Python has no library to speak of")


@pytest.fixture
def quick_looks(monkeypatch):
    monkeypatch.setattr(tuning, "_LOOK", 0.05)
    monkeypatch.setattr("transfer.pipeline.send.UNDER_WAY", MIB)
    monkeypatch.setattr("transfer.pipeline.tasks.BATCH", MIB)


@pytest.fixture
def compared(tmp_path, clock, quick_keyrings, quick_looks, monkeypatch, prose):
    async def compared(limits, **options):
        """A backup as it is, and one at the usual level throughout, into another vault."""
        results = []
        for name, levels in (("one", compression.LEVELS), ("other", (3,))):
            monkeypatch.setattr(compression, "LEVELS", levels)
            (tmp_path / name).mkdir()
            async with (
                setup_of(tmp_path / name, clock) as setup,
                setup.open() as agent,
                limited(agent, limits) as run,
            ):
                results.append(await backed_up(run, prose, **options))
        return results

    return compared


async def test_on_a_slow_line_fewer_bytes_are_sent_and_it_is_faster(compared):
    auto, usual = await compared(RunLimits(up=4 * MIB))
    assert auto.bytes_sent < 0.95 * usual.bytes_sent
    assert auto.seconds < 0.97 * usual.seconds


async def test_on_a_quick_line_it_stays_at_the_usual_level(compared):
    auto, usual = await compared(RunLimits())
    assert auto.bytes_sent == usual.bytes_sent


async def test_a_level_that_was_chosen_stays(compared):
    for result in await compared(RunLimits(up=48 * MIB), compression="off"):
        assert result.bytes_sent > 24 * MIB
