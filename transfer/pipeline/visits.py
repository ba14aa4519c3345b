"""Ask workers for whole directories, those that wait at the same time together."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from transfer.errors import FormatError, FrameMissing
from transfer.formats.directory import decode_index
from transfer.formats.reference import Kind, Reference
from transfer.pipeline import leaf_tasks, visit_tasks
from transfer.pipeline.batching import Batcher
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.leaf_tasks import Built, Later
from transfer.pipeline.pages import ParentPage
from transfer.pipeline.send import Sender, Stored, Storing
from transfer.pipeline.visit_tasks import Rules, Visit, Visited
from transfer.pipeline.workers import Leased

TOGETHER = 16
MAX_PAGES = 2**17  # bytes of a directory's pages; one that has more is walked name by name
MAX_ASKED = 2**20  # bytes of pages in one message


class ParentNodes(NamedTuple):
    """All that the parent point has of one directory: its pages, and IDs of its indexes."""

    pages: Sequence[ParentPage] = ()
    indexes: frozenset[bytes] = frozenset()


class _Nodes(NamedTuple):
    """Frames back to back, in the order of their tags: (reference, length) of each."""

    raw: bytes
    sealed: Sequence[tuple[Reference, int]]

    def by_tag(self) -> Iterator["_Nodes"]:
        """Children come in other parts before what names them."""
        at = 0
        for _, some in groupby(self.sealed, key=lambda each: each[0].tag):
            part = list(some)
            end = at + sum(length for _, length in part)
            yield _Nodes(self.raw[at:end], part)
            at = end


_Answer = tuple[Visited | Later, Storing]


class Visits:
    def __init__(self, sender: Sender, nodes: NodeReader, rules: Rules) -> None:
        self._sender, self._nodes, self._rules = sender, nodes, rules
        self._visits: Batcher[Visit, _Answer] = Batcher(
            sender.group, self._together, _size, limit=MAX_ASKED, count=TOGETHER,
            parallel=sender.pool.lanes,
        )  # fmt: skip

    async def ask(self, visit: Visit) -> tuple[Visited, Storing]:
        """What is built is stored, and noted, when what is returned with it has ended."""
        while True:
            found, storing = await self._visits.ask(visit)
            if not isinstance(found, Later):
                return found, storing

    async def _together(self, visits: list[Visit]) -> list[_Answer]:
        stored: list[Stored | None] = []  # also those of a worker that died after it

        async def work(worker: Leased) -> tuple[list[Visited | Later], _Nodes]:
            found = await worker.call(visit_tasks.visit, visits, self._rules)
            built = [each for each in found if isinstance(each, Built)]
            if not built:
                return found, _Nodes(b"", [])
            ids = [id for each in built for id in each.ids]
            stored.append(await self._sender.blocks(worker, ids))
            sealed = await worker.call(leaf_tasks.seal_leaves)
            size = sum(length for _, length in sealed)
            return found, _Nodes(bytes(worker.slot[:size]), sealed)

        found, nodes = await self._sender.pool.run(work)
        built = [each for each in found if isinstance(each, Built)]
        storing = None
        if built:  # the next ones need not wait for it
            work_left = self._stored(built, stored, nodes)
            storing = await self._sender.under_way_with(len(nodes.raw), work_left)
        return [(each, storing) for each in found]

    async def _stored(
        self, built: Sequence[Built], stored: Sequence[Stored | None], nodes: _Nodes
    ) -> None:
        sender = self._sender
        for each in stored:
            await sender.arrived(each)
        sender.sent.bytes_read += sum(each.bytes_read for each in built)
        await sender.note([note for each in built for note in each.notes])
        for part in nodes.by_tag():
            named, lengths = zip(*part.sealed, strict=True)
            await sender.nodes(part.raw, named, lengths)

    async def parent_nodes(self, root: Reference | None) -> ParentNodes | None:
        """None where they are too large, or damaged."""
        if root is not None and root.kind is Kind.INDEX and root.level > 1:
            return None
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
