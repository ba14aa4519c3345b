"""Store a directory's pages and indexes while its entries come in, in order; see pages.py."""

from typing import TypeVar

from transfer.formats.entry import Entry
from transfer.formats.reference import Reference
from transfer.pipeline.pages import Pages, Steps
from transfer.pipeline.send import Sender

T = TypeVar("T")


class DirectoryBuilder:
    """*indexes* and *pages* as in `Pages`."""

    def __init__(
        self, sender: Sender, indexes: set[bytes], pages: frozenset[bytes] = frozenset()
    ) -> None:
        self._sender, self._pages = sender, Pages(indexes, pages)

    async def add(self, entry: Entry, cut: int, page: bytes | None = None) -> None:
        """The next entry; *page* is the ID of the parent's page where its name stood."""
        await self._stored(self._pages.add(entry, cut, page))

    async def finish(self) -> Reference | None:
        """The directory's root; None when it is empty."""
        return await self._stored(self._pages.finish())

    async def _stored(self, steps: Steps[T]) -> T:
        try:
            node = next(steps)
            while True:
                node = steps.send(await self._sender.node(*node))
        except StopIteration as end:
            found: T = end.value
            return found
