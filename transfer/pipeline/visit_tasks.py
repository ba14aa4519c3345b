"""Visits: whole directories handled in a worker, so that their entries stay there.

What is as the parent point has it needs no more than that word: neither is it read, nor is a page
made of it. What differs is read and made at once (leaf_tasks.py). What is unusual goes back as it
was listed and scanned.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transfer.errors import FormatError
from transfer.files.directories import Place
from transfer.formats.entry import Entry, FileType, Root
from transfer.pipeline import tasks
from transfer.pipeline.grouping import Found
from transfer.pipeline.leaf_tasks import Below, Built, Later, Leaf, build
from transfer.pipeline.pages import ParentPage, entries_on, weight_of
from transfer.pipeline.resume import Proofs
from transfer.pipeline.worker_process import Lane
from transfer.policy.globs import Globs
from transfer.sources.base import Scanned
from transfer.sources.reflinked import is_copy

MAX_ANSWER = 2**20  # bytes after which nothing more is put into it
_OVERHEAD = 16  # bytes of a name


class Rules(NamedTuple):
    """What of a tree is in the point, and how; *builds*: what differs is made at once."""

    block_size: int
    exclude: Globs
    exclude_caches: bool = False
    one_file_system: bool = False
    never_enter: frozenset[tuple[int, int]] = frozenset()
    builds: bool = False
    proofs: Proofs | None = None

    def includes(self, directory: bytes, each: Scanned) -> bool:
        """Of another file system a directory's place stays, empty; a file has none.

        *directory* is the path from the item's root.
        """
        is_directory = each.stat.type is FileType.DIRECTORY
        name = each.entry.name
        return (
            each.stat.identity not in self.never_enter
            and not is_copy(name)
            and not (self.one_file_system and each.is_mounted and not is_directory)
            and not self.exclude.excludes(joined(directory, name), is_directory)
        )


def joined(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


class Visit(NamedTuple):
    """A directory; the parent's *pages* of it are all, stat is trusted for ctimes below *until*.

    *path* is that from the item's root, *indexes* are IDs of the parent's.
    """

    place: Place
    path: bytes
    until: int
    pages: Sequence[ParentPage] = ()
    indexes: frozenset[bytes] = frozenset()

    @property
    def known(self) -> frozenset[bytes]:
        """IDs of all nodes that the parent has of it."""
        return self.indexes.union(page.reference.id for page in self.pages)


class Same(NamedTuple):
    """All is as the parent has it, but for what is *below*; *sizes* are those of the files.

    *cuts* are the levels of those names after which a page may end.
    """

    entries: int
    sizes: list[int]
    sockets: int
    below: list[Below]
    cuts: dict[bytes, int]


class Looked(NamedTuple):
    listing: tasks.Listing
    scan: tasks.Scan


class Unreadable(NamedTuple):
    message: str


Visited = Same | Built | Looked | Unreadable


def visit(lane: Lane[tasks.Tools], visits: Sequence[Visit], rules: Rules) -> list[Visited | Later]:
    """What follows one for which the lane or the answer has no room is not looked at."""
    found: list[Visited | Later] = []
    size, is_full = 0, False
    for each in visits:
        found.append(Later() if is_full else _visit(lane, each, rules))
        size += _size(found[-1])
        is_full = size > MAX_ANSWER or isinstance(found[-1], Later)
    return found


def _size(found: Visited | Later) -> int:
    """About what it takes in an answer; little but for names and entries."""
    if isinstance(found, Built):
        return sum(2 * weight_of(entry) for entry, _ in found.entries_open)
    if not isinstance(found, Looked):
        return 0
    names = sum(map(len, found.listing.names)) + _OVERHEAD * len(found.listing.names)
    return names + sum(2 * weight_of(each.entry) for each in found.scan[0])


def _visit(lane: Lane[tasks.Tools], asked: Visit, rules: Rules) -> Visited | Later:
    try:
        listing, scan = tasks.look_into(lane, asked.place)
    except OSError as error:
        return Unreadable(error.strerror or str(error))
    looked = Looked(listing, scan)
    if listing.more or listing.pseudo or not listing.is_stamped:
        return looked
    if listing.is_cache and rules.exclude_caches:
        return looked
    found = _compared(lane, asked, rules, looked) or _built(lane, asked, rules, looked)
    return looked if found is None else found


def _built(
    lane: Lane[tasks.Tools], asked: Visit, rules: Rules, looked: Looked
) -> Built | Later | None:
    scanned, skipped, sockets = looked.scan
    if not rules.builds or skipped or len(looked.listing.names) > tasks.SCANNED:
        return None
    scanned = [each for each in scanned if rules.includes(asked.path, each)]
    leaf = Leaf(asked.place, scanned, asked.until, asked.pages, asked.known)
    found = build(lane, leaf, rules.block_size, rules.proofs)
    return found._replace(sockets=sockets) if isinstance(found, Built) else found


def _compared(lane: Lane[tasks.Tools], asked: Visit, rules: Rules, looked: Looked) -> Same | None:
    """None where anything differs, or the parent's pages are damaged."""
    same = Same(0, [], 0, [], {})
    before = entries_on(asked.pages)
    entries = sockets = 0
    try:
        for scanned, skipped, sockets_here in _scans(lane, asked.place, looked):
            if skipped:
                return None
            sockets += sockets_here
            for each in scanned:
                if rules.includes(asked.path, each):
                    if not _is_same(each, next(before, None), asked.until, rules.block_size, same):
                        return None
                    entries += 1
        is_all = next(before, None) is None
    except FormatError:
        return None
    return same._replace(entries=entries, sockets=sockets) if is_all else None


def _scans(lane: Lane[tasks.Tools], place: Place, looked: Looked) -> Iterator[tasks.Scan]:
    yield looked.scan
    names, filesystem = looked.listing.names, looked.listing.filesystem
    for first in range(tasks.SCANNED, len(names), tasks.SCANNED):
        yield tasks.scan_names(lane, place, names[first : first + tasks.SCANNED], filesystem)


def _is_same(each: Scanned, before: Entry | None, until: int, block_size: int, same: Same) -> bool:
    """Whether *each* is as *before*, as far as can be known here; then it is counted."""
    if before is None or each.entry._replace(content=before.content) != before:
        return False
    if each.stat.type is FileType.FILE:
        if not Found(each, before).is_unchanged(until, block_size):
            return False
        same.sizes.append(each.stat.size)
    elif each.stat.type is FileType.DIRECTORY:
        if not isinstance(before.content, Root):
            return False
        same.below.append(Below.of(each, before))
    if each.cut:
        same.cuts[before.name] = each.cut
    return True
