"""Send a tree: walk it, compare with the parent point's tree, send what differs.

One task per directory, at most BRANCHES of them side by side; a directory beyond that is walked in
its parent's place, so neither depth nor width of a tree takes memory. Within a directory names are
taken CHUNK at a time. Memory per directory in work: its names, one chunk of entries, one page.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from transfer.errors import FormatError, FrameMissing
from transfer.files.directories import Place
from transfer.formats.entry import (
    XATTRS_MAX,
    Content,
    Entry,
    FileType,
    Inline,
    Root,
    encode_xattrs,
)
from transfer.formats.reference import Reference
from transfer.formats.stream import Descriptor
from transfer.pipeline import tasks
from transfer.pipeline.directories import DirectoryBuilder
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.send import Sender
from transfer.policy.globs import Globs
from transfer.sources.base import Scanned
from transfer.sources.reading import SourceChanged, SourceFile

BRANCHES = 32
CHUNK = 512
_SETTLED = 2 * 10**9  # ns; a ctime younger than this before the sync proves nothing


class Report(Protocol):
    def warn(self, path: bytes, code: str, message: str) -> None: ...


@dataclass
class TreeOptions:
    block_size: int
    exclude: Globs
    exclude_caches: bool = False
    one_file_system: bool = False
    never_enter: frozenset[tuple[int, int]] = frozenset()
    trusted_until: int = 0
    """ctime below which the parent's stat proves that a file is unchanged; 0: nothing does."""


@dataclass
class TreeCounts:
    files: int = 0
    entries: int = 0
    sockets: int = 0
    bytes_source: int = 0
    torn: bool = False
    """A file kept changing while it was read."""


@dataclass
class _Directory:
    place: Place
    path: bytes
    device: int
    parent: "_ParentCursor"
    filesystem: bytes = b""


