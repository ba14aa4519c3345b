"""Send the content of a directory's files, and give back their whole entries.

What the parent point proves unchanged is not read, and what is read and is as the parent has it
stays as it is there. A file that changes while it is read is scanned and read again; if it changes
again, it is read as it comes, and reported: it may be torn.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from transfer.files.directories import Place
from transfer.formats.entry import Content, Entry, FileType
from transfer.formats.stream import Descriptor
from transfer.pipeline import tasks
from transfer.pipeline.batching import Window
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.grouping import Found, Group, batched, grouped, to_compare
from transfer.pipeline.resume import Proof, Proofs, Question
from transfer.pipeline.send import Sender, Stored
from transfer.pipeline.small_reads import (
    group_key,
    kept_key,
    known_content,
    notes_of,
    proof_of,
    question,
    recalled,
    small_file,
)
from transfer.pipeline.stream_nodes import ParentStream
from transfer.pipeline.streams import assemble, send_stream
from transfer.pipeline.workers import Leased
from transfer.sources.base import Scanned
from transfer.sources.reading import SourceChanged, SourceFile
from transfer.waiting import task_group

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
        if not self._sender.trust_parent:
            files = [each._replace(before=None) for each in files]
        contents: dict[bytes, Content] = {}
        again: list[Found] = []
        small: list[Found] = []
        unread: set[int] = set()
        async with task_group() as group:
            window: Window[None] = Window(group, AT_ONCE)
            for each in files:
                if each.before is not None and each.is_unchanged(until, self._block_size):
                    contents[each.name] = each.before.content
                    unread.add(each.run)
                elif (content := self._known_link(each.scanned)) is not None:
                    contents[each.name] = content
                elif each.scanned.stat.size <= tasks.BATCH:
                    small.append(each)
                elif each.scanned.stat.nlink > 1:  # its other names shall find its content
                    await self._large(place, each, contents, again)
                else:
                    await window.add(self._large(place, each, contents, again))
            small = to_compare(small, unread, self._block_size)
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
        if self._sender.resumes:
            batch = await self._not_recalled(await self._not_kept(batch, contents), contents)
        reads = await self._read(place, batch, True)
        files = [each for group in batch for each in group]
        for each, read in zip(files, reads, strict=True):
            if read.code in ("changed", "replaced"):
                again.append(each)
            elif read.code:
                self._unreadable(place, each.name, read.code, read.message)
            else:
                contents[each.name] = await self._content(each, read)

    async def _not_kept(
        self, batch: Sequence[Group], contents: dict[bytes, Content]
    ) -> list[Group]:
        """*batch* without what an interrupted run has found to be as the parent has it."""
        keys = {
            each.name: kept_key(each, self._proof, self._block_size)
            for group in batch
            for each in group
        }
        asked = {name: Question(key, 1) for name, key in keys.items() if key is not None}
        found = await self._sender.recalled(list(asked.values()))
        kept = {name for name, ids in zip(asked, found, strict=True) if ids is not None}
        for each in (each for group in batch for each in group if each.name in kept):
            contents[each.name] = await self._content(each, tasks.FileRead(is_kept=True))
            self._sender.sent.bytes_resumed += each.size
        left = [[each for each in group if each.name not in kept] for group in batch]
        return [group for group in left if group]

    async def _not_recalled(
        self, batch: Sequence[Group], contents: dict[bytes, Content]
    ) -> list[Group]:
        """Those of *batch* that no interrupted run has read as they are."""
        keys = [group_key(group, self._proof) for group in batch]
        asked = [
            question(key, group, self._block_size)
            for key, group in zip(keys, batch, strict=True) if key is not None
        ]  # fmt: skip
        known = await self._sender.recalled(asked)
        found = dict(zip((each.key for each in asked), known, strict=True))
        left: list[Group] = []
        for group, key in zip(batch, keys, strict=True):
            ids = found.get(key) if key is not None else None
            if ids is None:
                left.append(group)
                continue
            for each, read in zip(group, recalled(group, ids), strict=True):
                contents[each.name] = await self._content(each, read)
                self._sender.sent.bytes_resumed += each.size
        return left

    def _proof(self, scanned: Scanned) -> Proof | None:
        return None if scanned.stat.dev in self.unstamped else proof_of(self._proofs, scanned)

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
        found = Found(scanned, before)
        read = (await self._read(place, [[found]], strict))[0]
        if read.code in ("changed", "replaced"):
            raise SourceChanged(read.code, scanned.entry.name)
        if read.code:
            raise OSError(read.message)
        return await self._content(found, read)

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
        files = [[small_file(place, each, self._block_size) for each in group] for group in groups]
        known = await self._known(groups)

        async def work(worker: Leased) -> tuple[list[tasks.FileRead], Stored | None]:
            found: tasks.FilesRead = await worker.call(
                tasks.read_files, files, self._block_size, strict
            )
            return found.files, await self._sender.blocks(worker, found.ids, known)

        reads, stored = await self._sender.pool.run(work)
        await self._sender.arrived(stored)
        self._sender.sent.bytes_read += sum(each.size for group in groups for each in group)
        if strict:
            notes = notes_of(groups, reads, self._proof, self._block_size)
            await self._sender.note(notes)
        return reads

    async def _known(self, groups: Sequence[Group]) -> frozenset[bytes]:
        """What the parent has of the files of several blocks; they have no group."""
        before = [
            self._stream_before(group[0]) for group in groups if group[0].size > self._block_size
        ]
        known = await asyncio.gather(*(stream.around(0, 0) for stream in before))
        return frozenset[bytes]().union(*known)

    def _stream_before(self, each: Found) -> ParentStream:
        content = each.before.content if each.before is not None else None
        return ParentStream(self._nodes, content if isinstance(content, Descriptor) else None)

    async def _content(self, each: Found, read: tasks.FileRead) -> Content:
        content = known_content(each, read)
        if content is None:
            before = self._stream_before(each)
            content = await assemble(self._sender, each.size, self._block_size, read.ids, before)
        self._remember(each.scanned, content)
        return content

    def _unreadable(self, place: Place, name: bytes, code: str, message: str) -> None:
        self._report.warn(place.child(name).path, code, message)

    def _torn(self, place: Place, name: bytes) -> None:
        self.counts.torn = True
        message = "it changed while it was read; it may be torn"
        self._report.warn(place.child(name).path, "changed", message)
