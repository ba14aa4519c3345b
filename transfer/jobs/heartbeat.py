"""A sign of life for a session whose run says nothing for long: a pause may last for weeks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from transfer.errors import TransferError
from transfer.vault.base import SESSION_LIFE, Vault

EVERY = SESSION_LIFE / 10**9 / 100  # seconds; some 100 minutes


@asynccontextmanager
async def kept_alive(vault: Vault, session: int, every: float = EVERY) -> AsyncIterator[None]:
    """The *session* of *vault* does not expire within the block."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(every)
            # Whatever is wrong, the run's next call is told so as well.
            with suppress(TransferError):
                await vault.heartbeat(session)

    task = asyncio.create_task(beat(), name=f"heartbeat of session {session}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
