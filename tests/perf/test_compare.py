"""The comparison runs, and says all that it promises; its figures prove nothing here."""

import subprocess

import pytest

from perf.available import available, variant
from perf.compare import STEPS, Comparison
from perf.tools import Tool
from perf.works import DEFAULT, Work
from tests.acceptance.needs import tool
from tests.perf.harness import perf

ALONE = "/bin-of-nobody"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_measures_all_works_beside_restic_on_both_sides_and_leaves_nothing(tmp_path):
    for name, package in (("restic", "restic"), ("rclone", "rclone"), ("mke2fs", "e2fsprogs")):
        tool(name, package)
    out, kept = perf(tmp_path, "compare", "--runs", 1, "--peer", "restic")
    for word in ("restic 0", "transfer 0", "cores", *STEPS, "memory of restore", kept["commit"]):
        assert word in out
    took = kept["took"]
    assert {(each["work"], each["tool"], each["step"]) for each in took} == {
        (work, name, step) for work in DEFAULT for name in ("transfer", "restic") for step in STEPS
    }
    assert all(each["seconds"] > 0 and each["pss"] > 2**20 for each in took)
    assert all(each["server_pss"] > 2**20 for each in took)


@pytest.mark.slow
def test_near_and_alone_it_says_who_is_missing_and_measures_transfer(tmp_path):
    out, kept = perf(
        tmp_path, "compare", "--near", "--only", "incompressible", "--runs", 1,
        "--step", "unchanged", "--variant", "raw=--compression off", path=ALONE,
    )  # fmt: skip
    assert "restic is not installed" in out and "kopia is not installed" in out
    assert kept["versions"]["raw"].endswith("--compression off")
    assert [(each["tool"], each["step"]) for each in kept["took"]] == [
        (name, step) for name in ("transfer", "raw") for step in STEPS[:2]
    ]
    assert all(each["server_cpu"] is None for each in kept["took"])


@pytest.mark.slow
def test_every_peer_that_is_here_restores_what_it_backed_up(tmp_path):
    tool("rclone", "rclone")
    _, kept = perf(tmp_path, "compare", "--near", "--runs", 1, "--only", "tree")
    assert "rclone" in kept["heads"]
    assert not [note for note in kept["notes"]["tree"] if "failed" in note]
    restored = [each["tool"] for each in kept["took"] if each["step"] == STEPS[3]]
    assert restored == list(kept["heads"])


@pytest.mark.parametrize(
    ("text", "said"),
    [("fast", "not NAME=ARGS"), ("=--full", "not NAME=ARGS"), ("../up=--full", "not NAME=ARGS"),
     ("restic=--full", "a program of its own"), ("transfer=", "a program of its own")],
)  # fmt: skip
def test_a_variants_name_is_one_of_a_column_and_a_directory_of_its_own(text, said):
    with pytest.raises(ValueError, match=said):
        variant(text)
    assert variant("zstd-2=--compression fast") == ("zstd-2", "--compression fast")


def test_a_variants_words_go_to_each_backup_and_to_nothing_else(tmp_path):
    ours, fast = available(tmp_path, True, {"fast": "--compression fast"}, [])
    source = tmp_path / "source"
    for everything in (False, True):
        assert "--compression fast" in " ".join(fast.backup(source, everything=everything))
    assert "--compression" not in ours.backup(source)
    assert "--compression" not in fast.restore(source, tmp_path)
    assert ours.store != fast.store


class Copier(Tool):
    """A peer that copies one file, and fails at what it *breaks*."""

    def __init__(self, top, name, breaks=""):
        self.name, self._breaks = name, breaks
        super().__init__(top / name)

    def version(self):
        return "1"

    def backup(self, source, *, everything=False):
        if everything:
            return None
        if self._breaks == "backup":
            return ["sh", "-c", "echo it is broken >&2; exit 1"]
        return ["cp", str(source), str(self.store / "copy")]

    def reset(self):
        super().reset()
        self.store.mkdir()

    def restore(self, source, target):
        command = "tr c d" if self._breaks == "content" else "cat"
        there = self.restored(source, target)
        return ["sh", "-c", f"{command} < {self.store}/copy > {there}"]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"content" * 1000)
    return path


WORK = Work("file", lambda path, size: path, 1, 1, "files", "a file")


def compared(source, *tools, runs=1):
    comparison = Comparison(list(tools), list(STEPS), runs)
    comparison.run(WORK, source)
    return comparison


def test_the_order_rotates_and_a_step_that_a_program_lacks_is_left_out(tmp_path, source):
    tools = [Copier(tmp_path, name) for name in ("a", "b", "c")]
    figures = compared(source, *tools, runs=3).figures
    firsts = [figure.tool for figure in figures if figure.step == STEPS[0]]
    assert firsts == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {figure.step for figure in figures} == {STEPS[0], STEPS[1], STEPS[3]}


def test_what_the_store_grew_by_stands_for_what_was_sent(tmp_path, source):
    (first, second, restore) = compared(source, Copier(tmp_path, "a")).figures
    assert (first.stored, first.sent, second.sent, restore.sent) == (7000, 7000, 0, None)


@pytest.mark.parametrize(("breaks", "why"), [("backup", "it is broken"), ("content", "differ")])
def test_a_peer_that_fails_or_restores_something_else_is_noted_and_left_out(
    tmp_path, source, breaks, why
):
    ours, broken = Copier(tmp_path, "ours"), Copier(tmp_path, "broken", breaks)
    comparison = compared(source, ours, broken, runs=2)
    (note,) = comparison.notes["file"]
    assert note.startswith("broken failed") and why in note
    runs = {(each.tool, each.run) for each in comparison.figures if each.step == STEPS[1]}
    assert runs - {("broken", 0)} == {("ours", 0), ("ours", 1)}


def test_where_ours_fails_the_comparison_ends(tmp_path, source):
    with pytest.raises(subprocess.CalledProcessError):
        compared(source, Copier(tmp_path, "ours", "content"), Copier(tmp_path, "other"))


def test_trees_that_were_restored_are_removed_after_the_last_run(tmp_path, source):
    """Before that it would make the next restore slower."""
    seen = []

    class Watched(Copier):
        def reset(self):
            seen.append(sorted(path.name for path in tmp_path.glob("ours.*")))
            super().reset()

    compared(source, Watched(tmp_path, "ours"), runs=3)
    assert (seen, list(tmp_path.glob("ours*"))) == ([[], ["ours.0"], ["ours.0", "ours.1"]], [])
