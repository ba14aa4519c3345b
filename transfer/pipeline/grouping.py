"""Which files of a directory are read together, and which of them share a block.

Files of more than INLINE_MAX and at most SHARED_MAX bytes are put back to back into shared blocks,
in the order of their names. A shared block ends

    before a file with which it would be larger than SHARED_BLOCK, or than the item's block size
    after a name after which a page of the directory ends

so it depends on names, sizes and contents alone, and what one file more, less or other changes ends
with the run of names between two such ends. A file with several names has a block of its own: each
directory that has one of them would have it in another block.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from transfer.formats.entry import INLINE_MAX, Entry, FileType, Slice
from transfer.formats.journal import Ids
from transfer.formats.reference import Reference
from transfer.formats.stream import Descriptor, block_count
from transfer.pipeline.resume import Proof, key_of_all
from transfer.pipeline.tasks import BATCH, DATA, FileRead
from transfer.sources.base import Scanned
from transfer.sources.quiet import SETTLED

MAX_FILES = 256  # read in one task
SHARED_MAX = 64 * 2**10
SHARED_BLOCK = 256 * 2**10


class Found(NamedTuple):
    """A file as it was scanned, what the parent point has under its name, and in which *run* of
    names between two ends of pages it is.
    """

    scanned: Scanned
    before: Entry | None
    run: int = 0

    @property
    def name(self) -> bytes:
        return self.scanned.entry.name

    @property
    def size(self) -> int:
        return self.scanned.stat.size

    def is_unchanged(self, until: int, block_size: int) -> bool:
        """True if the parent's stat, trusted for ctimes below *until*, proves it.

        What is mounted over a single name was not synced, and may be where no write is stamped.
        """
        entry, before = self.scanned.entry, self.before
        return (
            before is not None and not self.scanned.is_mounted
            and before.type is FileType.FILE and before.size == self.scanned.stat.size
            and (before.mtime, before.ctime) == (entry.mtime, entry.ctime)
            and before.handle == entry.handle and entry.ctime < until - SETTLED
            and not (isinstance(before.content, Descriptor)
                     and before.content.block_size != block_size)
        )  # fmt: skip

    def may_share(self, block_size: int) -> bool:
        small = INLINE_MAX < self.size <= min(SHARED_MAX, block_size)
        return small and self.scanned.stat.nlink == 1


Group = list[Found]
"""Files that are to share a block, or one that has blocks of its own, or none."""


def grouped(files: Sequence[Found], block_size: int) -> list[Group]:
    """All of *files*, which are in the order of their names."""
    groups: list[Group] = []
    last: Group = []
    room = run = 0
    for each in files:
        if not each.may_share(block_size):
            groups.append([each])
            continue
        if each.run != run or each.size > room:
            last, room, run = [], min(SHARED_BLOCK, block_size), each.run
            groups.append(last)
        last.append(each)
        room -= each.size
    return groups


def batched(groups: Sequence[Group]) -> list[list[Group]]:
    """Runs of groups, together at most what one lane keeps."""
    batches: list[list[Group]] = []
    size = count = 0
    for group in groups:
        length = sum(each.size for each in group)
        if not batches or size + length > BATCH or count + len(group) > MAX_FILES:
            batches.append([])
            size = count = 0
        batches[-1].append(group)
        size += length
        count += len(group)
    return batches


def key_of(group: Group, proof: Callable[[Scanned], Proof | None]) -> bytes | None:
    """Under which it is noted; None where nothing proves what one of them is."""
    keys: list[bytes] = []
    for each in group:
        found = proof(each.scanned)
        if found is None:
            return None
        keys.append(found.key(0, each.size))
    return keys[0] if len(keys) == 1 else key_of_all(keys)


def noted(group: Group, block_size: int) -> int:
    """How many IDs are noted of it."""
    return block_count(group[0].size, block_size) if len(group) == 1 else len(group)


def ids_of(reads: Sequence[FileRead]) -> Ids:
    """What is noted of a group: a file's blocks, or of each file the block that it is in.

    Nothing if it was not read as a whole, or is inline.
    """
    if len(reads) == 1:
        return reads[0].ids
    return tuple(read.ids[0] for read in reads) if all(read.ids for read in reads) else ()


def shared_content(read: FileRead, size: int) -> Slice | None:
    """The content of a file that has a part of a block; None for one with blocks of its own."""
    if read.offset is None or read.ids[0] is None:
        return None
    return Slice(Reference(DATA, read.ids[0]), read.offset, size)


def recalled(group: Group, ids: Ids) -> list[FileRead]:
    """What gave *ids* when it was read."""
    if len(group) == 1:
        return [FileRead(ids=ids)]
    reads: list[FileRead] = []
    is_shared, at = len(ids) - ids.count(None) > 1, 0
    for each, id in zip(group, ids, strict=True):
        reads.append(FileRead(ids=(id,), offset=at if is_shared and id is not None else None))
        at += each.size if id is not None else 0
    return reads
