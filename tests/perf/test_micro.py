"""The tight loops run; a loop's rate is its operations by its time, and it is warmed up first."""

import time

import pytest

from perf import micro
from perf.micro import measured, once
from perf.micro_catalog import Table
from perf.micro_limiter import _granting, _queueing
from perf.micro_loop import Loop, often
from tests.perf.harness import perf
from transfer.throttle.dispatch import Dispatch
from transfer.vault.catalog import Catalog


@pytest.mark.slow
def test_a_try_has_seven_rates_of_each_loop(tmp_path):
    out, kept = perf(tmp_path, "micro")
    names = [each["name"] for each in kept["rates"]]
    assert len(set(names)) == len(names) == 24
    assert all(name in out for name in names)
    assert all(len(each["rates"]) == 7 and min(each["rates"]) > 0 for each in kept["rates"])


def test_a_rate_is_what_was_done_by_the_time_that_it_took():
    def work():
        time.sleep(0.02)
        return 100

    assert 1000 < once(Loop("sleep", "naps", work)) <= 5000


def test_a_loop_is_warmed_up_before_it_is_timed(tmp_path, monkeypatch):
    times = []
    loop = often("nothing", "calls", 1, lambda: times.append(1))
    monkeypatch.setitem(micro.PARTS, "nothing", lambda top, quick: iter([loop]))
    (rate,) = measured(["nothing"], tmp_path, True)
    assert (len(times), len(rate.rates)) == (8, 7)


@pytest.fixture
def waits(monkeypatch):
    """The grants that had to wait."""
    found = []
    granted = Dispatch.granted

    async def noted(self, flow, amount, came):
        found.append(amount)
        return await granted(self, flow, amount, came)

    monkeypatch.setattr(Dispatch, "granted", noted)
    return found


@pytest.mark.parametrize("flows", [1, 16])
def test_where_the_limit_is_reached_flows_wait_for_it_in_no_time(waits, flows):
    assert _queueing(flows, 160)() == 160
    assert len(waits) > 16


def test_where_the_limit_is_not_reached_nobody_waits(waits):
    assert _granting(None, 4, 100)() == 100
    assert waits == []


def test_look_ups_find_what_is_there_and_nothing_else(tmp_path):
    catalog = Catalog(tmp_path / "catalog", create=True)
    table = Table(catalog)
    assert table.inserting(4, 10)() == 12
    with catalog.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM frames").scalar() == 12
    assert (table.look_up(True), table.look_up(False)) == ((12, 12), (12, 0))
    assert table.finding(True, 2)() == 24
    catalog.close()
