"""Growth of known costs, and that a try of each series runs."""

import pytest

from perf import fit
from perf.scale import Cost, chosen, grown, table
from perf.scale_series import GIB, MIB, REAL, Files, Images, Points
from tests.perf.harness import perf


@pytest.mark.slow
@pytest.mark.parametrize("series", ["files", "images", "points"])
def test_a_try_has_costs_of_each_step_at_two_sizes_and_how_they_grow(tmp_path, series):
    out, kept = perf(tmp_path, "scale", "--only", series)
    assert len({each["size"] for each in kept["costs"]}) == 2 and len(kept["costs"]) == 6
    for each in kept["costs"]:
        assert min(each[what] for what in ("seconds", "cpu", "pss", "metadata")) > 0
    assert len(kept["growth"]) == 3
    for name, text in kept["growth"].items():
        assert name.startswith(f"{series}, ") and f"{name}: {text}" in out


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(power):
    sizes = [10, 100, 1000, 50_000]
    assert fit.growth(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)


def test_a_scattered_cost_has_the_exponent_of_least_squares():
    # Logarithms to base 10: sizes 0 1 2, costs 0 1 1, whose slope is 1/2.
    assert fit.growth([1, 10, 100], [1, 10, 10]) == pytest.approx(0.5)


def test_costs_of_nothing_and_single_sizes_have_no_exponent():
    assert fit.growth([1, 10, 100], [0, 0, 5]) is None
    assert fit.growth([10, 10], [1, 2]) is None
    assert fit.said("memory", [10], [1]) == "memory: too few sizes"


def test_growth_is_said_over_all_sizes_and_at_the_end():
    # What every run costs hides the growth of the first ones.
    text = fit.said("time", [1, 10, 100, 1000], [1, 1, 10, 100])
    assert text == "time ~ n^0.70, at the end n^1.00"


def cost(size, step, seconds, metadata=MIB):
    return Cost("files", "files", size, step, seconds, 2 * seconds, 64 * MIB, metadata)


def test_a_table_has_a_row_for_each_size_and_step_and_then_the_growth_of_each_step():
    costs = [cost(1000, "backup", 1.0), cost(1000, "restore", 0.5, 0),
             cost(10_000, "backup", 10.0, 5 * MIB), cost(10_000, "restore", 0.5)]  # fmt: skip
    assert list(table(costs)) == [
        "files             step       s   CPU s   Pss, MiB   metadata, MiB",
        "1,000 files     backup    1.00    2.00         64            1.00",
        "1,000 files    restore    0.50    1.00         64            0.00",
        "10,000 files    backup   10.00   20.00         64            5.00",
        "10,000 files   restore    0.50    1.00         64            1.00",
        *(f"{name}: {text}" for name, text in grown(costs)),
    ]
    growth = dict(grown(costs))
    assert growth["files, backup"].startswith("time ~ n^1.00, at the end n^1.00; CPU ~ n^1.00")
    assert "metadata ~ n^0.70" in growth["files, backup"]
    assert growth["files, restore"].startswith("time ~ n^0.00")


def test_sizes_above_the_most_are_left_out_but_for_two(tmp_path):
    series = Files(tmp_path)
    assert chosen(series, None, False) == [10**3, 10**4, 10**5, 10**6]
    assert chosen(series, 10**5, False) == [10**3, 10**4, 10**5]
    assert chosen(series, 1, False) == [10**3, 10**4]


def test_a_tree_grows_and_keeps_what_it_has(tmp_path):
    series = Files(tmp_path)
    first = {path: path.stat().st_mtime_ns for path in series.grow(20).rglob("file*")}
    every = [path for path in series.grow(250).rglob("file*") if path.is_file()]
    assert len(first) == 20 and len(every) == 250
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    assert len({path.parent for path in every}) == 3
    assert sum(path.stat().st_size == 4000 for path in every) == 25


def test_an_image_has_as_many_real_bytes_whatever_its_size(tmp_path):
    series = Images(tmp_path)
    for size in (1, 3):
        status = series.grow(size).stat()
        assert status.st_size == size * GIB
        assert REAL <= status.st_blocks * 512 < REAL + MIB  # the file system's map of it


def test_an_items_points_differ_in_one_file(tmp_path):
    series = Points(tmp_path)
    source = series.grow(3)
    series.change(3)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    series.change(13)
    after = {path.name: path.read_bytes() for path in source.iterdir()}
    assert [name for name in after if before[name] != after[name]] == ["file-3"]
