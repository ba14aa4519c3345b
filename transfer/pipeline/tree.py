"""Send a tree: walk it, compare with the parent point's tree, send what differs.

One task per directory, at most BRANCHES of them side by side (branches.py). Workers handle them
as a whole where they can (visits.py); memory for each: all that the parent point has of it, which
is less than MAX_PAGES, and at most FEW entries.

Of others, BY_NAME of them side by side, names are listed LISTED bytes at a time, and scanned
SCANNED at a time (see tasks.py); what follows the last end of a page waits for the next of them.
Memory for each: its listed names, 2 * SCANNED entries, and one page.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from transfer.errors import FormatError, FrameMissing
from transfer.files.directories import Place
from transfer.formats.directory import decode_page
from transfer.formats.entry import XATTRS_MAX, Entry, FileType, Root, encode_xattrs
from transfer.formats.reference import Reference
from transfer.pipeline import tasks
from transfer.pipeline.branches import Branches, Permits
from transfer.pipeline.directories import DirectoryBuilder
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.files import FileSender, Report
from transfer.pipeline.grouping import Found
from transfer.pipeline.leaf_tasks import Below, Built
from transfer.pipeline.resume import Proofs
from transfer.pipeline.send import Sender, Storing, acknowledged
from transfer.pipeline.visit_tasks import Looked, Rules, Same, Unreadable, Visit, joined
from transfer.pipeline.visits import ParentNodes, Visits
from transfer.policy.globs import Globs
from transfer.sources.base import Scanned

BRANCHES = 256
BY_NAME = 32


@dataclass
class TreeOptions:
    block_size: int
    exclude: Globs
    exclude_caches: bool = False
    one_file_system: bool = False
    never_enter: frozenset[tuple[int, int]] = frozenset()
    trusted_until: int = 0
    """ctime below which the parent's stat proves that a file is unchanged; 0: nothing does."""
    mounts: dict[bytes, bytes] = field(default_factory=dict)
    """File systems by the paths at which the parent point crossed into them."""
    proofs: Proofs | None = None

    @property
    def rules(self) -> Rules:
        return Rules(
            self.block_size, self.exclude, self.exclude_caches, self.one_file_system,
            self.never_enter, proofs=self.proofs,
        )  # fmt: skip


@dataclass
class _Directory:
    place: Place
    path: bytes
    device: int
    parent: "_ParentCursor"
    until: int
    is_mount: bool = False
    filesystem: bytes = b""
    lent: Permits | None = None
    """By the nearest one that it is in and that is walked by name."""


class _Placed(NamedTuple):
    """An entry, where a page may end after it, and the parent's page where its name stood."""

    entry: Entry
    cut: int
    page: bytes | None


class _ParentCursor:
    """The parent point's entries of one directory, asked for in ascending order of names."""

    def __init__(self, nodes: NodeReader, root: Reference | None) -> None:
        self.root, self.indexes = root, set[bytes]()
        self.page: bytes | None = None
        self._entries = nodes.entries(root, indexes=self.indexes)
        self._next: tuple[Entry, Reference] | None = None
        self._ended = root is None

    async def find(self, name: bytes) -> Entry | None:
        while not self._ended and (self._next is None or self._next[0].name < name):
            try:
                self._next = await anext(self._entries)
            except (StopAsyncIteration, FrameMissing, FormatError):
                # A damaged parent costs reading and comparing, never a wrong point.
                self._ended = True
                return None
        found = self._next
        if found is not None:
            self.page = found[1].id
        return found[0] if found is not None and found[0].name == name else None

    async def close(self) -> None:
        await self._entries.aclose()


