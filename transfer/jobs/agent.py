"""Agent: a machine's state, a vault, and the keys that belong to both."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from transfer.crypto import keys, signing
from transfer.errors import (
    Ambiguous,
    IntegrityError,
    NewerFormat,
    NotFound,
    TransferError,
    UsageError,
    VaultRolledBack,
)
from transfer.formats import documents
from transfer.formats import point as point_codec
from transfer.formats.point import Point, PointDetails
from transfer.jobs.far import Registration
from transfer.jobs.keyring import OpenKeyring
from transfer.jobs.state import Head, Known, Machine, StateDirectory
from transfer.net.client import RemoteVault
from transfer.pipeline.node_cache import NodeCache
from transfer.pipeline.sealing import Opener
from transfer.pipeline.workers import Pool
from transfer.vault.base import StoredPoint, Vault

__all__ = [
    "Agent",
    "ListedPoint",
    "Listing",
    "limits_nothing",
]


@dataclass(frozen=True)
class ListedPoint:
    """A point whose signature held and whose details opened."""

    point: Point
    details: PointDetails
    stored: StoredPoint

    @property
    def id(self) -> bytes:
        return self.point.point_id


class BadPoint(NamedTuple):
    """A point that is not what it claims to be; all but *error* is only its claim."""

    id: bytes
    item: bytes
    number: int
    error: TransferError


class Listing(NamedTuple):
    """All points of a domain, in order of arrival."""

    points: list[ListedPoint]
    bad: list[BadPoint]


@dataclass
class Agent:
    state: StateDirectory
    machine: Machine
    vault: Vault
    place: Path | str
    """Of the vault: a directory in this process, or a URL."""
    vault_id: bytes
    incarnation: int
    opened: OpenKeyring
    registration: Registration | None = None
    """With a far vault."""

    @property
    def domain(self) -> bytes:
        return self.opened.domain

    @property
    def known(self) -> Known:
        """What this machine knows of the vault, also through other runs."""
        found = self.state.known(self.vault_id)
        return found or Known(self.domain, self.incarnation, {}, self.opened.keyring.version)

    @property
    def uploads(self) -> int:
        """Calls with frames that may be under way at once; one disk has use for one.

        Over a network one more than send at a time: it waits for its answer meanwhile.
        """
        return self.vault.connections + 1 if isinstance(self.vault, RemoteVault) else 1

    def node_cache(self, item: bytes) -> NodeCache | None:
        """For backups of *item*; of a vault that is near, its own disk is as good."""
        if not isinstance(self.vault, RemoteVault):
            return None
        return NodeCache(self.state.path / "nodes" / f"{self.vault_id.hex()}.{item.hex()}")

    def item_id(self, name: str) -> bytes:
        return keys.item_id(self.opened.first_key, self.machine.id, name)

    def protects(self, item: str) -> bytes:
        """What change sources call the item of that name, wherever it is protected besides."""
        return self.vault_id + self.domain + self.item_id(item)

    def pool(self, workers: int | None, prepare: object, *arguments: object) -> Pool:
        count = len(os.sched_getaffinity(0)) if workers is None else workers
        return Pool(count, prepare, (self.opened.seal_keys(), *arguments))  # type: ignore[arg-type]

    async def list_points(self) -> Listing:
        stored = await self.vault.points(self.domain)
        return await asyncio.to_thread(self._open_points, stored)

    def _open_points(self, stored: list[StoredPoint]) -> Listing:
        opener = Opener(self.opened.seal_keys())
        listing = Listing([], [])
        seen: set[bytes] = set()
        for each in stored:
            try:
                point = point_codec.decode(each.record)
            except (IntegrityError, NewerFormat) as error:
                listing.bad.append(BadPoint(b"", b"", 0, error))
                continue
            try:
                details = self._details(opener, point)
                if point.point_id in seen:
                    raise IntegrityError(
                        f"point {point.point_id.hex()[:16]} stands in another one's place as well"
                    )
            except IntegrityError as error:
                listing.bad.append(BadPoint(point.point_id, point.item, point.number, error))
                continue
            seen.add(point.point_id)
            listing.points.append(ListedPoint(point, details, each))
        return listing

    def _details(self, opener: Opener, point: Point) -> PointDetails:
        name = f"point {point.point_id.hex()[:16]}"
        public = self.opened.keyring.public_key
        if point.domain != self.domain:
            raise IntegrityError(f"{name} is of another domain")
        if not signing.verify(public, point.signature, point.signed_part):
            raise IntegrityError(f"{name}: its signature does not hold")
        return documents.decode(opener.open(point.sealed)[2], PointDetails, name)

    async def find(self, text: str) -> ListedPoint:
        """The point that [MACHINE/]ITEM[@POINT] names.

        Raises NotFound, Ambiguous, VaultRolledBack; IntegrityError if the point is damaged.
        """
        name, _, wanted = text.partition("@")
        listing = await self.list_points()
        points = self.of_item(listing, name)
        if not wanted or wanted == "latest":
            return self._latest(listing, points, name)
        starts = wanted.lower()
        found = [each for each in points if each.id.hex().startswith(starts)]
        good = {each.id for each in points}
        bad = [
            each for each in listing.bad
            if each.id not in good and each.id.hex().startswith(starts)
        ]  # fmt: skip
        if len(found) + len(bad) > 1:
            raise Ambiguous(f"{wanted} is the start of {len(found)} points", "give more of it")
        if bad:
            raise bad[0].error
        if not found:
            raise NotFound(f"{name} has no point {wanted}", f"`transfer points {name}` lists them")
        return found[0]

    def _latest(self, listing: Listing, points: list[ListedPoint], name: str) -> ListedPoint:
        latest = max(points, key=lambda each: each.point.order)
        item, number = latest.point.item, latest.point.number
        for bad in listing.bad:
            if bad.item == item and bad.number >= number:
                raise IntegrityError(
                    f"{bad.error}; it may be the latest of {name}",
                    f"name a point to restore it all the same: `transfer points {name}` lists them",
                )
        if why := self.rolled_back(item, number):
            raise VaultRolledBack(
                f"the latest point of {name}: {why}",
                "name a point to restore it all the same; ask who restored the vault",
            )
        return latest

    def of_item(self, listing: Listing, name: str) -> list[ListedPoint]:
        """The points of [MACHINE/]ITEM; at least one. Raises NotFound, Ambiguous, VaultRolledBack
        if this machine saw some of its own committed and none is left, and IntegrityError if the
        item's may be among those that are damaged.
        """
        try:
            return of_item(listing.points, self.machine, name)
        except NotFound as error:
            own = self.item_id(name)
            if own.hex() in self.known.heads and (why := self.rolled_back(own, 0)):
                raise VaultRolledBack(
                    f"no point of {name} is left: {why}", "ask who restored the vault"
                ) from None
            if listing.bad:
                raise IntegrityError(f"{error}; but {listing.bad[0].error}") from None
            raise

    def rolled_back(self, item: bytes, newest: int) -> str | None:
        """Why the vault seems to be an older copy of itself, when the highest number of a point
        of *item* is *newest* (0: there is none); None if nothing says so.
        """
        head = self.known.heads.get(item.hex())
        if head is not None and newest < head.number:
            there = f"the vault's newest is {newest}" if newest else "the vault has none"
            return f"point {head.number} was committed, and {there}"
        if self.incarnation < self.known.incarnation:
            return (
                f"the vault was in incarnation {self.known.incarnation} before, "
                f"and is in {self.incarnation} now"
            )
        return None

    def remember_head(self, item: bytes, number: int, point: bytes) -> None:
        """Note that *point* is committed. Whatever the vault was before, that is from now on
        the newest of *item*.
        """
        self._remember({item.hex(): Head(number, point)})

    def remember_keyring(self) -> None:
        """Note that the keyring that is open now is the newest."""
        self._remember({})

    def _remember(self, more: dict[str, Head]) -> None:
        version = self.opened.keyring.version

        def change(known: Known | None) -> Known:
            heads = known.heads if known is not None and known.domain == self.domain else {}
            return Known(self.domain, self.incarnation, heads | more, version)

        self.state.update(self.vault_id, change)

    def check_keyring(self) -> None:
        """Raise VaultRolledBack rather than seal with keys that were replaced since."""
        version = self.opened.keyring.version
        if version < self.known.keyring:
            raise VaultRolledBack(
                f"the vault's keyring is version {version}, and version {self.known.keyring} was "
                "seen before",
                "ask who restored the vault; `transfer key rotate` goes on from what is there",
            )


def of_item(points: Sequence[ListedPoint], machine: Machine, name: str) -> list[ListedPoint]:
    """The points of [MACHINE/]ITEM; this machine's own item goes before others of that name."""
    owner, named, item = name.rpartition("/")
    found = [each for each in points if each.details.item == item]
    if named:
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
        if len(names) < len(machines):  # machines of one name: only their IDs tell them apart
            names = sorted(f"{each.hex()}/{item}" for each in machines)
        raise Ambiguous(f"{name} is an item of several machines", "one of " + ", ".join(names))
    return found


def limits_nothing(name: str, place: Path | str) -> UsageError:
    return UsageError(
        f"--{name} is for a vault over the network, and {place} is a directory",
        f"leave --{name} out",
    )
