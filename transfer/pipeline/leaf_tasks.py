"""Directories that are read in a worker; of leaves, without directories, no entry leaves it.

`build` keeps plaintext of blocks and nodes in the lane; `seal_leaves` seals the nodes once what the
vault lacks of the blocks is sealed (tasks.seal_kept). Of others the pages are made by the
parent process, once it has the roots of the directories in them. What is unusual, or was not as it
was scanned when it was read, is not made here.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, chain
from typing import NamedTuple, TypeVar

from transfer.errors import FormatError
from transfer.files.directories import Place
from transfer.formats.entry import (
    XATTRS_MAX,
    Content,
    Entry,
    FileType,
    Root,
    encode_xattrs,
)
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import FIXED, Descriptor, encode_node, root_tag
from transfer.pipeline import tasks
from transfer.pipeline.grouping import Found, Group, grouped, to_compare
from transfer.pipeline.pages import NodeParts, Pages, ParentPage, Steps, entries_on
from transfer.pipeline.resume import Proofs
from transfer.pipeline.sealing import frame_room
from transfer.pipeline.small_reads import Note, known_content, notes_of, proof_of, small_file
from transfer.pipeline.worker_process import Lane
from transfer.sources.base import Scanned

# Of nodes that are kept: what one leaf adds has room in the slot beside that.
MAX_NODES = 2**19
MAX_METADATA = 2**20  # bytes of a leaf's extended attributes and targets
FEW = 64  # entries of a directory with others in it, which the parent process holds meanwhile
T = TypeVar("T")


class Leaf(NamedTuple):
    """What was found in *place*, in order, and what the parent has of it, as in a Visit."""

    place: Place
    scanned: Sequence[Scanned]
    until: int
    pages: Sequence[ParentPage]
    known: frozenset[bytes]


class Below(NamedTuple):
    """A directory in a directory; *before* is its root in the parent point."""

    name: bytes
    identity: tuple[int, int]
    before: Reference | None

    @classmethod
    def of(cls, scanned: Scanned, before: Entry | None) -> "Below":
        """*before* is what the parent point has under its name."""
        root = before.content if before is not None else None
        reference = root.reference if isinstance(root, Root) else None
        return cls(scanned.entry.name, scanned.stat.identity, reference)


class Built(NamedTuple):
    """*entries_open* are all entries, with their cut levels, of a directory whose pages wait for
    the roots of those that are *below*; of a leaf there are none.

    *sizes* are those of the files. *ids* are those of the blocks that are kept, None for zeros.

    *notes* are to be noted when these are stored.
    """

    root: Reference | None
    entries: int
    sizes: list[int]
    bytes_read: int
    ids: list[bytes | None]
    notes: list[Note]
    below: list[Below]
    entries_open: list[tuple[Entry, int]]
    sockets: int = 0


class Later(NamedTuple):
    """The lane, or the answer, has no room for it beside what is before it."""


def build(
    lane: Lane[tasks.Tools], leaf: Leaf, block_size: int, proofs: Proofs | None
) -> Built | Later | None:
    if not _is_usual(leaf):
        return None
    try:
        contents, groups, below = _compared(leaf, block_size)
    except FormatError:
        return None  # a damaged parent is compared as far as it goes
    if below and len(leaf.scanned) > FEW:
        return None
    files = list(chain.from_iterable(groups))
    size = sum(each.size for each in files)
    if size > tasks.BATCH or any(map(partial(_is_unusual, block_size), files)):
        return None
    if not _has_room(lane, size):
        return Later()
    nodes: list[NodeParts] = lane.kept.setdefault("nodes", [])
    found = _read(lane, leaf.place, groups, block_size)
    if found is None:
        return None
    lane.kept["size"] = lane.kept.get("size", 0) + size
    for each, read in zip(files, found.files, strict=True):
        contents[each.name] = _content(lane, each, read, block_size, nodes)
    notes = notes_of(groups, found.files, partial(proof_of, proofs), block_size)
    entries = [
        (each.entry._replace(content=contents.get(each.entry.name)), each.cut)
        for each in leaf.scanned
    ]
    root = None if below else _paged(lane, leaf, entries, nodes)
    sizes = [each.stat.size for each in leaf.scanned if each.stat.type is FileType.FILE]
    left = entries if below else []
    return Built(root, len(entries), sizes, size, found.ids, notes, below, left)


def _is_usual(leaf: Leaf) -> bool:
    metadata = 0
    for each in leaf.scanned:
        xattrs = len(encode_xattrs(each.entry.xattrs))
        metadata += xattrs + len(each.entry.target)
        if xattrs > XATTRS_MAX:
            return False
    return metadata <= MAX_METADATA


def _is_unusual(block_size: int, file: Found) -> bool:
    """Other names of it shall find its content, or the parent may have some of its blocks."""
    has_stream = file.before is not None and file.size > block_size
    return has_stream or file.scanned.stat.nlink > 1


def _has_room(lane: Lane[tasks.Tools], size: int) -> bool:
    nodes: list[NodeParts] = lane.kept.get("nodes", [])
    taken = sum(frame_room(len(plain), len(children)) for _, plain, children, _ in nodes)
    return taken <= MAX_NODES and lane.kept.get("size", 0) + size <= tasks.BATCH


def _compared(leaf: Leaf, block_size: int) -> tuple[dict[bytes, Content], list[Group], list[Below]]:
    """The contents of files that are proven unchanged, the others, and the directories.

    Raises FormatError.
    """
    before: dict[bytes, Entry] = {entry.name: entry for entry in entries_on(leaf.pages)}
    contents: dict[bytes, Content] = {}
    new: list[Found] = []
    unread: set[int] = set()
    below: list[Below] = []
    runs = accumulate((each.cut > 0 for each in leaf.scanned[:-1]), initial=1)
    for run, scanned in zip(runs, leaf.scanned, strict=False):
        each = Found(scanned, before.get(scanned.entry.name), run)
        if scanned.stat.type is FileType.DIRECTORY:
            below.append(Below.of(scanned, each.before))
        elif scanned.stat.type is not FileType.FILE:
            continue
        elif each.before is not None and each.is_unchanged(leaf.until, block_size):
            contents[each.name] = each.before.content
            unread.add(run)
        else:
            new.append(each)
    return contents, grouped(to_compare(new, unread, block_size), block_size), below


def _read(
    lane: Lane[tasks.Tools], place: Place, groups: Sequence[Group], block_size: int
) -> tasks.FilesRead | None:
    """None, and nothing more is kept, if one cannot be read or has changed."""
    blocks: list[memoryview] = lane.kept.setdefault("blocks", [])
    shared: set[int] = lane.kept.setdefault("shared", set())
    kept = len(blocks)
    files = [[small_file(place, each, block_size) for each in group] for group in groups]
    found = tasks.read_files(lane, files, block_size, True)
    if not any(read.code for read in found.files):
        return found
    del blocks[kept:]
    shared.intersection_update(range(kept))
    return None


def _content(
    lane: Lane[tasks.Tools], each: Found, read: tasks.FileRead, block_size: int,
    nodes: list[NodeParts],
) -> Content:  # fmt: skip
    """A stream has one leaf at most, of which the parent has nothing."""
    content = known_content(each, read)
    if content is not None:
        return content
    id = read.ids[0] if read.ids else None
    if len(read.ids) > 1 and any(read.ids):
        plain, children = encode_node(1, read.ids)
        node = tag_of(Kind.STREAM, 1), plain, children, frozenset[bytes]()
        id = _identified(lane, nodes, node).id
    root = None if id is None else Reference(root_tag(each.size, block_size), id)
    return Descriptor(each.size, block_size, FIXED, root)


def _paged(
    lane: Lane[tasks.Tools], leaf: Leaf, entries: Sequence[tuple[Entry, int]],
    nodes: list[NodeParts],
) -> Reference | None:  # fmt: skip
    pages = Pages(set())
    for entry, cut in entries:
        _driven(lane, leaf, nodes, pages.add(entry, cut))
    return _driven(lane, leaf, nodes, pages.finish())


def _driven(lane: Lane[tasks.Tools], leaf: Leaf, nodes: list[NodeParts], steps: Steps[T]) -> T:
    try:
        node = next(steps)
        while True:
            node = steps.send(_identified(lane, nodes, (*node[:3], leaf.known)))
    except StopIteration as end:
        found: T = end.value
        return found


def _identified(lane: Lane[tasks.Tools], nodes: list[NodeParts], node: NodeParts) -> Reference:
    tag, plain, children, _ = node
    nodes.append(node)
    return Reference(tag, lane.tools.sealer.id_of(tag, children, plain))


def seal_leaves(lane: Lane[tasks.Tools]) -> list[tuple[Reference, int]]:
    """Seal the nodes that are kept into the slot, children first: (reference, frame length)."""
    nodes: list[NodeParts] = sorted(lane.kept.get("nodes", []), key=lambda node: node[0])
    sealed = tasks.seal_nodes(lane, nodes)
    return [
        (Reference(node[0], id), length) for node, (id, length) in zip(nodes, sealed, strict=True)
    ]
