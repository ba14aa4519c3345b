"""Vaults behind a server that take their time, or fail: all else is the vault's own."""

import asyncio
from contextlib import asynccontextmanager

from tests.net.far import Far
from transfer.vault.open import open_vault


class Held:
    """Calls in `waiting` wait until `go`; those in `failing` raise, after so many that do not."""

    def __init__(self, vault):
        self._vault = vault
        self.go = asyncio.Event()
        self.waiting, self.failing = set(), {}
        self.calls = []

    def __getattr__(self, name):
        inner = getattr(self._vault, name)

        async def call(*args, **named):
            self.calls.append(name)
            if name in self.waiting:
                await self.go.wait()
            good, error = self.failing.get(name, (1, None))
            if error is not None and self.calls.count(name) > good:
                raise error
            return await inner(*args, **named)

        return call


@asynccontextmanager
async def held_vault(path, clock, **options):
    """A running server, and the vault behind it."""
    vault = await open_vault(path, create=True, clock=clock)
    held = Held(vault)
    try:
        far = await Far(path, held, (await vault.info()).vault, clock, **options).start()
        try:
            yield far, held
        finally:
            for remote in far.opened:
                await remote.close()
            await far.server.stop(grace=1)
    finally:
        await vault.close()
