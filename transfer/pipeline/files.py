"""Send the content of a directory's files, and give back their whole entries.

What the parent point proves unchanged is not read. A file that changes while it is read is scanned
and read again; if it changes again, it is read as it comes, and reported: it may be torn.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from transfer.files.directories import Place
from transfer.formats.entry import Content, Entry, FileType, Inline
from transfer.formats.stream import Descriptor
from transfer.pipeline import tasks
from transfer.pipeline.batching import Window, task_group
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.grouping import (
    Found,
    Group,
    batched,
    grouped,
    ids_of,
    key_of,
    noted,
    recalled,
    shared_content,
)
from transfer.pipeline.resume import Proof, Proofs
from transfer.pipeline.send import Sender, Stored
from transfer.pipeline.streams import assemble, send_stream
from transfer.pipeline.workers import Leased
from transfer.sources.base import Scanned
from transfer.sources.reading import SourceChanged, SourceFile

AT_ONCE = 8  # batches or large files of a directory


class Report(Protocol):
    """Who hears how a run goes on."""

    def warn(self, path: bytes, code: str, message: str) -> None: ...
    def file_done(self, size: int) -> None: ...


@dataclass
class FileCounts:
    files: int = 0
    bytes_source: int = 0
    torn: bool = False
    """A file kept changing while it was read."""


Rescan = Callable[[bytes], Awaitable[Scanned | None]]


class FileSender:
    def __init__(
        self, sender: Sender, nodes: NodeReader, block_size: int, report: Report,
        proofs: Proofs | None = None,
    ) -> None:  # fmt: skip
        self.counts, self._proofs = FileCounts(), proofs
        self.unstamped: set[int] = set()
        """Devices on which no time tells whether a file was written."""
        self._sender, self._nodes = sender, nodes
        self._block_size, self._report = block_size, report
        # Content by inode, and how many names of it have not been seen yet.
        self._linked: dict[tuple[int, int], tuple[Content, int]] = {}

    async def send(
        self, place: Place, files: Sequence[Found], until: int, rescan: Rescan
    ) -> dict[bytes, Entry]:
        """The entries of *files*, by name; what could not be read is reported, and left out."""
        contents: dict[bytes, Content] = {}
        again: list[Found] = []
        small: list[Found] = []
        async with task_group() as group:
            window: Window[None] = Window(group, AT_ONCE)
            for each in files:
                if each.before is not None and each.is_unchanged(until, self._block_size):
                    contents[each.name] = each.before.content
                elif (content := self._known_link(each.scanned)) is not None:
                    contents[each.name] = content
                elif each.scanned.stat.size <= tasks.BATCH:
                    small.append(each)
                elif each.scanned.stat.nlink > 1:  # its other names shall find its content
                    await self._large(place, each, contents, again)
                else:
                    await window.add(self._large(place, each, contents, again))
            for batch in batched(grouped(small, self._block_size)):
                await window.add(self._small(place, batch, contents, again))
        entries = {
            each.name: self._finished(each.scanned, contents[each.name])
            for each in files if each.name in contents
        }  # fmt: skip
        for each in again:
            if (entry := await self._again(place, each, rescan)) is not None:
                entries[each.name] = entry
        return entries

    def done(self, sizes: Iterable[int]) -> None:
        """Files of so many bytes are in the point."""
        for size in sizes:
            self.counts.files += 1
            self.counts.bytes_source += size
            self._report.file_done(size)

    def _finished(self, scanned: Scanned, content: Content) -> Entry:
        self.done([scanned.stat.size])
        return scanned.entry._replace(content=content)

    def _known_link(self, scanned: Scanned) -> Content:
        """The content, if another name of the inode had it; forgotten with the last name."""
        content, left = self._linked.get(scanned.stat.identity, (None, 0))
        if left > 1:
            self._linked[scanned.stat.identity] = content, left - 1
        elif left:
            del self._linked[scanned.stat.identity]
        return content

    def _remember(self, scanned: Scanned, content: Content) -> None:
        if scanned.stat.nlink > 1:
            self._linked[scanned.stat.identity] = content, scanned.stat.nlink - 1

    async def _large(
        self, place: Place, each: Found, contents: dict[bytes, Content], again: list[Found]
    ) -> None:
        try:
            contents[each.name] = await self._stream(place, each.scanned, each.before, True)
        except SourceChanged:
            again.append(each)
        except OSError as error:
            self._unreadable(place, each.name, "unreadable", error.strerror or str(error))

    async def _small(
        self, place: Place, batch: Sequence[Group], contents: dict[bytes, Content],
        again: list[Found],
    ) -> None:  # fmt: skip
        batch = await self._not_recalled(batch, contents)
        reads = await self._read(place, batch, True)
        files = [each for group in batch for each in group]
        for each, read in zip(files, reads, strict=True):
            if read.code in ("changed", "replaced"):
                again.append(each)
            elif read.code:
                self._unreadable(place, each.name, read.code, read.message)
            else:
                contents[each.name] = await self._content(each.scanned, read)

    async def _not_recalled(
        self, batch: Sequence[Group], contents: dict[bytes, Content]
    ) -> list[Group]:
        """Those of *batch* that no interrupted run has read as they are."""
        keys = [self._key(group) for group in batch]
        asked = [
            (key, noted(group, self._block_size))
            for key, group in zip(keys, batch, strict=True) if key is not None
        ]  # fmt: skip
        known = await self._sender.recalled(asked)
        found = dict(zip((key for key, _ in asked), known, strict=True))
        left: list[Group] = []
        for group, key in zip(batch, keys, strict=True):
            ids = found.get(key) if key is not None else None
            if ids is None:
                left.append(group)
                continue
            for each, read in zip(group, recalled(group, ids), strict=True):
                contents[each.name] = await self._content(each.scanned, read)
                self._sender.sent.bytes_resumed += each.size
        return left

    def _proof(self, scanned: Scanned) -> Proof | None:
        if self._proofs is None or scanned.is_mounted or scanned.stat.dev in self.unstamped:
            return None
        return self._proofs.of(scanned.stat, scanned.entry.handle)

    def _key(self, group: Group) -> bytes | None:
        return key_of(group, self._proof)

    async def _again(self, place: Place, each: Found, rescan: Rescan) -> Entry | None:
        """Scan and read *each* once more, and at last without minding that it changes."""
        for strict in (True, False):
            scanned = await rescan(each.name)
            if scanned is None:
                return None
            if scanned.stat.type is FileType.DIRECTORY:
                break
            if scanned.stat.type is not FileType.FILE:
                return scanned.entry
            try:
                content = await self._one(place, scanned, each.before, strict)
            except SourceChanged:
                continue
            except OSError as error:
                self._unreadable(place, each.name, "unreadable", error.strerror or str(error))
                return None
            if not strict:
                self._torn(place, each.name)
            return self._finished(scanned, content)
        self._unreadable(place, each.name, "replaced", "it was replaced while it was read")
        return None

    async def _one(
        self, place: Place, scanned: Scanned, before: Entry | None, strict: bool
    ) -> Content:
        """Raises SourceChanged or OSError."""
        if scanned.stat.size > tasks.BATCH:
            return await self._stream(place, scanned, before, strict)
        read = (await self._read(place, [[Found(scanned, before)]], strict))[0]
        if read.code in ("changed", "replaced"):
            raise SourceChanged(read.code, scanned.entry.name)
        if read.code:
            raise OSError(read.message)
        return await self._content(scanned, read)

    async def _stream(
        self, place: Place, scanned: Scanned, before: Entry | None, strict: bool
    ) -> Content:
        file = SourceFile(place, scanned.entry.name, scanned.stat)
        old = before.content if before and isinstance(before.content, Descriptor) else None
        content = await send_stream(
            self._sender, self._nodes, file, scanned.stat.size, self._block_size, old, strict,
            proof=self._proof(scanned) if strict else None,
        )  # fmt: skip
        self._remember(scanned, content)
        return content

    async def _read(
        self, place: Place, groups: Sequence[Group], strict: bool
    ) -> list[tasks.FileRead]:
        """Of each file in order."""
        if not groups:
            return []
        files = [
            [SourceFile(place, each.name, each.scanned.stat) for each in group] for group in groups
        ]

        async def work(worker: Leased) -> tuple[list[tasks.FileRead], Stored | None]:
            found: tasks.FilesRead = await worker.call(
                tasks.read_files, files, self._block_size, strict
            )
            return found.files, await self._sender.blocks(worker, found.ids)

        reads, stored = await self._sender.pool.run(work)
        await self._sender.arrived(stored)
        self._sender.sent.bytes_read += sum(each.size for group in groups for each in group)
        if strict:
            await self._note(groups, reads)
        return reads

    async def _note(self, groups: Sequence[Group], reads: Sequence[tasks.FileRead]) -> None:
        left = iter(reads)
        ids = [(group, ids_of(list(islice(left, len(group))))) for group in groups]
        keys = [(self._key(group), some) for group, some in ids if some]
        await self._sender.note([(key, some) for key, some in keys if key is not None])

    async def _content(self, scanned: Scanned, read: tasks.FileRead) -> Content:
        content: Content
        if read.inline is not None:
            content = Inline(read.inline)
        else:
            size = scanned.stat.size
            content = shared_content(read, size)
            if content is None:
                content = await assemble(self._sender, size, self._block_size, read.ids)
        self._remember(scanned, content)
        return content

    def _unreadable(self, place: Place, name: bytes, code: str, message: str) -> None:
        self._report.warn(place.child(name).path, code, message)

    def _torn(self, place: Place, name: bytes) -> None:
        self.counts.torn = True
        message = "it changed while it was read; it may be torn"
        self._report.warn(place.child(name).path, "changed", message)
