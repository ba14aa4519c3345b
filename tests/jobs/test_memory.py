"""A process that ends while it is looked at ends nothing else."""

import os
import subprocess
import sys

from transfer.jobs.memory import Peak, with_children

CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"


def test_descendants_are_found_and_those_without_are_not():
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        while len(with_children(process.pid)) < 2:
            pass
        assert set(with_children(process.pid)) < set(with_children(os.getpid()))
        assert process.pid not in with_children(os.getpid(), without=process.pid)
        process.communicate(b"\n")


def test_what_has_ended_has_no_children_and_no_memory():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert with_children(process.pid) == [process.pid]
    with Peak(lambda: with_children(process.pid), interval=0.01) as peak:
        pass
    assert peak.bytes == 0
