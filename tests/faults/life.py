"""A vault's life as a program, for whoever watches what it asks of the system.

    python -m tests.faults.life DIRECTORY

What the vault had acknowledged is written to stdout before each of its calls.
"""

import asyncio
import base64
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from tests.vault.test_power_cuts import a_life, told_nothing
from transfer.vault.open import open_vault


class Announced:
    """The vault, and what it has told so far."""

    def __init__(self, vault: Any, told: Any) -> None:
        self._vault, self._told = vault, told

    def __getattr__(self, name: str) -> Any:
        announce(self._told)
        return getattr(self._vault, name)


def announce(told: Any) -> None:
    os.write(1, base64.b64encode(pickle.dumps(told)))


async def live(path: Path) -> None:
    vault, told = await open_vault(path), told_nothing()
    await a_life(Announced(vault, told), told)
    announce(told)
    await vault.close()
    announce(told)


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1])))
