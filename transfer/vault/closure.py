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


class _Visit(NamedTuple):
    node: Reference
    sound: bool  # no child is known to be incomplete
    ahead: list[Reference]  # children that must be walked
    rest: Iterator[Reference]


class Walk:
    """One memoised, iterative walk; trees of any depth and cycles end, a cycle incomplete.

    Memory: some 250 bytes for each node that has to be walked and for each missing frame; nothing
    for what is known to be complete, which is all but everything.
    """

    def __init__(self, copies: Copies, limit: int = MAX_MISSING) -> None:
        self._copies, self._limit = copies, limit
        self._known: dict[Reference, bool] = {}  # False also while it is being walked
        self._completed: set[Reference] = set()
        self._missing: dict[Reference, None] = {}
        self._more = False

    def run(self, roots: Sequence[Reference]) -> Closure:
        ahead, sound = self._look(roots)
        for root in ahead:
            self._descend(root)
        complete = sound and all(self._known[root] for root in ahead)
        return Closure(self._completed, list(self._missing), self._more, complete)

    def _look(self, references: Sequence[Reference]) -> tuple[list[Reference], bool]:
        """Those of *references* that must be walked, and whether all the others are complete."""
        asked = [reference for reference in references if reference not in self._known]
        sound = all(self._known.get(reference, True) for reference in references)
        ahead: list[Reference] = []
        for reference, standing in (self._copies.standings(asked) if asked else {}).items():
            if standing == Standing.MISSING:
                self._miss(reference)
                sound = False
            elif standing == Standing.INCOMPLETE:
                ahead.append(reference)
        return ahead, sound

    def _miss(self, reference: Reference) -> None:
        self._known[reference] = False
        if len(self._missing) < self._limit:
            self._missing[reference] = None
        else:
            self._more = True

    def _descend(self, root: Reference) -> None:
        stack: list[_Visit] = []
        self._enter(root, stack)
        while stack:
            visit = stack[-1]
            child = next(visit.rest, None)
            if child is not None:
                self._enter(child, stack)
                continue
            stack.pop()
            if visit.sound and all(self._known[child] for child in visit.ahead):
                self._known[visit.node] = True
                self._completed.add(visit.node)

    def _enter(self, node: Reference, stack: list[_Visit]) -> None:
        if node in self._known:
            return
        children = self._copies.children(node)
        if children is None:
            self._miss(node)
            return
        self._known[node] = False
        ahead, sound = self._look(children)
        stack.append(_Visit(node, sound, ahead, iter(ahead)))
