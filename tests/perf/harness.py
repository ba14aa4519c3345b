"""`python -m perf` as a process of its own, as it is run by hand."""

import json
import os
import subprocess
import sys

from tests.acceptance.shell import ROOT


def perf(place, *words, path=os.environ["PATH"], expect=0):
    """What a try printed, and the JSON that it kept; all that it makes is below *place*."""
    kept = place / "figures.json"
    work = place / "work"
    work.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "perf", *map(str, words), "--quick", "--json", str(kept)]
    environment = {**os.environ, "TMPDIR": str(work), "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stderr
    assert list(work.iterdir()) == []
    return done.stdout + done.stderr, json.loads(kept.read_text()) if kept.exists() else {}
