"""Agent: a machine's state, a vault, and the keys that belong to both."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from transfer.crypto import keys, signing
from transfer.errors import (
    Ambiguous,
    IntegrityError,
    NotFound,
    PointMissing,
    TransferError,
    VaultRolledBack,
    WrongPassphrase,
)
from transfer.formats import point as point_codec
from transfer.formats.point import Point, PointDetails
from transfer.jobs import keyring as keyrings
from transfer.jobs.keyring import OpenKeyring, Secret
from transfer.jobs.state import Head, Known, Machine, StateDirectory, default_state
from transfer.pipeline.sealing import Opener
from transfer.pipeline.workers import Pool
from transfer.vault.base import StoredPoint, Vault
from transfer.vault.open import open_vault

__all__ = ["Agent", "ListedPoint", "Secret", "default_state", "open_agent"]


@dataclass(frozen=True)
class ListedPoint:
    """A point whose signature held and whose details opened."""

    point: Point
    details: PointDetails
    stored: StoredPoint

    @property
    def id(self) -> bytes:
        return self.point.point_id


@dataclass
class Agent:
    state: StateDirectory
    machine: Machine
    vault: Vault
    vault_path: Path
    vault_id: bytes
    opened: OpenKeyring
    known: Known

    @property
    def domain(self) -> bytes:
        return self.opened.domain

    def item_id(self, name: str) -> bytes:
        return keys.item_id(self.opened.first_key, self.machine.id, name)

    def pool(self, workers: int | None, prepare: object, *arguments: object) -> Pool:
        count = len(os.sched_getaffinity(0)) if workers is None else workers
        return Pool(count, prepare, (self.opened.seal_keys(), *arguments))  # type: ignore[arg-type]

    async def list_points(self) -> list[ListedPoint]:
        """All points of the domain whose signature holds, in order of arrival."""
        stored = await self.vault.points(self.domain)
        return await asyncio.to_thread(self._open_points, stored)

    def _open_points(self, stored: list[StoredPoint]) -> list[ListedPoint]:
        opener = Opener(self.opened.seal_keys())
        listed = []
        for each in stored:
            point = point_codec.decode(each.record)
            public = self.opened.keyring.public_key
            if not signing.verify(public, point.signature, point.signed_part):
                raise IntegrityError(f"point {point.point_id.hex()[:16]}: wrong signature")
            plain = opener.open(point.sealed)[2]
            listed.append(ListedPoint(point, msgspec.json.decode(plain, type=PointDetails), each))
        return listed

    async def find(self, text: str) -> ListedPoint:
        """The point that [MACHINE/]ITEM[@POINT] names. Raises NotFound, Ambiguous."""
        name, _, wanted = text.partition("@")
        points = of_item(await self.list_points(), self.machine, name)
        if not wanted or wanted == "latest":
            latest = max(points, key=lambda each: each.point.order)
            self._check_head(latest, points)
            return latest
        found = [each for each in points if each.id.hex().startswith(wanted.lower())]
        if len(found) > 1:
            raise Ambiguous(f"{wanted} is the start of {len(found)} points", "give more of it")
        if not found:
            raise NotFound(f"{name} has no point {wanted}", f"`transfer points {name}` lists them")
        return found[0]

    def _check_head(self, latest: ListedPoint, points: list[ListedPoint]) -> None:
        head = self.known.heads.get(latest.point.item.hex())
        if head is not None and latest.point.number < head.number:
            raise VaultRolledBack(
                f"point {head.number} of {latest.details.item} was committed, and the vault's "
                f"newest is {latest.point.number}",
                "name a point to restore it all the same; ask who restored the vault",
            )

    def remember_head(self, item: bytes, number: int, point: bytes) -> None:
        self.known.heads[item.hex()] = Head(number, point)
        self.state.remember(self.vault_id, self.known)


def of_item(points: list[ListedPoint], machine: Machine, name: str) -> list[ListedPoint]:
    """The points of [MACHINE/]ITEM; this machine's own item goes before others of that name."""
    owner, _, item = name.rpartition("/")
    found = [each for each in points if each.details.item == item]
    if owner:
        found = [
            each for each in found if owner in (each.details.machine, each.details.machine_id.hex())
        ]
    elif own := [each for each in found if each.details.machine_id == machine.id]:
        found = own
    machines = {each.details.machine_id for each in found}
    if not found:
        raise NotFound(f"there is no item {name} in this vault", "`transfer points` lists them")
    if len(machines) > 1:
        names = sorted({f"{each.details.machine}/{item}" for each in found})
        raise Ambiguous(f"{name} is an item of several machines", "one of " + ", ".join(names))
    return found


@asynccontextmanager
async def open_agent(
    state: Path, vault: Path, secret: Secret, *, create: bool = False, writer: bool = False,
    name: str | None = None, new_domain: bool = False,
) -> AsyncIterator[Agent]:  # fmt: skip
    """Open the directory vault and the keyring of this machine's domain.

    With *create*, a missing vault and the keyring of a vault that has none are made; *new_domain*
    makes one beside those of others. A keyring that does not open is never replaced.
    """
    directory = StateDirectory(state)
    machine = directory.machine(name)
    near = await open_vault(vault, create=create)
    try:
        info = await near.info()
        known = directory.known(info.vault)
        opened = await _open_domain(near, known, secret, create, new_domain)
        if known is None or known.domain != opened.domain:
            known = Known(opened.domain, info.incarnation)
            directory.remember(info.vault, known)
        yield Agent(directory, machine, near, vault, info.vault, opened, known)
    finally:
        await near.close()


async def _open_domain(
    vault: Vault, known: Known | None, secret: Secret, create: bool, new_domain: bool
) -> OpenKeyring:
    domains = [known.domain] if known is not None else await vault.domains()
    if not new_domain or known is not None:
        failure: TransferError | None = None
        for domain in domains:
            raw = await vault.keyring(domain)
            if raw is None:
                raise PointMissing(
                    f"the vault has no keyring of domain {domain.hex()[:8]} any more",
                    "restore it from another copy of the vault; it is never made anew",
                )
            try:
                return await asyncio.to_thread(keyrings.open_keyring, raw, secret)
            except WrongPassphrase as error:
                failure = error
        if failure is not None:
            raise failure
    if not create:
        raise NotFound("the vault has no keyring", "a first `transfer backup` makes one")
    raw = await asyncio.to_thread(keyrings.create, secret.passphrase(True))
    made = await asyncio.to_thread(keyrings.open_keyring, raw, secret)
    await vault.add_keyring(made.domain, 1, raw)
    back = await vault.keyring(made.domain)
    if back != raw:  # before the first frame: what is sealed now opens with what is stored
        raise IntegrityError("the vault gives back another keyring than it was given")
    return made
