"""Memory of a process tree: the sum of its proportional set sizes, shared pages counted once."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Self


def tree(pid: int) -> list[int]:
    """*pid* and all its living descendants."""
    found = [pid]
    for process in found:  # grows on the way
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def pss_of(pid: int) -> int:
    """Bytes; 0 for a process that has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Sampler:
    """Watch the tree below *pid* while the `with` block runs; *peak* is in bytes."""

    def __init__(self, pid: int, interval: float = 0.1) -> None:
        self.peak = 0
        self._pid, self._interval = pid, interval
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, sum(map(pss_of, tree(self._pid))))
            if self._end.wait(self._interval):
                return
