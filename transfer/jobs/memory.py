"""Memory of processes while they work: the sum of their proportional set sizes, sampled.

A page that several processes share counts once, whatever set of them is added up.
"""

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self


class Peak:
    """The most that *processes*, asked for at each look, took while the block ran; in bytes.

    *interval* is in seconds, between two looks.
    """

    def __init__(self, processes: Callable[[], Iterable[int]], interval: float = 0.2) -> None:
        self.bytes = 0
        self._processes, self._interval = processes, interval
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, sum(map(memory_of, self._processes())))
            if self._end.wait(self._interval):
                return


def with_children(pid: int, without: int = 0) -> list[int]:
    """*pid* and all its living descendants, but for the process *without* and its own."""
    found = [pid]
    for process in found:  # grows on the way
        with suppress(OSError):  # it ends in this moment
            threads = os.listdir(f"/proc/{process}/task")
            for children in (Path(f"/proc/{process}/task/{each}/children") for each in threads):
                found += [int(child) for child in children.read_text().split()
                          if int(child) != without]  # fmt: skip
    return found


def memory_of(pid: int) -> int:
    """Proportional set size in bytes, else what is resident; 0 for a process that has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0
