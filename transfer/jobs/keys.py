"""Key jobs: each adds a version of the keyring; none sends data again."""

import asyncio
from dataclasses import dataclass

from transfer.jobs import keyring as keyrings
from transfer.jobs.agent import Agent


@dataclass
class KeyStatus:
    domain: str
    version: int
    generation: int
    epoch: str
    epochs: int
    passphrases: int
    recovery_keys: int


def key_status(agent: Agent) -> KeyStatus:
    body, secrets = agent.opened.keyring.body, agent.opened.secrets
    kinds = [each.kind for each in body.wraps]
    return KeyStatus(
        body.domain.hex(), body.version, agent.opened.generation, secrets.current_epoch.hex(),
        len(body.epochs), kinds.count(keyrings.PASSPHRASE), kinds.count(keyrings.RECOVERY),
    )  # fmt: skip


async def change_passphrase(agent: Agent, new: str) -> KeyStatus:
    raw = await asyncio.to_thread(keyrings.with_passphrase, agent.opened, new)
    return await _add(agent, raw, keyrings.Secret(lambda _: new))


async def new_recovery_key(agent: Agent) -> str:
    raw, printed = await asyncio.to_thread(keyrings.with_recovery_key, agent.opened)
    await _add(agent, raw, keyrings.Secret(lambda _: "", printed))
    return printed


async def rotate(agent: Agent, passphrase: str | None = None) -> KeyStatus:
    """Soft without *passphrase*: a new epoch. Hard with one: also a new generation."""
    raw = await asyncio.to_thread(keyrings.rotated, agent.opened, passphrase)
    if passphrase is not None:
        return await _add(agent, raw, keyrings.Secret(lambda _: passphrase))
    opened = keyrings.open_with_key(raw, agent.opened.key)
    return await _store(agent, opened, raw)


async def _add(agent: Agent, raw: bytes, secret: keyrings.Secret) -> KeyStatus:
    # Opened before it is stored: a keyring that nobody can open must never be the newest.
    opened = await asyncio.to_thread(keyrings.open_keyring, raw, secret)
    return await _store(agent, opened, raw)


async def _store(agent: Agent, opened: keyrings.OpenKeyring, raw: bytes) -> KeyStatus:
    await agent.vault.add_keyring(agent.domain, opened.keyring.version, raw)
    agent.opened = opened
    return key_status(agent)
