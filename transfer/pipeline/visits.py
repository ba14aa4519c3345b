"""Ask workers for whole directories, those that wait at the same time together."""

from collections.abc import Sequence
from typing import NamedTuple

from transfer.errors import FormatError, FrameMissing
from transfer.formats.directory import decode_index
from transfer.formats.reference import Kind, Reference
from transfer.pipeline import visit_tasks
from transfer.pipeline.batching import Batcher
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.send import Sender
from transfer.pipeline.visit_tasks import ParentPage, Rules, Visit, Visited

TOGETHER = 16
MAX_PAGES = 2**20  # bytes of a directory's pages; one that has more is walked name by name


class ParentNodes(NamedTuple):
    """All that the parent point has of one directory: its pages, and IDs of its indexes."""

    pages: Sequence[ParentPage] = ()
    indexes: frozenset[bytes] = frozenset()


class Visits:
    def __init__(self, sender: Sender, nodes: NodeReader, rules: Rules) -> None:
        self._sender, self._nodes, self._rules = sender, nodes, rules
        self._visits: Batcher[Visit, Visited] = Batcher(
            sender.group, self._together, _size, limit=MAX_PAGES, count=TOGETHER,
            parallel=sender.pool.lanes,
        )  # fmt: skip

    async def ask(self, visit: Visit) -> Visited:
        return await self._visits.ask(visit)

    async def _together(self, visits: list[Visit]) -> list[Visited]:
        return await self._sender.pool.call(visit_tasks.visit, visits, self._rules)

    async def parent_nodes(self, root: Reference | None) -> ParentNodes | None:
        """None where they are too large, or damaged."""
        pages: list[ParentPage] = []
        indexes: set[bytes] = set()
        left, size = [root] if root is not None else [], 0
        try:
            while left:
                reference = left.pop()
                plain, children = await self._nodes.load(reference)
                if reference.kind is Kind.INDEX:
                    indexes.add(reference.id)
                    index = decode_index(reference.level, plain, children)
                    left += [child.child for child in reversed(index)]
                    continue
                pages.append(ParentPage(reference, plain, children))
                size += len(plain)
                if size > MAX_PAGES:
                    return None
        except (FrameMissing, FormatError):
            return None
        return ParentNodes(pages, frozenset(indexes))


def _size(visit: Visit) -> int:
    return sum(len(page.plain) for page in visit.pages)
