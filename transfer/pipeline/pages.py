"""A directory's pages and indexes, made while its entries come in, in order.

Holds at most one page and one index per level. Where pages end: see formats/directory.py. Nodes are
yielded, children first, to whoever stores or identifies them and sends back their references.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from transfer.formats.directory import (
    MAX_ENTRIES,
    MAX_PAGE,
    IndexEntry,
    decode_page,
    encode_index,
    encode_page,
)
from transfer.formats.entry import Entry, Inline, references_of
from transfer.formats.reference import Kind, Reference, tag_of

_OVERHEAD = 128  # an entry's fixed part and its fields' heads, rounded up
T = TypeVar("T")
NodeParts = tuple[int, bytes, bytes, frozenset[bytes]]
"""(tag, plaintext, child list, IDs of those that the parent is known to have)."""
Steps = Generator[NodeParts, Reference, T]


class Pages:
    """*indexes* are the IDs of the parent point's indexes of this directory: they are not sent.

    Nor are *pages*, for whoever has those of all its pages at once.
    """

    def __init__(self, indexes: set[bytes], pages: frozenset[bytes] = frozenset()) -> None:
        self._indexes, self._all = indexes, pages
        self._pages: set[bytes] = set()
        self._page: list[Entry] = []
        self._weight = self._children = 0
        self._levels: list[list[IndexEntry]] = []

    def add(self, entry: Entry, cut: int, page: bytes | None = None) -> Steps[None]:
        """The next entry; *page* is the ID of the parent's page where its name stood."""
        weight, children = weight_of(entry), sum(1 for _ in references_of(entry))
        if self._page and (
            self._weight + weight > MAX_PAGE - 2
            or self._children + children > MAX_ENTRIES
            or len(self._page) == MAX_ENTRIES
        ):
            yield from self._end_page(0)
        self._page.append(entry)
        if page is not None:
            self._pages.add(page)
        self._weight += weight
        self._children += children
        if cut:
            yield from self._end_page(cut)

    def finish(self) -> Steps[Reference | None]:
        """The directory's root; None when it is empty."""
        if self._page:
            yield from self._end_page(0)
        level = 0
        while level < len(self._levels):
            nodes = self._levels[level]
            if level == len(self._levels) - 1 and len(nodes) == 1:
                return nodes[0].child
            if nodes:
                yield from self._end_index(level, 0)
            level += 1
        return None

    def _end_page(self, cut: int) -> Steps[None]:
        page, self._page = self._page, []
        self._weight = self._children = 0
        plain, children = encode_page(page)
        known, self._pages = self._all.union(self._pages), set()
        reference = yield tag_of(Kind.PAGE), plain, children, known
        yield from self._push(0, IndexEntry(page[0].name, reference), cut)

    def _push(self, level: int, child: IndexEntry, cut: int) -> Steps[None]:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(child)
        if cut > level + 1 or len(self._levels[level]) == MAX_ENTRIES:
            yield from self._end_index(level, cut)

    def _end_index(self, level: int, cut: int) -> Steps[None]:
        index, self._levels[level] = self._levels[level], []
        plain, children = encode_index(level + 1, index)
        tag, known = tag_of(Kind.INDEX, level + 1), frozenset(self._indexes)
        reference = yield tag, plain, children, known
        yield from self._push(level + 1, IndexEntry(index[0].first_name, reference), cut)


def weight_of(entry: Entry) -> int:
    """At least what the entry takes in a page."""
    inline = len(entry.content.data) if isinstance(entry.content, Inline) else 0
    xattrs: Sequence[tuple[bytes, bytes]] = entry.xattrs
    return (
        _OVERHEAD + len(entry.name) + len(entry.target) + len(entry.user) + len(entry.group)
        + len(entry.handle) + inline + sum(len(n) + len(v) + 5 for n, v in xattrs)
    )  # fmt: skip


class ParentPage(NamedTuple):
    """A page that the parent point has of a directory."""

    reference: Reference
    plain: bytes
    children: bytes


def entries_on(pages: Iterable[ParentPage]) -> Iterator[Entry]:
    """Raises FormatError when it comes to a page that is damaged."""
    for page in pages:
        yield from decode_page(page.plain, page.children)
