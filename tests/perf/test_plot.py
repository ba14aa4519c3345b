"""Pictures of kept figures; where matplotlib is missing, that is said."""

import json

import pytest

from perf.__main__ import main
from perf.plot import comparison, growth
from perf.scale import Cost
from perf.tables import Figure
from tests.acceptance.needs import lacking

HEAD = {"machine": "a machine", "commit": "abc"}
TOOK = [
    Figure(work, tool, step, run, 2.0 + run, 1.0, None, 1, None, None, 1, 2.0)._asdict()
    for work in ("image", "tree") for tool in ("transfer", "restic")
    for step in ("backup", "restore") for run in (0, 1) if (work, tool) != ("tree", "restic")
]  # fmt: skip
COSTS = [
    Cost(series, "files", size, step, size / 10, 1.0, 2**20, 2**21)._asdict()
    for series in ("files", "points") for size in (10, 100) for step in ("backup", "restore")
]  # fmt: skip
HEADS = {"transfer": "transfer", "restic": "restic (near)"}
DOCUMENTS = {
    "compare": {**HEAD, "command": "compare", "took": TOOK, "heads": HEADS},
    "scale": {**HEAD, "command": "scale", "costs": COSTS},
}


@pytest.fixture
def pyplot():
    try:
        import matplotlib
    except ImportError:
        lacking("matplotlib is missing (it is in the extra perf)")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def kept(tmp_path, command):
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(DOCUMENTS.get(command, {**HEAD, "command": command})))
    return str(path)


@pytest.mark.parametrize("command", DOCUMENTS)
def test_a_picture_is_made_of_what_was_kept(tmp_path, command, pyplot):
    out = tmp_path / "picture.png"
    assert main(["plot", kept(tmp_path, command), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_bar_is_as_high_as_the_median(pyplot):
    image, tree = comparison(DOCUMENTS["compare"]).axes
    heights = [bar.get_height() for bar in image.patches if bar.get_height()]
    assert heights == [2.5] * 4
    legends = [
        [text.get_text() for text in each.get_legend().get_texts()] for each in (image, tree)
    ]
    assert legends == [["transfer", "restic (near)"], ["transfer"]]


def test_a_line_has_a_steps_costs_by_size(pyplot):
    axes = growth(DOCUMENTS["scale"]).axes
    assert len(axes) == 8
    assert [line.get_label() for line in axes[0].lines] == ["backup", "restore"]
    assert [*axes[0].lines[0].get_ydata()] == [1, 10]
    assert [*axes[3].lines[0].get_ydata()] == [2, 2]
    assert axes[0].get_xscale() == axes[0].get_yscale() == "log"


def test_of_other_commands_nothing_is_drawn_and_that_is_said(tmp_path, capsys):
    assert main(["plot", kept(tmp_path, "micro"), "--out", str(tmp_path / "picture.png")]) == 1
    assert "is of micro: nothing is drawn of that" in capsys.readouterr().err
