"""Lines with a rate, a delay and losses that real TCP sees: `auto` gets most of what they bring.

The lines are between network namespaces, so this needs root, `ip`, `unshare` and /dev/net/tun.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.needs import tool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[2]
PROBE = "import os; from perf.path import _device; _device('probe')"


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    for name, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        tool(name, package)
    probe = ["unshare", "-n", sys.executable, "-c", PROBE]
    if subprocess.run(probe, cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("this kernel gives us no network namespaces or TUN devices")


def measured(path, number, size, *more):
    """MB/s with so many connections, and with auto, from 20 s after the start on."""
    words = ["--path", path, "--connections", number, "--size", size, "--for", 10, *more]
    done = subprocess.run(
        [sys.executable, "-m", "perf.concurrency", *map(str, words)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    cells = done.stdout.splitlines()[-1].split()
    return float(cells[1]), float(cells[2])


@pytest.mark.parametrize("direction", [[], ["--restore"]], ids=["backup", "restore"])
def test_a_long_line_that_loses_one_packet_in_a_hundred_brings_most_of_what_it_has(direction):
    """Of its 12 MB/s reno brings a tenth over four connections, and a quarter over 64."""
    _, auto = measured("100ms-1%", 4, 500, *direction)
    assert auto > 6


def test_a_very_long_line_that_loses_one_in_a_thousand_does_as_well():
    _, auto = measured("300ms-0.1%", 4, 500)
    assert auto > 6


@pytest.mark.parametrize(("path", "size"), [("10Mbit", 80), ("100ms", 500)])
def test_a_line_that_few_connections_fill_is_as_full_with_auto(path, size):
    four, auto = measured(path, 4, size)
    assert auto >= 0.93 * four
