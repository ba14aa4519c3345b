"""Completeness: a node is complete when its children are good and complete, decided bottom-up."""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from transfer.formats.reference import Reference
from transfer.vault.base import MAX_MISSING


class Standing(IntEnum):
    MISSING = 0  # no good copy
    INCOMPLETE = 1  # good, but not known to be complete
    COMPLETE = 2


class Copies(Protocol):
    """What a vault knows about frames of one domain."""

    def standings(self, references: Sequence[Reference]) -> dict[Reference, Standing]:
        """One for each reference."""

    def children(self, reference: Reference) -> tuple[Reference, ...] | None:
        """Read from a good copy; None if there is none that can be read."""


class Closure(NamedTuple):
    completed: set[Reference]  # newly known to be complete
    missing: list[Reference]
    more: bool
    complete: bool  # all the roots


class Walk:
    """One memoised, iterative walk; trees of any depth and cycles end, a cycle incomplete."""

    def __init__(self, copies: Copies, limit: int = MAX_MISSING) -> None:
        self._copies, self._limit = copies, limit
        self._known: dict[Reference, bool | None] = {}  # None: still being walked
        self._completed: set[Reference] = set()
        self._missing: dict[Reference, None] = {}
        self._more = False

    def run(self, roots: Sequence[Reference]) -> Closure:
        self._look(roots)
        for root in roots:
            self._descend(root)
        complete = all(self._known[root] for root in roots)
        return Closure(self._completed, list(self._missing), self._more, complete)

    def _look(self, references: Sequence[Reference]) -> list[Reference]:
        """Learn the standings of *references*; those that must be walked come back."""
        asked = [reference for reference in references if reference not in self._known]
        found = self._copies.standings(asked) if asked else {}
        for reference, standing in found.items():
            if standing == Standing.COMPLETE:
                self._known[reference] = True
            elif standing == Standing.MISSING:
                self._miss(reference)
        return [reference for reference in references if reference not in self._known]

    def _miss(self, reference: Reference) -> None:
        self._known[reference] = False
        if len(self._missing) < self._limit:
            self._missing[reference] = None
        else:
            self._more = True

    def _descend(self, root: Reference) -> None:
        stack: list[tuple[Reference, tuple[Reference, ...], Iterator[Reference]]] = []
        self._enter(root, stack)
        while stack:
            node, children, ahead = stack[-1]
            child = next(ahead, None)
            if child is not None:
                self._enter(child, stack)
                continue
            stack.pop()
            self._known[node] = all(self._known[child] for child in children)
            if self._known[node]:
                self._completed.add(node)

    def _enter(
        self,
        node: Reference,
        stack: list[tuple[Reference, tuple[Reference, ...], Iterator[Reference]]],
    ) -> None:
        if node in self._known:
            return
        children = self._copies.children(node)
        if children is None:
            self._miss(node)
            return
        self._known[node] = None
        stack.append((node, children, iter(self._look(children))))
