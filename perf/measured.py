"""What one command takes, its server's part with it."""

import os
import subprocess
import tempfile
import time
from typing import NamedTuple

from perf.far_tools import Served, cpu_of
from perf.pss import Sampler
from perf.tools import Tool


class Measured(NamedTuple):
    """Times in seconds, memory in bytes; *said* are the numbers in the command's own JSON.

    *synced*: until all that was written is on the disk as well.
    """

    seconds: float
    synced: float
    cpu: float
    server_cpu: float | None
    pss: int
    server_pss: int | None
    said: dict[str, int]


def measure(command: list[str], tool: Tool) -> Measured:
    """Raises CalledProcessError with what the command said, if it fails."""
    server = tool.server.pid if isinstance(tool, Served) and tool.server else None
    before = cpu_of(server) if server else 0.0
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command, env=tool.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors
        )
        with Sampler(process.pid) as sampler, Sampler(server or 0) as serving:
            # What the command's own processes took is counted with it once it has waited for them.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
        os.sync()
        synced = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        out.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, stderr=errors.read())
        said = tool.said(out.read())
    cpu = usage.ru_utime + usage.ru_stime
    if server is None:
        return Measured(seconds, synced, cpu, None, sampler.peak, None, said)
    served = cpu_of(server) - before
    return Measured(seconds, synced, cpu, served, sampler.peak, serving.peak, said)
