"""Open a vault, near or far, and the keyring of this machine's domain in it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from transfer.errors import (
    IntegrityError,
    NewerFormat,
    NotFound,
    TransferError,
    VaultRolledBack,
    WrongPassphrase,
)
from transfer.jobs import keyring as keyrings
from transfer.jobs.agent import Agent
from transfer.jobs.far import DEFAULT_REACH, Reach, far_vault, registration_of
from transfer.jobs.keyring import OpenKeyring, Secret
from transfer.jobs.state import Known, Machine, StateDirectory, default_state
from transfer.vault.base import Vault, VaultInfo

__all__ = ["Reach", "Secret", "default_state", "open_agent"]


@asynccontextmanager
async def open_agent(
    state: Path, vault: Path | None, secret: Secret, *, create: bool = False,
    name: str | None = None, new_domain: bool = False, reach: Reach = DEFAULT_REACH,
) -> AsyncIterator[Agent]:  # fmt: skip
    """Open a vault, and the keyring of this machine's domain in it.

    *vault* is a directory, opened in this process, or None for the far vault that this machine is
    registered with. In a directory *create* makes a missing vault, and the keyring of a vault that
    has none; *new_domain* makes one beside those of others. A keyring that does not open is never
    replaced. *name* is what the machine is called from now on.
    """
    directory = StateDirectory(state)
    if vault is None:
        async with _far(directory, secret, reach) as agent:
            yield agent
        return
    # The database of a vault is a third of a client's memory, and a far one needs none here.
    from transfer.vault.open import open_vault

    machine = directory.machine(name)
    near = await open_vault(vault, create=create)
    try:
        info = await near.info()
        known = directory.known(info.vault)
        opened = await _open_domain(near, known, secret, create, new_domain)
        if name is not None and name != machine.name:
            machine = directory.rename(machine, name)
        yield _agent(directory, machine, near, vault, info, opened)
    finally:
        await near.close()


@asynccontextmanager
async def _far(directory: StateDirectory, secret: Secret, reach: Reach) -> AsyncIterator[Agent]:
    registration = registration_of(directory)
    async with far_vault(directory, registration, reach) as (vault, view):
        info = VaultInfo(view.vault, view.incarnation)
        opened = await _open_one_of(vault, [registration.domain], secret)
        agent = _agent(directory, directory.machine(), vault, registration.url, info, opened)
        yield replace(agent, registration=registration_of(directory))


def _agent(
    directory: StateDirectory, machine: Machine, vault: Vault, place: Path | str,
    info: VaultInfo, opened: OpenKeyring,
) -> Agent:  # fmt: skip
    """With what is known of the vault up to date."""
    domain, version = opened.domain, opened.keyring.version
    known = directory.known(info.vault)
    if known != _known(known, domain, info.incarnation, version):
        directory.update(info.vault, lambda now: _known(now, domain, info.incarnation, version))
    return Agent(directory, machine, vault, place, info.vault, info.incarnation, opened)


def _known(now: Known | None, domain: bytes, incarnation: int, keyring: int) -> Known:
    """The highest of what was and what is."""
    if now is None or now.domain != domain:
        return Known(domain, incarnation, {}, keyring)
    highest = max(now.incarnation, incarnation), max(now.keyring, keyring)
    return Known(domain, highest[0], now.heads, highest[1])


async def _open_domain(
    vault: Vault, known: Known | None, secret: Secret, create: bool, new_domain: bool
) -> OpenKeyring:
    domains = [known.domain] if known is not None else await vault.domains()
    if domains and (known is not None or not new_domain):
        return await _open_one_of(vault, domains, secret)
    if not create:
        raise NotFound("the vault has no keyring", "a first `transfer backup` makes one")
    return await _new_domain(vault, secret)


async def _open_one_of(vault: Vault, domains: list[bytes], secret: Secret) -> OpenKeyring:
    """The keyring that *secret* opens; a damaged one of another domain is not in the way."""
    # Asked here, in the main thread: only there a Ctrl-C at the prompt can be heard.
    given = "" if secret.recovery_key is not None else secret.passphrase(False)
    secret = Secret(lambda _: given, secret.recovery_key)
    failures: list[TransferError] = []
    for domain in domains:
        try:
            return await _open_keyring(vault, domain, secret)
        except (IntegrityError, NewerFormat, WrongPassphrase) as error:
            failures.append(error)
    # Where one is damaged nobody can say that the passphrase is wrong.
    raise min(failures, key=lambda error: isinstance(error, WrongPassphrase))


async def _open_keyring(vault: Vault, domain: bytes, secret: Secret) -> OpenKeyring:
    name = f"the keyring of domain {domain.hex()[:8]}"
    hint = "bring it back from another copy of the vault; it is never made anew"
    try:
        raw = await vault.keyring(domain)
        if raw is None:
            raise VaultRolledBack("the vault has none any more")
        return await asyncio.to_thread(keyrings.open_keyring, raw, secret, domain)
    except IntegrityError as error:
        raise type(error)(f"{name}: {error}", hint) from error


async def _new_domain(vault: Vault, secret: Secret) -> OpenKeyring:
    given = secret.passphrase(True)
    raw = await asyncio.to_thread(keyrings.create, given)
    made = await asyncio.to_thread(keyrings.open_keyring, raw, Secret(lambda _: given))
    await vault.add_keyring(made.domain, 1, raw)
    back = await vault.keyring(made.domain)
    if back != raw:  # before the first frame: what is sealed now opens with what is stored
        raise IntegrityError("the vault gives back another keyring than it was given")
    return made
