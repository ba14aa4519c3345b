"""What figures are worth nothing without: the machine that they are of, and the commit."""

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Lacking(Exception):
    """The machine has not what is needed; says what to install."""


def machine(top: Path) -> str:
    """One line: processor, memory, kernel, the file system of *top*, Python."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, "
        f"Linux {platform.release()}, {file_system(top)}, Python {platform.python_version()}"
    )


def file_system(top: Path) -> str:
    """The type of the file system that holds *top*."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(len(place), kind) for place, kind in mounts if top.resolve().is_relative_to(place)]
    return max(holding)[1]


def commit(root: Path = ROOT) -> str:
    """What is measured: the commit, with "-dirty" where tracked files differ from it."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
