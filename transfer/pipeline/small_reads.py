"""Small files as workers are asked for them, and what follows from their answers: contents, and
notes from which an interrupted run is gone on with.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from transfer.files.directories import Place
from transfer.formats.entry import CONTENT_ID_SIZE, Content, Inline, Slice
from transfer.formats.journal import Ids
from transfer.formats.reference import Reference
from transfer.formats.stream import block_count
from transfer.pipeline.grouping import Found, Group
from transfer.pipeline.resume import Proof, Proofs, Question, key_of_all, key_of_kept
from transfer.pipeline.tasks import DATA, FileRead, SmallFile
from transfer.sources.base import Scanned
from transfer.sources.reading import SourceFile

Proving = Callable[[Scanned], Proof | None]
Note = tuple[bytes, Ids]
"""What was read under a key."""


def proof_of(proofs: Proofs | None, scanned: Scanned) -> Proof | None:
    """What is mounted over a single name was not synced."""
    if proofs is None or scanned.is_mounted:
        return None
    return proofs.of(scanned.stat, scanned.entry.handle)


def small_file(place: Place, each: Found, block_size: int) -> SmallFile:
    kept = each.kept(block_size)
    file = SourceFile(place, each.name, each.scanned.stat)
    return SmallFile(file, kept.id if kept is not None else b"")


def known_content(each: Found, read: FileRead) -> Content:
    """None where blocks of its own are still to be put together."""
    if read.is_kept and each.before is not None:
        return each.before.content
    if read.inline is not None:
        return Inline(read.inline)
    if read.offset is None or read.ids[0] is None:
        return None
    block = Reference(DATA, read.ids[0])
    return Slice(block, read.offset, each.size, read.own[:CONTENT_ID_SIZE])


def group_key(group: Group, proof: Proving) -> bytes | None:
    """Under which it is noted; None where nothing proves what one of them is."""
    keys: list[bytes] = []
    for each in group:
        found = proof(each.scanned)
        if found is None:
            return None
        keys.append(found.key(0, each.size))
    return keys[0] if len(keys) == 1 else key_of_all(keys)


def kept_key(each: Found, proof: Proving, block_size: int) -> bytes | None:
    """Under which it is noted that it is as the parent point has it."""
    key, kept = group_key([each], proof), each.kept(block_size)
    return key_of_kept(key, kept.content) if key is not None and kept is not None else None


def question(key: bytes, group: Group, block_size: int) -> Question:
    """For what `ids_of` noted of it."""
    if len(group) == 1:
        return Question(key, block_count(group[0].size, block_size))
    return Question(key, 1 + len(group), blocks=1)


def notes_of(
    groups: Iterable[Group], reads: Sequence[FileRead], proof: Proving, block_size: int
) -> list[Note]:
    """Of what was read in *groups*, in this order."""
    notes = _notes_of(groups, reads, proof, block_size)
    return [(key, ids) for key, ids in notes if key is not None]


def _notes_of(
    groups: Iterable[Group], reads: Sequence[FileRead], proof: Proving, block_size: int
) -> Iterator[tuple[bytes | None, Ids]]:
    left = iter(reads)
    for group in groups:
        pairs = list(zip(group, left, strict=False))  # in this order: it takes no more of them
        for each, read in pairs:
            if read.is_kept and (kept := each.kept(block_size)) is not None:
                yield kept_key(each, proof, block_size), (kept.block.id,)
        new = [(each, read) for each, read in pairs if not read.is_kept]
        if new and (ids := ids_of([read for _, read in new])):
            yield group_key([each for each, _ in new], proof), ids


def ids_of(reads: Sequence[FileRead]) -> Ids:
    """What is noted of a group: a file's blocks, or the block that all share, and their own IDs.

    Nothing if it was not read as a whole, or is inline.
    """
    if len(reads) == 1:
        return reads[0].ids
    if not all(read.ids for read in reads):
        return ()
    block = next((read.ids[0] for read in reads if read.own), None)
    return (block, *(read.own or None for read in reads))


def recalled(group: Group, ids: Ids) -> list[FileRead]:
    """What gave *ids* when it was read."""
    if len(group) == 1:
        return [FileRead(ids=ids)]
    reads: list[FileRead] = []
    block, *owns = ids
    shares, at = len(owns) - owns.count(None) > 1, 0
    for each, own in zip(group, owns, strict=True):
        if own is None:
            reads.append(FileRead(ids=(None,)))
            continue
        reads.append(FileRead(ids=(block,), offset=at if shares else None, own=own))
        at += each.size
    return reads
