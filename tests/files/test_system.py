"""System calls that Python does not offer."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
from transfer.files.system import keep_freed_memory
{}
def use():
    [bytes([n]) * 3 * 2**20 for n in range(8)]
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call)], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif("linux" not in sys.platform, reason="mallopt is glibc's")
def test_memory_that_was_freed_is_used_again_without_asking_the_system():
    assert faults("keep_freed_memory(64 * 2**20)") < 1_000 < 20_000 < faults("")
