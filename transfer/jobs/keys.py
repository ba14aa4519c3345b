"""Key jobs: each adds a version of the keyring; none sends data again.

What is to become the newest version is opened before it is stored, with the secret that will have
to open it, and read back after. Two machines that change the same version: one is told by the
vault that the other was faster, and has changed nothing.
"""

import asyncio
from dataclasses import dataclass

from transfer.errors import IntegrityError, Refused
from transfer.jobs import keyring as keyrings
from transfer.jobs.agent import Agent
from transfer.jobs.keyring import OpenKeyring, Secret


@dataclass
class KeyStatus:
    """What the newest version of the domain's keyring holds."""

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
    """The new one opens the keyring instead of the old; recovery keys stay."""
    raw = await asyncio.to_thread(keyrings.with_passphrase, agent.opened, new)
    return await _add(agent, raw, Secret(lambda _: new))


async def new_recovery_key(agent: Agent) -> str:
    """The recovery key as it is to be printed; it replaces those before."""
    raw, printed = await asyncio.to_thread(keyrings.with_recovery_key, agent.opened)
    await _add(agent, raw, Secret(lambda _: "", printed))
    return printed


async def rotate(agent: Agent) -> KeyStatus:
    """Begin an epoch: new frames get a new key. IDs stay, and nothing is sent again."""
    raw = await asyncio.to_thread(keyrings.soft_rotated, agent.opened)
    return await _store(agent, keyrings.open_with_key(raw, agent.opened.key), raw)


async def rotate_hard(agent: Agent, passphrase: str) -> KeyStatus:
    """Begin a generation, after a compromise: all is read and sent again, under a new passphrase.

    Recovery keys open only what was made before.
    """
    raw = await asyncio.to_thread(keyrings.hard_rotated, agent.opened, passphrase)
    return await _add(agent, raw, Secret(lambda _: passphrase))


async def _add(agent: Agent, raw: bytes, secret: Secret) -> KeyStatus:
    opened = await asyncio.to_thread(keyrings.open_keyring, raw, secret, agent.domain)
    return await _store(agent, opened, raw)


async def _store(agent: Agent, opened: OpenKeyring, raw: bytes) -> KeyStatus:
    version, refused = opened.keyring.version, None
    try:
        await agent.vault.add_keyring(agent.domain, version, raw)
    except Refused as error:  # also what a repeated request gets if its first try did arrive
        refused = error
    if await agent.vault.keyring(agent.domain, version) != raw:
        raise refused or IntegrityError(
            "the vault gives back another keyring than it was given",
            "the change may be lost; run it again, and check the vault",
        )
    agent.opened = opened
    agent.remember_keyring()
    return key_status(agent)
