"""Names of one inode: the first to come makes it, and all others become links to that.

A name that stays asks for nothing, until one comes that is not its inode: then it is looked at like
one that may differ, and the other becomes a link to what it is found to be.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from transfer.files.directories import Place
from transfer.formats.entry import Entry
from transfer.pipeline.overwrite import Wanted
from transfer.pipeline.write_tasks import Written


class Linked(NamedTuple):
    """An inode that is as it should be, under one of its names."""

    entry: Entry
    place: Place
    identity: tuple[int, int]

    def is_of(self, entry: Entry) -> bool:
        fields = ("type", "content", "target", "device")
        return all(getattr(self.entry, each) == getattr(entry, each) for each in fields)


class LinkGroups:
    """*make* writes one name by itself, or finds that it is as wanted; None if it is neither."""

    def __init__(self, make: Callable[[Place, Wanted], Awaitable[Written | None]]) -> None:
        self._make = make
        self._staying: dict[bytes, tuple[Place, Wanted]] = {}
        # Who has another name of the inode waits for the one that has claimed it.
        self._claims: dict[bytes, asyncio.Future[Linked | None]] = {}

    async def inode(self, place: Place, wanted: Wanted) -> Linked | None:
        """What *wanted* is to be a link to; None if it is made by now, or stays."""
        group = wanted.entry.link_group
        if group not in self._claims:
            if wanted.stays and self._stays(place, wanted):
                return None
            if (staying := self._staying.pop(group, None)) is not None:
                await self._claim(*staying)
        while (claim := self._claims.get(group)) is not None:
            await asyncio.wait((claim,))
            linked = None if claim.cancelled() else claim.result()
            if linked is not None and linked.is_of(wanted.entry):
                return linked
            if self._claims[group] is claim:
                break  # nobody else has tried since
        await self._claim(place, wanted)
        return None

    def _stays(self, place: Place, wanted: Wanted) -> bool:
        _, first = self._staying.setdefault(wanted.entry.link_group, (place, wanted))
        return first.there is not None and wanted.is_there_as(first.there.identity)

    async def _claim(self, place: Place, wanted: Wanted) -> None:
        entry = wanted.entry
        claim = self._claims[entry.link_group] = asyncio.get_running_loop().create_future()
        try:
            made = await self._make(place, wanted)
        except BaseException:
            claim.cancel()
            raise
        known = made is not None and made.identity != (0, 0)
        claim.set_result(Linked(entry, place, made.identity) if made and known else None)
