"""The benchmark runs, and says all that it promises; its figures prove nothing here."""

import json
import os
import subprocess
import sys

import pytest

from perf.bench import STEPS, WORKS
from tests.acceptance.needs import tool
from tests.acceptance.shell import ROOT


def bench(tmp_path, *words, path=os.environ["PATH"]):
    command = [sys.executable, "-m", "perf.bench", "--quick", *words]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PATH": path}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_it_measures_both_programs_and_leaves_nothing(tmp_path):
    tool("restic", "restic")
    (tmp_path / "work").mkdir()
    out = bench(tmp_path / "work", "--runs", "1", "--json", tmp_path / "figures")
    for word in ("restic 0", "transfer 0", "cores", *STEPS, "stored, MiB", "memory of restore"):
        assert word in out
    took = json.loads((tmp_path / "figures").read_text())["took"]
    assert len(took) == len(WORKS) * 2 * len(STEPS)
    assert all(seconds > 0 and pss > 2**20 for _, _, _, seconds, pss, *_ in took)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_a_quick_run_of_one_work_beside_restic(tmp_path):
    tool("restic", "restic")
    out = bench(tmp_path, "--only", "tree", "--runs", "1")
    assert "restic 0" in out and "first backup, s" in out


def test_without_restic_it_says_so_and_measures_transfer(tmp_path):
    out = bench(tmp_path, "--only", "incompressible", "--runs", "1", path="/bin-of-nobody")
    assert "restic is not installed" in out
    assert "first backup, s" in out


@pytest.mark.slow
def test_stores_behind_https_are_measured_on_both_sides(tmp_path):
    for name in ("restic", "rclone", "openssl"):
        tool(name, name)
    out = bench(tmp_path, "--far", "--only", "incompressible", "--runs", "1")
    assert "restic 0" in out
    (memory,) = [line for line in out.splitlines() if line.startswith("memory of the server")]
    assert all(float(word) > 10 for word in memory.split()[5::2])
