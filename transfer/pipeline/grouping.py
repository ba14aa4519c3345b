"""Which files of a directory are read together, and which of them share a block.

Files of more than INLINE_MAX and at most SHARED_MAX bytes are put back to back into shared blocks,
in the order of their names. A shared block ends

    before a file with which it would be larger than SHARED_BLOCK, or than the item's block size
    after a name after which a page of the directory ends

so it depends on names, sizes and contents alone, and what one file more, less or other changes ends
with the run of names between two such ends. A file with several names has a block of its own: each
directory that has one of them would have it in another block.

A file that is read again and is as the parent point has it stays as it is there, and its place in a
new block is left out. But where small files stand in many more blocks than they need, and all of
their run is read, they are put together anew: else what is left of old blocks would stay for ever.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from transfer.formats.entry import INLINE_MAX, Entry, FileType, Slice
from transfer.formats.reference import Reference
from transfer.formats.stream import Descriptor
from transfer.pipeline.tasks import BATCH
from transfer.sources.base import Scanned
from transfer.sources.quiet import SETTLED

MAX_FILES = 256  # read in one task
SHARED_MAX = 64 * 2**10
SHARED_BLOCK = 256 * 2**10
SCATTERED = 4  # times as many blocks as are needed: no more


class Kept(NamedTuple):
    """What the parent point has of a file in one block; *id* is empty where it does not say it, and
    may be the beginning of one.
    """

    content: Slice | Descriptor
    block: Reference
    id: bytes


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

    def kept(self, block_size: int) -> Kept | None:
        """What stays if the file is read and has this ID."""
        content = self.before.content if self.before is not None else None
        if isinstance(content, Slice) and self.scanned.stat.nlink == 1:
            kept = Kept(content, content.block, content.content_id)
        elif (
            isinstance(content, Descriptor) and content.root is not None
            and self.size <= block_size == content.block_size
        ):  # fmt: skip
            kept = Kept(content, content.root, content.root.id)
        else:
            return None
        return kept if content.length == self.size else None

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


def scattered(files: Sequence[Found], block_size: int) -> set[int]:
    """Runs whose small files the parent has in more than SCATTERED times the blocks they need."""
    small = [each for each in files if each.may_share(block_size)]
    blocks: defaultdict[int, set[Reference]] = defaultdict(set)
    for each in small:
        if (kept := each.kept(block_size)) is not None:
            blocks[each.run].add(kept.block)
    needed = Counter(group[0].run for group in grouped(small, block_size))
    return {run for run, some in blocks.items() if len(some) > SCATTERED * needed[run]}


def to_compare(small: Sequence[Found], unread: set[int], block_size: int) -> list[Found]:
    """*small* files, without a parent where all are to be put together anew.

    Of the runs that are *unread* some files stay where they are in any case.
    """
    anew = scattered(small, block_size) - unread
    return [each._replace(before=None) if each.run in anew else each for each in small]


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
