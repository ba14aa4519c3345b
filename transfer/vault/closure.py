"""Completeness: a node is complete when its children are good and complete, decided bottom-up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

from transfer.formats.reference import Reference
from transfer.vault.base import MAX_MISSING

_ENTERING = 20  # rows that are read in the time that a node's own query and its frame take


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


@dataclass(slots=True)
class _Visit:
    node: Reference | None  # None above the roots
    children: Sequence[Reference]
    step: int  # in which the children were looked at
    sound: bool  # no child is known to be incomplete
    ahead: list[Reference]  # children that must be walked
    rest: Iterator[Reference]


class Walk:
    """One memoised, iterative walk; trees of any depth and cycles end, a cycle incomplete.

    It may be done in steps, between which frames come and others are found damaged: what is
    remembered from one step to the next is a plan, and no promise. A node is called complete only
    on what the same step has seen of it and of all its children.

    At most *limit* missing frames are named. Without *thorough* it ends as soon as there are more:
    whoever asked has its answer, and what else is complete or missing was not looked at.

    Memory: some 250 bytes for each node that has to be walked and for each missing frame that is
    seen; nothing for what is known to be complete, which is all but everything.
    """

    def __init__(
        self, roots: Sequence[Reference], limit: int = MAX_MISSING, *, thorough: bool = True
    ) -> None:
        self._limit, self._thorough = limit, thorough
        self._incomplete: set[Reference] = set()  # also while it is being walked
        self._completed: set[Reference] = set()  # in this step
        self._missing: dict[Reference, None] = {}
        self._more = self._complete = False
        self._step = self._looked = 0
        self._stack = [_Visit(None, roots, 0, False, [], iter(()))]

    def run(self, copies: Copies) -> Closure:
        self.step(copies)
        return self.closure

    @property
    def closure(self) -> Closure:
        """Of a walk that has ended; *completed* are those of its last step."""
        return Closure(self._completed, list(self._missing), self._more, self._complete)

    def step(self, copies: Copies, budget: int | None = None) -> set[Reference] | None:
        """Go on until some *budget* references were looked at; None at the end.

        Else what was completed, which is kept in the *copies* before the next step.
        """
        self._step, self._looked, self._completed = self._step + 1, 0, set()
        while self._stack and (self._thorough or not self._more):
            if budget is not None and self._looked >= budget:
                return self._completed
            visit = self._stack[-1]
            child = next(visit.rest, None)
            if child is not None:
                self._enter(copies, child)
            elif visit.step == self._step or not self._look_again(copies, visit):
                self._leave(self._stack.pop())
        return None

    def _enter(self, copies: Copies, node: Reference) -> None:
        if node in self._incomplete or node in self._completed:
            return
        self._looked += _ENTERING
        children = copies.children(node)
        if children is None:
            self._miss(node)
            return
        self._incomplete.add(node)
        ahead, sound = self._look(copies, children)
        self._stack.append(_Visit(node, children, self._step, sound, ahead, iter(ahead)))

    def _look_again(self, copies: Copies, visit: _Visit) -> bool:
        """At what earlier steps saw; whether there are children to be walked now."""
        visit.ahead, visit.sound = self._look(copies, visit.children)
        node = visit.node
        if node is not None and copies.standings((node,))[node] == Standing.MISSING:
            self._miss(node)
            visit.sound = False
        visit.step, visit.rest = self._step, iter(visit.ahead)
        return bool(visit.ahead)

    def _look(
        self, copies: Copies, references: Sequence[Reference]
    ) -> tuple[list[Reference], bool]:
        """Those of *references* that must be walked, and whether all the others are complete."""
        sound = self._incomplete.isdisjoint(references)
        asked = [
            reference
            for reference in references
            if reference not in self._incomplete and reference not in self._completed
        ]
        self._looked += len(asked)
        ahead: list[Reference] = []
        for reference, standing in (copies.standings(asked) if asked else {}).items():
            if standing == Standing.MISSING:
                self._miss(reference)
                sound = False
            elif standing == Standing.INCOMPLETE:
                ahead.append(reference)
        return ahead, sound

    def _miss(self, reference: Reference) -> None:
        self._incomplete.add(reference)
        if len(self._missing) < self._limit:
            self._missing[reference] = None
        else:
            self._more = True

    def _leave(self, visit: _Visit) -> None:
        complete = visit.sound and self._completed.issuperset(visit.ahead)
        if visit.node is None:
            self._complete = complete
        elif complete:
            self._incomplete.discard(visit.node)
            self._completed.add(visit.node)
