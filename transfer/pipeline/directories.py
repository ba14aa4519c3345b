"""Build a directory's pages and indexes while its entries come in, in order.

Holds at most one page and one index per level. Where pages end: see formats/directory.py.
"""

from collections.abc import Sequence

from transfer.formats.directory import (
    MAX_ENTRIES,
    MAX_PAGE,
    IndexEntry,
    encode_index,
    encode_page,
)
from transfer.formats.entry import Entry, Inline, references_of
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.pipeline.send import Sender

_OVERHEAD = 128  # an entry's fixed part and its fields' heads, rounded up


class DirectoryBuilder:
    """*indexes* are the IDs of the parent point's indexes of this directory: they are not sent."""

    def __init__(self, sender: Sender, indexes: set[bytes]) -> None:
        self._sender, self._indexes = sender, indexes
        self._pages: set[bytes] = set()
        self._page: list[Entry] = []
        self._weight = self._children = 0
        self._levels: list[list[IndexEntry]] = []

    async def add(self, entry: Entry, cut: int, page: bytes | None = None) -> None:
        """The next entry; *page* is the ID of the parent's page where its name stood."""
        weight, children = _weight(entry), sum(1 for _ in references_of(entry))
        if self._page and (
            self._weight + weight > MAX_PAGE - 2
            or self._children + children > MAX_ENTRIES
            or len(self._page) == MAX_ENTRIES
        ):
            await self._end_page(0)
        self._page.append(entry)
        if page is not None:
            self._pages.add(page)
        self._weight += weight
        self._children += children
        if cut:
            await self._end_page(cut)

    async def finish(self) -> Reference | None:
        """The directory's root; None when it is empty."""
        if self._page:
            await self._end_page(0)
        level = 0
        while level < len(self._levels):
            nodes = self._levels[level]
            if level == len(self._levels) - 1 and len(nodes) == 1:
                return nodes[0].child
            if nodes:
                await self._end_index(level, 0)
            level += 1
        return None

    async def _end_page(self, cut: int) -> None:
        page, self._page = self._page, []
        self._weight = self._children = 0
        plain, children = encode_page(page)
        known, self._pages = frozenset(self._pages), set()
        reference = await self._sender.node(tag_of(Kind.PAGE), plain, children, known)
        await self._push(0, IndexEntry(page[0].name, reference), cut)

    async def _push(self, level: int, child: IndexEntry, cut: int) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(child)
        if cut > level + 1 or len(self._levels[level]) == MAX_ENTRIES:
            await self._end_index(level, cut)

    async def _end_index(self, level: int, cut: int) -> None:
        index, self._levels[level] = self._levels[level], []
        plain, children = encode_index(level + 1, index)
        tag, known = tag_of(Kind.INDEX, level + 1), frozenset(self._indexes)
        reference = await self._sender.node(tag, plain, children, known)
        await self._push(level + 1, IndexEntry(index[0].first_name, reference), cut)


def _weight(entry: Entry) -> int:
    """At least what the entry takes in a page."""
    inline = len(entry.content.data) if isinstance(entry.content, Inline) else 0
    xattrs: Sequence[tuple[bytes, bytes]] = entry.xattrs
    return (
        _OVERHEAD + len(entry.name) + len(entry.target) + len(entry.user) + len(entry.group)
        + len(entry.handle) + inline + sum(len(n) + len(v) + 5 for n, v in xattrs)
    )  # fmt: skip