class TreeSender:
    def __init__(
        self, sender: Sender, nodes: NodeReader, options: TreeOptions, report: Report,
        group: asyncio.TaskGroup,
    ) -> None:  # fmt: skip
        self.files = FileSender(sender, nodes, options.block_size, report, options.proofs)
        self.entries = self.sockets = 0
        self.mounts: dict[bytes, bytes] = {}
        self._sender, self._nodes, self._options = sender, nodes, options
        self._report, self._group = report, group
        # What an interrupted run has read is recalled file by file.
        self._rules = options.rules._replace(builds=not sender.resumes)
        self._visits = Visits(sender, nodes, self._rules)
        self._branches = Branches(group, BRANCHES, BY_NAME)

    async def send(self, place: Place, device: int, parent: Reference | None) -> Root:
        """Send the directory at *place*, the root of the item's PATH."""
        cursor = _ParentCursor(self._nodes, parent)
        return await self._send(_Directory(place, b"", device, cursor, self._options.trusted_until))

    async def _send(self, directory: _Directory) -> Root:
        try:
            return Root(await self._directory(directory))
        finally:
            await directory.parent.close()

    async def _directory(self, directory: _Directory) -> Reference | None:
        """In a worker as a whole, unless it finds something unusual."""
        nodes = await self._visited(directory)
        if nodes is None:
            return await self._by_name(directory, None)
        place, path, until = directory.place, directory.path, directory.until
        found, storing = await self._visits.ask(Visit(place, path, until, *nodes))
        match found:
            case Same():
                return await self._same(directory, found, nodes)
            case Built():
                return await self._built(directory, found, nodes, storing)
            case Unreadable(message):
                self._unreadable(directory, message)
                return None
        looked = found if self._branches.is_free(directory.lent) else None
        del found, nodes  # whoever waits for room holds nothing
        return await self._by_name(directory, looked)

    async def _by_name(self, directory: _Directory, looked: Looked | None) -> Reference | None:
        async with self._branches.large(directory.lent) as directory.lent:
            try:
                if directory.is_mount:
                    await self._sender.pool.call(tasks.sync_source, directory.place)
                if looked is None:
                    look = self._sender.pool.call(tasks.look_into, directory.place)
                    looked = Looked(*await look)
            except OSError as error:
                self._unreadable(directory, error.strerror or str(error))
                return None
            return await self._looked_into(directory, *looked)

    def _unreadable(self, directory: _Directory, message: str) -> None:
        self._report.warn(directory.place.path, "unreadable", message)

    async def _visited(self, directory: _Directory) -> ParentNodes | None:
        """What the parent has of a directory that a worker may compare with it."""
        trusts = self._sender.trust_parent or directory.parent.root is None
        is_unusual = directory.is_mount or directory.device in self.files.unstamped
        if is_unusual or not trusts:
            return None
        return await self._visits.parent_nodes(directory.parent.root)

    def _count(self, found: Same | Built) -> None:
        self.entries += found.entries
        self.sockets += found.sockets
        self.files.done(found.sizes)

    async def _same(
        self, directory: _Directory, found: Same, nodes: ParentNodes
    ) -> Reference | None:
        """Its pages are made anew if a directory in it has another root than before."""
        self._count(found)
        branches = [(each, await self._branch(directory, each)) for each in found.below]
        roots = {each.name: await task for each, task in branches}
        if all(roots[each.name].reference == each.before for each in found.below):
            return directory.parent.root
        entries = (
            (entry, found.cuts.get(entry.name, 0))
            for page in nodes.pages for entry in decode_page(page.plain, page.children)
        )  # fmt: skip
        return await self._with_roots(entries, roots, nodes)

    async def _built(
        self, directory: _Directory, found: Built, nodes: ParentNodes, storing: Storing
    ) -> Reference | None:
        branches = [(each, await self._branch(directory, each)) for each in found.below]
        await acknowledged(storing)
        self._count(found)
        if not branches:
            return found.root
        roots = {each.name: await task for each, task in branches}
        return await self._with_roots(found.entries_open, roots, nodes)

    async def _with_roots(
        self, entries: Iterable[tuple[Entry, int]], roots: dict[bytes, Root], nodes: ParentNodes
    ) -> Reference | None:
        pages = frozenset(page.reference.id for page in nodes.pages)
        builder = DirectoryBuilder(self._sender, set(nodes.indexes), pages)
        for entry, cut in entries:
            content = roots.get(entry.name, entry.content)
            await builder.add(entry._replace(content=content), cut)
        return await builder.finish()

    async def _looked_into(
        self, directory: _Directory, listing: tasks.Listing, scan: tasks.Scan
    ) -> Reference | None:
        if listing.pseudo:
            return None
        directory.filesystem = listing.filesystem
        if directory.is_mount:
            self._cross(directory)
        if not listing.is_stamped:  # everything is read
            directory.until = 0
            self.files.unstamped.add(directory.device)
        builder = DirectoryBuilder(self._sender, directory.parent.indexes)
        async with aclosing(self._entries(directory, listing, scan)) as entries:
            async for each in entries:
                await builder.add(*each)
        return await builder.finish()

    def _cross(self, directory: _Directory) -> None:
        """Below a mount point stat proves something only if the same file system was there."""
        self.mounts[directory.path] = directory.filesystem
        if self._options.mounts.get(directory.path) == directory.filesystem:
            directory.until = self._options.trusted_until
        else:
            directory.until = 0

    async def _entries(
        self, directory: _Directory, listing: tasks.Listing, scan: tasks.Scan | None
    ) -> AsyncGenerator[_Placed, None]:
        if listing.is_cache and self._options.exclude_caches:
            listing, scan = listing._replace(names=[tasks.CACHE_NAME], more=False), None
        left: list[Scanned] = []
        async for found in self._scans(directory, listing, scan):
            scanned = left + found
            whole = _whole_runs(scanned)
            for each in await self._part(directory, scanned[:whole]):
                yield each
            left = scanned[whole:]
        if left:
            for each in await self._part(directory, left):
                yield each

    async def _scans(
        self, directory: _Directory, listing: tasks.Listing, scan: tasks.Scan | None
    ) -> AsyncGenerator[list[Scanned], None]:
        """What is in a directory; *scan* is that of its first names, if it was made."""
        while True:
            names = listing.names
            for first in range(0, len(names), tasks.SCANNED):
                if scan is None:
                    scan = await self._scan(directory, names[first : first + tasks.SCANNED])
                yield self._found(directory, scan)
                scan = None
            if not listing.more:
                return
            listing = await self._sender.pool.call(tasks.list_directory, directory.place, names[-1])

    async def _part(self, directory: _Directory, scanned: Sequence[Scanned]) -> list[_Placed]:
        """They begin and end where pages do."""
        entries: dict[bytes, Entry] = {}
        pages: list[bytes | None] = []
        files: list[Found] = []
        branches: list[tuple[Scanned, asyncio.Task[Root]]] = []
        runs = accumulate((each.cut > 0 for each in scanned[:-1]), initial=1)
        for run, each in zip(runs, scanned, strict=False):
            before = await directory.parent.find(each.entry.name)
            pages.append(directory.parent.page)
            if each.stat.type is FileType.DIRECTORY:
                below = Below.of(each, before)
                branches.append((each, await self._branch(directory, below)))
            elif each.stat.type is FileType.FILE:
                files.append(Found(each, before, run))
            else:
                entries[each.entry.name] = each.entry

        async def rescan(name: bytes) -> Scanned | None:
            found = self._found(directory, await self._scan(directory, [name]))
            return found[0] if found else None

        entries |= await self.files.send(directory.place, files, directory.until, rescan)
        for each, task in branches:
            entries[each.entry.name] = each.entry._replace(content=await task)
        self.entries += len(entries)
        return [
            _Placed(await self._finished(entries[each.entry.name]), each.cut, page)
            for each, page in zip(scanned, pages, strict=True)
            if each.entry.name in entries
        ]

    async def _scan(self, directory: _Directory, names: Sequence[bytes]) -> tasks.Scan:
        return await self._sender.pool.call(
            tasks.scan_names, directory.place, names, directory.filesystem
        )

    def _found(self, directory: _Directory, scan: tasks.Scan) -> list[Scanned]:
        """What is to be in the point; the rest is counted or reported."""
        scanned, skipped, sockets = scan
        self.sockets += sockets
        for entry in skipped:
            self._report.warn(directory.place.child(entry.name).path, entry.code, entry.message)
        return [each for each in scanned if self._rules.includes(directory.path, each)]

    async def _branch(self, directory: _Directory, each: Below) -> asyncio.Task[Root]:
        device, _ = each.identity
        is_mount = device != directory.device
        if self._options.one_file_system and is_mount:
            return self._group.create_task(_nothing())
        below = _Directory(
            directory.place.child(each.name)._replace(pin=each.identity),
            joined(directory.path, each.name), device,
            _ParentCursor(self._nodes, each.before), directory.until, is_mount,
            lent=directory.lent,
        )  # fmt: skip
        return await self._branches.start(self._send(below))

    async def _finished(self, entry: Entry) -> Entry:
        raw = encode_xattrs(entry.xattrs)
        if len(raw) <= XATTRS_MAX:
            return entry
        return entry._replace(xattrs=(), xattr_stream=await self._sender.content(raw))


def _whole_runs(scanned: Sequence[Scanned]) -> int:
    """How many of them end with a name after which a page ends; all, if that is long in coming."""
    ends = [number for number, each in enumerate(scanned, 1) if each.cut]
    if not ends and len(scanned) > tasks.SCANNED:
        return len(scanned)
    return ends[-1] if ends else 0


async def _nothing() -> Root:
    return Root(None)
