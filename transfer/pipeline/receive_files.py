"""Receive files: their content, links and special files, many small ones at a time.

What is in the target already is compared with the point, and not fetched. What is damaged, or may
not be written, is named, and everything else is given back.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from transfer.files.directories import Place
from transfer.files.metadata import Stat
from transfer.formats.entry import Entry, FileType
from transfer.formats.reference import Reference
from transfer.pipeline import directory_tasks, present_tasks, write_tasks
from transfer.pipeline.batching import Window
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.files import AT_ONCE, Report
from transfer.pipeline.link_groups import Linked, LinkGroups
from transfer.pipeline.overwrite import Overwrite, Wanted
from transfer.pipeline.page_tasks import Done
from transfer.pipeline.present_tasks import Existing
from transfer.pipeline.receive_streams import (
    Present,
    Received,
    StreamReceiver,
    batches,
)
from transfer.pipeline.small_files import SmallWriter, inline
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.units import Planned, Unit, batched, by_block, shared_block
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import Extents, FrameAt, Piece, Written
from transfer.waiting import or_undone, task_group, to_the_end


@dataclass
class ReceiveOptions:
    overwrite: Overwrite = field(default_factory=Overwrite)
    selected: Callable[[bytes, bool], bool] | None = None
    """Whether an entry is wanted; for a directory also when something below it may be. None: all
    are, and then unfinished files that nobody goes on with are removed.
    """
    label: bytes = b""
    """Of what is restored: a later run goes on with unfinished files that bear it."""


class FileReceiver:
    def __init__(
        self, pool: Pool, nodes: NodeReader, received: Received, options: ReceiveOptions,
        report: Report, group: asyncio.TaskGroup,
    ) -> None:  # fmt: skip
        self._pool, self._nodes, self._received = pool, nodes, received
        self._options, self._report = options, report
        self._streams = StreamReceiver(pool, nodes, received)
        self._writer = SmallWriter(pool, nodes, received, group)
        self._leftovers: dict[tuple[Place, bytes], bytes] = {}
        self._groups, self._one_by_one = LinkGroups(self._single), asyncio.Lock()

    def left_over(self, place: Place, names: dict[bytes, bytes]) -> None:
        """Unfinished files in *place*, by their keys, with which to go on."""
        self._leftovers |= {(place, key): name for key, name in names.items()}

    async def all(self, place: Place, wanted: Sequence[Wanted]) -> None:
        small: list[Planned] = []
        async with task_group() as group:
            window: Window[object] = Window(group, AT_ONCE)
            for each in wanted:
                entry = each.entry
                if entry.link_group:
                    if (linked := await self._groups.inode(place, each)) is not None:
                        await self._link(place, each, linked)
                elif entry.type is not FileType.FILE or entry.size > BATCH:
                    await window.add(self._single(place, each))
                elif (plan := await self._plan(each)) is not None:
                    small.append(plan)
            units = by_block(small, lambda plan: shared_block(plan.entry.content))
            for batch in batched(Unit(files) for files in units):
                await window.add(self._small(place, batch))

    async def _link(self, place: Place, wanted: Wanted, first: Linked) -> None:
        """Make it a name of *first*; one that may not be replaced only if it is as whole."""
        there, link = wanted.there, (place, wanted.entry.name, first)
        if there is None or wanted.replace or wanted.is_there_as(first.identity):
            return self._settle(wanted, await self._linked(*link, wanted.replace))
        # What is done to one name of an inode gives all others another ctime.
        async with self._one_by_one:
            if await self._single(place, await self._as_it_is(place, wanted)) is not None:
                done = await self._linked(*link, False, instead=there.identity)
                if done.error:
                    self._settle(wanted, done)

    async def _linked(
        self, place: Place, name: bytes, first: Linked, replace: bool,
        instead: tuple[int, int] | None = None,
    ) -> Written:  # fmt: skip
        return await self._pool.call(
            write_tasks.make_link, place, name, (first.place, first.entry.name), first.identity,
            replace, instead,
        )  # fmt: skip

    async def _as_it_is(self, place: Place, wanted: Wanted) -> Wanted:
        """With the ctime that it has by now."""
        (found,) = await self._pool.call(directory_tasks.existing, place, [wanted.entry.name])
        same = found is not None and wanted.is_there_as(found.stat.identity)
        return wanted._replace(there=found.stat) if found and same else wanted

    async def _single(self, place: Place, wanted: Wanted) -> Written | None:
        """Write one entry by itself; None if it is damaged, or stays, and named."""
        entry, there = wanted.entry, wanted.there
        if entry.type is not FileType.FILE:
            if there is not None:
                kept = await self._pool.call(present_tasks.keep_special, place, entry, there)
                if kept is not None or not wanted.replace:
                    return kept
            done = await self._again(write_tasks.make_special, place, entry, wanted.replace)
            self._settle(wanted, done)
            return done
        if entry.size > BATCH:
            return await self._large(place, wanted)
        plan = await self._plan(wanted)
        return plan and (await self._small(place, [Unit([plan])])).get(wanted.path)

    async def _plan(self, wanted: Wanted) -> Planned | None:
        unreadable: Extents = []
        pieces: list[Piece] = []
        zeros: Extents = []
        async for more, holes in batches(self._nodes, wanted.entry.content, unreadable):
            pieces += more
            zeros += holes
        if unreadable:
            self.damage(wanted.path, [f"{length} bytes at {at}" for at, length in unreadable])
            return None
        return Planned(wanted, pieces, zeros)

    async def _small(self, place: Place, units: Sequence[Unit]) -> dict[bytes, Written]:
        """By path what was done; not of what stays, although it differs."""
        files = [each for unit in units for each in unit.files]
        done = await self._kept(place, [each for each in files if each.wanted.there is not None])
        left = [
            Unit(rest) for unit in units
            if (rest := [each for each in unit.files if each.path not in done and _may(each)])
        ]  # fmt: skip
        done |= await self._written(place, left)
        for each in files:
            if each.path not in done:
                self.exists(each.path)
        return done

    async def _kept(self, place: Place, batch: Sequence[Planned]) -> dict[bytes, Written]:
        """Those that are in the target already."""
        if not batch:
            return {}
        files = [
            Existing(each.entry, stat, inline(each.entry.content), tuple(each.pieces),
                     tuple(each.zeros))
            for each in batch if (stat := each.wanted.there) is not None
        ]  # fmt: skip
        found = await self._pool.call(present_tasks.keep_files, place, files)
        done = {
            each.path: one for each, one in zip(batch, found, strict=True) if one is not None
        }  # fmt: skip
        self._settle_all(batch, done)
        return done

    async def _written(self, place: Place, units: Sequence[Unit]) -> dict[bytes, Written]:
        """Not those that stay."""
        written = await self._writer.write(place, units)
        done = {path: one for path, one in written.items() if not one.stays}
        self._settle_all([each for unit in units for each in unit.files], done)
        return done

    def _settle_all(self, files: Sequence[Planned], done: Mapping[bytes, Written]) -> None:
        for each in files:
            one = done.get(each.path)
            if one is None:
                continue
            self._settle(each.wanted, one)
            if one.kept:
                self._received.bytes_kept += each.entry.size
            elif not (one.error or one.damaged):
                self._received.bytes_written += each.entry.size

    async def _large(self, place: Place, wanted: Wanted) -> Written | None:
        entry, there = wanted.entry, wanted.there
        if there is not None:
            if (done := await self._kept_large(place, entry, there)) is not None:
                self._settle(wanted, done)
                return done
            if not wanted.replace:
                self.exists(wanted.path)
                return None
        temporary, damaged = await self._filled(place, entry, there)
        if damaged:
            await self._pool.call(write_tasks.discard, place, temporary)
            self.damage(wanted.path, damaged)
            return None
        finish = write_tasks.finish_large, place, entry, wanted.replace, temporary
        try:
            done = await self._again(*finish)
        except BaseException:  # it may still wait for a lane
            await to_the_end(self._pool.call(write_tasks.leave, place, temporary))
            raise
        self._settle(wanted, done)
        return done

    async def _filled(
        self, place: Place, entry: Entry, there: Stat | None
    ) -> tuple[bytes, list[str]]:
        """The temporary name of the whole file, and what is damaged of it."""
        key = blake3(self._options.label + entry.name).hexdigest(8).encode()
        creating = self._pool.call(
            write_tasks.create_large, place, entry.name, entry.size, key,
            self._leftovers.pop((place, key), b""),
        )  # fmt: skip

        async def leave(created: tuple[bytes, bool]) -> None:
            await self._pool.call(write_tasks.leave, place, created[0])

        created = temporary, adopted = await or_undone(creating, leave)

        async def write(worker: Leased, frames: list[FrameAt], zeros: Extents) -> list[Reference]:
            found: list[Reference] = await worker.call(
                write_tasks.write_blocks, place, temporary, frames, zeros, entry.sparse, adopted
            )
            return found

        present = _present(place, entry, temporary, adopted, there)
        try:
            return temporary, await self._streams.run(entry.content, write, present)
        except BaseException:
            await to_the_end(leave(created))
            raise

    async def _kept_large(self, place: Place, entry: Entry, there: Stat) -> Written | None:
        """What was done if the file is in the target already; None if it differs."""
        if there.size != entry.size:
            return None
        unreadable: Extents = []
        async for pieces, zeros in batches(self._nodes, entry.content, unreadable):
            whole = await self._pool.call(
                present_tasks.is_whole, place, entry.name, there, pieces, zeros
            )
            if not whole:
                return None
        if unreadable:
            return None
        done: Written | None = await self._pool.call(present_tasks.keep_large, place, entry, there)
        self._received.bytes_kept += entry.size if done is not None else 0
        return done

    async def _again(self, function: Callable[..., Written], *arguments: Any) -> Written:
        """Call *function*, told when it is not the first try: it may have finished before."""
        tries = 0

        async def work(worker: Leased) -> Written:
            nonlocal tries
            tries += 1
            return await worker.call(function, *arguments, again=tries > 1)

        return await self._pool.run(work)

    def exists(self, path: bytes) -> None:
        self._report.warn(path, "exists", "it is there already, and stays (--overwrite never)")

    def settle(self, path: bytes, done: Done) -> None:
        """What a worker did by itself in the new directory *path*."""
        for name, one in done.told:
            self._tell(path + b"/" + name, one)
        for size in done.sizes:
            self._file_done(size)
            self._received.bytes_written += size

    def _settle(self, wanted: Wanted, done: Written) -> None:
        self._tell(wanted.path, done)
        if wanted.entry.type is FileType.FILE and not (done.damaged or done.error):
            self._file_done(wanted.entry.size)

    def _file_done(self, size: int) -> None:
        self._received.files += 1
        self._report.file_done(size)

    def _tell(self, path: bytes, done: Written) -> None:
        if done.damaged:
            self.damage(path, [str(reference) for reference in done.damaged])
        elif done.error:
            self.unwritable(path, done.error, done.passing)
        else:
            self.failed(path, done.failed)

    def unwritable(self, path: bytes, why: str, passing: bool, code: str = "unwritable") -> None:
        self._received.unfinished |= passing
        self._report.warn(path, code, why)

    def failed(self, path: bytes, codes: Sequence[str]) -> None:
        for code in codes:
            self._report.warn(path, code, f"the caller may not set its {code}")

    def damage(self, path: bytes, what: Sequence[str]) -> None:
        shown = path.decode(errors="backslashreplace")
        self._received.damaged += [f"{shown}: {each}" for each in what]


def _may(planned: Planned) -> bool:
    """Whether it may be written, or only its block tells whether it is there already."""
    wanted = planned.wanted
    return wanted.there is None or wanted.replace or planned.needs_block()


def _present(
    place: Place, entry: Entry, temporary: bytes, adopted: bool, there: Stat | None
) -> Present | None:
    """What the unfinished file has already; or what it is to get from the one that is there."""

    async def in_temporary(worker: Leased, pieces: list[Piece]) -> list[bool]:
        found: list[bool] = await worker.call(
            present_tasks.present_in_temporary, place, temporary, pieces
        )
        return found

    if adopted or there is None:
        return in_temporary if adopted else None
    stat = there

    async def in_existing(worker: Leased, pieces: list[Piece]) -> list[bool]:
        found: list[bool] = await worker.call(
            present_tasks.copy_present, place, entry.name, stat, temporary, pieces, entry.sparse
        )
        return found

    return in_existing
