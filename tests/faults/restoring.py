"""A restore as a program, for whoever watches what it asks of the system.

    python -m tests.faults.restoring TOP

Machine and vault stand in TOP, the state and what comes back on its `disk`. That all of it is back
is written to stdout.
"""

import asyncio
import os
import sys
from pathlib import Path

from tests.acceptance.agent import Machine
from tests.faults.failpoints import quick_keyrings


def machine(top: Path) -> Machine:
    return Machine(top, state="disk/state")


async def restore(top: Path) -> None:
    result = await machine(top).restore(top / "disk" / "into")
    assert (result.damaged, result.warnings) == ([], [])
    os.write(1, b"restored")


if __name__ == "__main__":
    quick_keyrings()
    asyncio.run(restore(Path(sys.argv[1])))
