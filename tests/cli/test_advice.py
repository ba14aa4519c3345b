"""What limited a run is told on stderr, beside its result."""

import pytest

from transfer.cli import advice, output
from transfer.policy.bottleneck import CAUSES


@pytest.mark.parametrize("cause", CAUSES)
def test_there_are_words_for_whatever_limited_a_run(cause):
    of_run = advice.on_restore if cause == "target" else advice.on_backup
    (line,) = of_run(cause)
    assert line.startswith("limited by ")
    if cause not in ("source", "target"):
        assert len(advice.on_restore(cause)) == 1


def test_of_a_run_that_nothing_limited_nothing_is_told():
    assert advice.on_backup(None) == advice.on_restore(None) == []


@pytest.mark.parametrize(
    ("as_json", "quiet", "told"), [(False, False, True), (True, False, True), (False, True, False)]
)
def test_a_note_is_on_stderr_unless_it_is_to_be_quiet(capsys, as_json, quiet, told):
    outcome = output.Outcome({"limited_by": "cpu"}, ["done"], notes=["limited by this"])
    assert output.show(outcome, as_json, quiet) == 0
    shown = capsys.readouterr()
    assert ("transfer: limited by this\n" in shown.err) == told
    assert "limited by this" not in shown.out
