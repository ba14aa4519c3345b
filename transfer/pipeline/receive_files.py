"""Receive files: their content, links and special files, many small ones at a time.

What is in the target already is compared with the point, and not fetched. What is damaged, or may
not be written, is named, and everything else is given back.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from blake3 import blake3

from transfer.files.directories import Place
from transfer.files.metadata import Stat
from transfer.formats.entry import Content, Entry, FileType, Inline, Slice
from transfer.formats.reference import Reference
from transfer.pipeline import present_tasks, write_tasks
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.files import Report
from transfer.pipeline.link_groups import Linked, LinkGroups
from transfer.pipeline.overwrite import Overwrite, Wanted
from transfer.pipeline.present_tasks import Existing
from transfer.pipeline.receive_streams import (
    Extents,
    Present,
    Received,
    StreamReceiver,
    batches,
    used,
)
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.workers import Leased, Pool
from transfer.pipeline.write_tasks import FrameAt, Piece, Small, Written
from transfer.waiting import or_undone, to_the_end


@dataclass
class ReceiveOptions:
    overwrite: Overwrite = field(default_factory=Overwrite)
    selected: Callable[[bytes, bool], bool] = lambda path, is_directory: True
    """Whether an entry is wanted; for a directory also when something below it may be."""
    label: bytes = b""
    """Of what is restored: a later run goes on with unfinished files that bear it."""
    everything: bool = True
    """Then unfinished files that nobody goes on with are removed."""


class _Planned(NamedTuple):
    """A small file, and what it is made of."""

    wanted: Wanted
    pieces: list[Piece]
    zeros: Extents

    @property
    def entry(self) -> Entry:
        return self.wanted.entry

    @property
    def weight(self) -> int:
        """Bytes that its frames may need of a slot; of a slice the whole block is fetched."""
        return BATCH if isinstance(self.entry.content, Slice) else self.entry.size


class FileReceiver:
    def __init__(
        self, pool: Pool, nodes: NodeReader, received: Received, options: ReceiveOptions,
        report: Report,
    ) -> None:  # fmt: skip
        self._pool, self._nodes, self._received = pool, nodes, received
        self._options, self._report = options, report
        self._streams = StreamReceiver(pool, nodes, received)
        self._leftovers: dict[tuple[Place, bytes], bytes] = {}
        self._groups, self._one_by_one = LinkGroups(self._single), asyncio.Lock()

    def left_over(self, place: Place, names: dict[bytes, bytes]) -> None:
        """Unfinished files in *place*, by their keys, with which to go on."""
        self._leftovers |= {(place, key): name for key, name in names.items()}

    async def all(self, place: Place, wanted: Sequence[Wanted]) -> None:
        batch: list[_Planned] = []
        for each in wanted:
            entry = each.entry
            if entry.link_group:
                if (linked := await self._groups.inode(place, each)) is not None:
                    await self._link(place, each, linked)
            elif entry.type is not FileType.FILE or entry.size > BATCH:
                await self._single(place, each)
            elif (plan := await self._plan(each)) is not None:
                if sum(other.weight for other in batch) + plan.weight > BATCH:
                    await self._small(place, batch)
                    batch = []
                batch.append(plan)
        await self._small(place, batch)

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
        (found,) = await self._pool.call(write_tasks.existing, place, [wanted.entry.name])
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
        return None if plan is None else (await self._small(place, [plan]))[0]

    async def _plan(self, wanted: Wanted) -> _Planned | None:
        unreadable: Extents = []
        pieces: list[Piece] = []
        zeros: Extents = []
        async for more, holes in batches(self._nodes, wanted.entry.content, unreadable):
            pieces += more
            zeros += holes
        if unreadable:
            self.damage(wanted.path, [f"{length} bytes at {at}" for at, length in unreadable])
            return None
        return _Planned(wanted, pieces, zeros)

    async def _small(self, place: Place, batch: Sequence[_Planned]) -> list[Written | None]:
        """Of each what was done; None: it stays, although it differs."""
        kept = await self._kept(place, [each for each in batch if each.wanted.there is not None])
        left = [
            each for each in batch
            if each.wanted.path not in kept and (each.wanted.there is None or each.wanted.replace)
        ]  # fmt: skip
        written = await self._written(place, left)
        done = kept | {each.wanted.path: one for each, one in zip(left, written, strict=True)}
        for each in batch:
            if each.wanted.path not in done:
                self.exists(each.wanted.path)
        return [done.get(each.wanted.path) for each in batch]

    async def _kept(self, place: Place, batch: Sequence[_Planned]) -> dict[bytes, Written]:
        """Those, by path, that are in the target already."""
        if not batch:
            return {}
        files = [
            Existing(each.entry, stat, _inline(each.entry.content), tuple(each.pieces),
                     tuple(each.zeros))
            for each in batch if (stat := each.wanted.there) is not None
        ]  # fmt: skip
        found = await self._pool.call(present_tasks.keep_files, place, files)
        kept = {
            each.wanted.path: done for each, done in zip(batch, found, strict=True)
            if done is not None
        }  # fmt: skip
        for each in batch:
            if (done := kept.get(each.wanted.path)) is not None:
                self._settle(each.wanted, done)
                self._received.bytes_kept += each.entry.size
        return kept

    async def _written(self, place: Place, batch: Sequence[_Planned]) -> list[Written]:
        if not batch:
            return []
        tries = 0

        async def work(worker: Leased) -> list[Written]:
            nonlocal tries
            tries += 1
            return await self._written_by(worker, place, batch, tries > 1)

        written = await self._pool.run(work)
        for each, done in zip(batch, written, strict=True):
            self._settle(each.wanted, done)
            if not (done.error or done.damaged):
                self._received.bytes_written += each.entry.size
        return written

    async def _written_by(
        self, worker: Leased, place: Place, batch: Sequence[_Planned], again: bool
    ) -> list[Written]:
        """Each from copies of its frames that open, if there are such."""
        written: dict[int, Written] = {}

        async def use(numbers: Sequence[int], frames: list[FrameAt]) -> list[Reference]:
            left = iter(frames)
            files = [_small(batch[n], left) for n in numbers]
            done: list[Written] = await worker.call(write_tasks.write_small, place, files, again)
            written.update(zip(numbers, done, strict=True))
            return [reference for one in done for reference in one.damaged]

        units = [each.pieces for each in batch]
        await used(self._nodes, worker, units, self._received, use)
        return [written[n] for n in range(len(batch))]

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
        done = await self._again(write_tasks.finish_large, place, entry, wanted.replace, temporary)
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

    def _settle(self, wanted: Wanted, done: Written) -> None:
        entry, path = wanted.entry, wanted.path
        if done.damaged:
            return self.damage(path, [str(reference) for reference in done.damaged])
        if done.error:
            return self.unwritable(path, done.error, done.passing)
        self.failed(path, list(done.failed))
        if entry.type is FileType.FILE:
            self._received.files += 1
            self._report.file_done(entry.size)

    def unwritable(self, path: bytes, why: str, passing: bool, code: str = "unwritable") -> None:
        self._received.unfinished |= passing
        self._report.warn(path, code, why)

    def failed(self, path: bytes, codes: Sequence[str]) -> None:
        for code in codes:
            self._report.warn(path, code, f"the caller may not set its {code}")

    def damage(self, path: bytes, what: Sequence[str]) -> None:
        shown = path.decode(errors="backslashreplace")
        self._received.damaged += [f"{shown}: {each}" for each in what]


def _small(planned: _Planned, frames: Iterator[FrameAt]) -> Small:
    """With the next of *frames*."""
    entry, taken = planned.entry, tuple(next(frames) for _ in planned.pieces)
    return Small(
        entry, entry.size, _inline(entry.content), taken, tuple(planned.zeros),
        planned.wanted.replace,
    )  # fmt: skip


def _inline(content: Content) -> bytes | None:
    return content.data if isinstance(content, Inline) else None


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