class _ParentCursor:
    """The parent point's entries of one directory, asked for in ascending order of names."""

    def __init__(self, nodes: NodeReader, root: Reference | None) -> None:
        self.indexes: set[bytes] = set()
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
        self.counts = TreeCounts()
        self._sender, self._nodes, self._options = sender, nodes, options
        self._report, self._group = report, group
        self._branches = asyncio.Semaphore(BRANCHES)
        self._linked: dict[tuple[int, int], Content] = {}

    async def send(self, place: Place, path: bytes, device: int, parent: Reference | None) -> Root:
        """Send the directory at *place*, whose path in the item is *path*."""
        cursor = _ParentCursor(self._nodes, parent)
        directory = _Directory(place, path, device, cursor)
        try:
            return Root(await self._directory(directory))
        finally:
            await cursor.close()

    async def _directory(self, directory: _Directory) -> Reference | None:
        place = directory.place

        async def listing(worker: Any) -> tasks.Listing:
            found: tasks.Listing = await worker.call(tasks.list_directory, place)
            return found

        try:
            found = await self._sender.leased(listing)
        except OSError as error:
            self._report.warn(place.path, "unreadable", error.strerror or str(error))
            return None
        if found.pseudo:
            return None
        names = found.names
        if found.is_cache and self._options.exclude_caches:
            names = [b"CACHEDIR.TAG"]
        directory.filesystem = found.filesystem
        builder = DirectoryBuilder(self._sender, directory.parent.indexes)
        async with aclosing(self._entries(directory, names)) as entries:
            async for entry, cut, page in entries:
                await builder.add(entry, cut, page)
        return await builder.finish()

    async def _entries(
        self, directory: _Directory, names: Sequence[bytes]
    ) -> AsyncGenerator[tuple[Entry, int, bytes | None], None]:
        for first in range(0, len(names), CHUNK):
            for pair in await self._chunk(directory, names[first : first + CHUNK]):
                yield pair

    async def _chunk(
        self, directory: _Directory, names: Sequence[bytes]
    ) -> list[tuple[Entry, int, bytes | None]]:
        scanned = await self._scan(directory, names)
        contents: dict[bytes, Content] = {}
        pages: list[bytes | None] = []
        unread: set[bytes] = set()
        small: list[Scanned] = []
        branches: list[tuple[bytes, asyncio.Task[Root]]] = []
        for each in scanned:
            before = await directory.parent.find(each.entry.name)
            pages.append(directory.parent.page)
            if each.stat.type is FileType.DIRECTORY:
                task = await self._branch(directory, each, before)
                branches.append((each.entry.name, task))
            elif each.stat.type is FileType.FILE:
                await self._file(directory, each, before, contents, small, unread)
        for batch in _batches(small, self._options.block_size):
            await self._small_files(directory, batch, contents, unread)
        for name, task in branches:
            contents[name] = await task
        return [
            (await self._finished(each, contents.get(each.entry.name)), each.cut, page)
            for each, page in zip(scanned, pages, strict=True)
            if each.entry.name not in unread
        ]

    async def _scan(self, directory: _Directory, names: Sequence[bytes]) -> list[Scanned]:
        async def work(worker: Any) -> Any:
            return await worker.call(tasks.scan_names, directory.place, names)

        scanned, skipped, sockets = await self._sender.leased(work)
        self.counts.sockets += sockets
        for entry in skipped:
            self._report.warn(directory.place.child(entry.name).path, entry.code, entry.message)
        kept = [each for each in scanned if self._included(directory, each)]
        self.counts.entries += len(kept)
        return await self._grouped(directory, kept)

    def _included(self, directory: _Directory, each: Scanned) -> bool:
        is_directory = each.stat.type is FileType.DIRECTORY
        path = b"/".join(filter(None, (directory.path, each.entry.name)))
        return (
            each.stat.identity not in self._options.never_enter
            and not self._options.exclude.excludes(path, is_directory)
        )

    async def _grouped(self, directory: _Directory, scanned: list[Scanned]) -> list[Scanned]:
        linked = [
            each for each in scanned
            if each.stat.nlink > 1 and each.stat.type is not FileType.DIRECTORY
        ]  # fmt: skip
        if not linked:
            return scanned

        async def work(worker: Any) -> Any:
            handles = [each.entry.handle for each in linked]
            return await worker.call(tasks.link_group, directory.filesystem, handles)

        groups = dict(
            zip((e.entry.name for e in linked), await self._sender.leased(work), strict=True)
        )
        return [
            each._replace(entry=each.entry._replace(link_group=groups[each.entry.name]))
            if each.entry.name in groups else each
            for each in scanned
        ]  # fmt: skip

    async def _branch(
        self, directory: _Directory, each: Scanned, before: Entry | None
    ) -> asyncio.Task[Root]:
        name, stat = each.entry.name, each.stat
        if self._options.one_file_system and stat.dev != directory.device:
            return self._group.create_task(_nothing())
        root = before.content if before is not None else None
        parent = root.reference if isinstance(root, Root) else None
        path = b"/".join(filter(None, (directory.path, name)))
        work = self.send(directory.place.child(name), path, stat.dev, parent)
        if not self._branches.locked():
            await self._branches.acquire()
            task = self._group.create_task(work)
            task.add_done_callback(lambda _: self._branches.release())
            return task
        task = self._group.create_task(work)  # a task of its own: no recursion, however deep
        await asyncio.wait([task])
        return task

    async def _file(
        self, directory: _Directory, each: Scanned, before: Entry | None,
        contents: dict[bytes, Content], small: list[Scanned], unread: set[bytes],
    ) -> None:  # fmt: skip
        self.counts.files += 1
        self.counts.bytes_source += each.stat.size
        name = each.entry.name
        if before is not None and self._unchanged(each, before):
            contents[name] = before.content
        elif each.stat.nlink > 1 and each.stat.identity in self._linked:
            contents[name] = self._linked[each.stat.identity]
        elif each.stat.size > tasks.BATCH:
            parent = before.content if before is not None else None
            await self._large_file(directory, each, parent, contents, unread)
        else:
            small.append(each)

    def _unchanged(self, each: Scanned, before: Entry) -> bool:
        entry, until = each.entry, self._options.trusted_until
        return (
            before.type is FileType.FILE and before.size == each.stat.size
            and (before.mtime, before.ctime) == (entry.mtime, entry.ctime)
            and before.handle == entry.handle and entry.ctime < until - _SETTLED
            and not (isinstance(before.content, Descriptor)
                     and before.content.block_size != self._options.block_size)
        )  # fmt: skip

    async def _large_file(
        self, directory: _Directory, each: Scanned, parent: Content,
        contents: dict[bytes, Content], unread: set[bytes],
    ) -> None:  # fmt: skip
        name = each.entry.name
        file = SourceFile(directory.place, name, each.stat)
        stream = parent if isinstance(parent, Descriptor) else None
        size, block_size = each.stat.size, self._options.block_size
        try:
            content = await self._sender.stream(file, size, block_size, stream, True)
        except SourceChanged:
            self._torn(directory.place, name)
            try:
                content = await self._sender.stream(file, size, block_size, stream, False)
            except (SourceChanged, OSError) as error:
                return self._unread(directory.place, name, error, unread)
        except OSError as error:
            return self._unread(directory.place, name, error, unread)
        self._remember(each, content)
        contents[name] = content

    def _unread(self, place: Place, name: bytes, error: Exception, unread: set[bytes]) -> None:
        self._report.warn(place.child(name).path, "unreadable", str(error))
        unread.add(name)

    def _torn(self, place: Place, name: bytes) -> None:
        self.counts.torn = True
        self._report.warn(
            place.child(name).path, "changed", "it changed while it was read; it may be torn"
        )

    def _remember(self, each: Scanned, content: Content) -> None:
        if each.stat.nlink > 1:
            self._linked[each.stat.identity] = content

    async def _small_files(
        self, directory: _Directory, batch: Sequence[Scanned], contents: dict[bytes, Content],
        unread: set[bytes],
    ) -> None:  # fmt: skip
        files = [SourceFile(directory.place, each.entry.name, each.stat) for each in batch]
        block_size = self._options.block_size
        reads = await self._sender.small_files(files, block_size, True)
        for each, file, read in zip(batch, files, reads, strict=True):
            if read.code == "changed":
                read = (await self._sender.small_files([file], block_size, False))[0]
                self._torn(directory.place, each.entry.name)
            if read.code:
                path = directory.place.child(each.entry.name).path
                self._report.warn(path, read.code, read.message)
                unread.add(each.entry.name)
                continue
            content = await self._content(each, read)
            self._remember(each, content)
            contents[each.entry.name] = content

    async def _content(self, each: Scanned, read: tasks.FileRead) -> Content:
        if read.inline is not None:
            return Inline(read.inline)
        return await self._sender.assembled(each.stat.size, self._options.block_size, read.ids)

    async def _finished(self, each: Scanned, content: Content) -> Entry:
        entry = each.entry._replace(content=content)
        if len(encode_xattrs(entry.xattrs)) <= XATTRS_MAX:
            return entry
        raw = encode_xattrs(entry.xattrs)
        stream = await self._sender.bytes_stream(raw)
        return entry._replace(xattrs=(), xattr_stream=stream)


async def _nothing() -> Root:
    return Root(None)


def _batches(small: Sequence[Scanned], block_size: int) -> list[list[Scanned]]:
    """Runs of files, together at most one lane's room; a file takes at least a page of it."""
    batches: list[list[Scanned]] = []
    size = 0
    for each in small:
        if not batches or size + each.stat.size > tasks.BATCH or len(batches[-1]) == 256:
            batches.append([])
            size = 0
        batches[-1].append(each)
        size += each.stat.size
    return batches
