"""`transfer` on an event loop that notes how long its callbacks compute.

    python -m tests.acceptance.stalls FILE transfer-arguments...

FILE gets the worst callbacks, one a line: milliseconds of the loop's own thread, and what ran. The
loop is asyncio's own, whose callbacks can be seen; they are the same ones on any other.
"""

import asyncio
import heapq
import sys
import time
from pathlib import Path
from typing import NamedTuple

KEPT = 10


class Callback(NamedTuple):
    milliseconds: float
    what: str


def worst(file: Path) -> list[Callback]:
    """What a run has left in *file*, the longest first."""
    lines = [line.partition(" ") for line in file.read_text().splitlines()]
    return [Callback(float(took), what) for took, _, what in lines]


def main(file: Path, words: list[str]) -> int:
    from transfer.cli import main as cli
    from transfer.cli import running

    found: list[Callback] = []
    real = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        real(handle)
        took = Callback((time.thread_time() - began) * 1000, "")
        if len(found) < KEPT or took > found[0]:
            took = took._replace(what=repr(handle).replace("\n", " "))
            (heapq.heappush if len(found) < KEPT else heapq.heapreplace)(found, took)

    asyncio.Handle._run = timed  # type: ignore[method-assign]
    running._fastest_loop = asyncio.new_event_loop
    try:
        return cli.main(words)
    finally:
        lines = [f"{each.milliseconds:.1f} {each.what}\n" for each in sorted(found, reverse=True)]
        file.write_text("".join(lines))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
