"""Start-time fair queueing, hierarchical: who is granted the next bytes, and when.

    total -> up, down -> restore, backup, seed -> flows

Each share of the tree may have buckets that bound it, and what it gets while its siblings wait
goes by its weight. A large ask is served in steps of the smallest quantum on its way, so it holds
nobody up, and no promise reaches further into the future than one of them. A start tag is the
virtual time at which a share's next step is due: S = max(V, F of the step before), F = S + bytes /
weight, the least S goes first, V is the S of what was served last (Goyal, Vin and Cheng, 1996).

A share that waits for a bucket of its own loses its turn and saves none up: lifting a ceiling
that held for an hour must not shut its siblings out for minutes.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from itertools import count
from typing import NamedTuple, Protocol

from transfer.policy.token_bucket import Hold

# Virtual time counts in 2**-20 bytes of weight 1: what the division by a weight loses is nothing.
_SCALE = 20


class Bucket(Protocol):
    """What bounds a share; `policy.token_bucket.TokenBucket`, or one that processes share."""

    @property
    def rate(self) -> int: ...
    @property
    def burst(self) -> int: ...
    @property
    def quantum(self) -> int: ...
    @property
    def step(self) -> int: ...
    def level(self, now: int) -> int: ...
    def ready_at(self, amount: int, now: int) -> int | None: ...
    def take(self, amount: int, now: int, hold: Hold | None = None) -> None: ...
    def give_back(self, hold: Hold, now: int) -> None: ...


class Ask:
    """*size* bytes that a flow waits for; *granted* of them it has."""

    __slots__ = ("began", "flow", "granted", "holds", "size")

    def __init__(self, flow: "Flow", size: int, began: int) -> None:
        self.flow, self.size, self.began, self.granted = flow, size, began, 0
        self.holds: dict[Bucket, Hold] = {}

    @property
    def left(self) -> int:
        return self.size - self.granted


class Choice(NamedTuple):
    """The step that is due next, and the first moment at which every bucket has it."""

    flow: "Flow"
    size: int
    at: int


class Share:
    """A part of what its parent has."""

    def __init__(self, parent: "Branch | None", weight: int) -> None:
        if weight < 1:
            raise ValueError(f"need a weight of at least 1, got {weight}")
        self.parent, self.weight = parent, weight
        self.path: tuple[Share, ...] = (self, *(parent.path if parent is not None else ()))
        """From here up to the root."""
        self._buckets: tuple[Bucket, ...] = ()
        self.start = self.finish = self.virtual = 0
        self.waiting = 0  # asks below

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """What bounds this share itself."""
        return self._buckets

    @buckets.setter
    def buckets(self, buckets: Iterable[Bucket]) -> None:
        self._buckets = tuple(buckets)
        self.refresh()

    def refresh(self) -> None:
        """After a change of buckets here or above."""
        raise NotImplementedError

    def choose(self, now: int, most: int) -> Choice | None:
        """What is due among all that wait below; *most* is the step of those above."""
        raise NotImplementedError

    def _most(self, most: int) -> int:
        for bucket in self._buckets:
            most = min(most, bucket.step)
        return most

    def _bounded(self, choice: Choice, now: int) -> Choice | None:
        if not self._buckets:
            return choice
        flow, size, at = choice
        for bucket in self._buckets:
            ready = bucket.ready_at(size, now)
            if ready is None:
                return None
            at = max(at, ready)
        return Choice(flow, size, at)


class Branch(Share):
    """A share that is shared out among shares."""

    def __init__(self, parent: "Branch | None" = None, weight: int = 1) -> None:
        super().__init__(parent, weight)
        self.children: list[Share] = []
        if parent is not None:
            parent.children.append(self)

    def refresh(self) -> None:
        for child in self.children:
            child.refresh()

    def choose(self, now: int, most: int) -> Choice | None:
        most = self._most(most)
        due, due_start, later = None, 0, None
        for child in self.children:
            choice = child.choose(now, most) if child.waiting else None
            bounded = self._bounded(choice, now) if choice is not None else None
            if choice is None or bounded is None:
                continue
            if choice.at > now:  # it waits for a bucket of its own: look again when it has it
                later = bounded if later is None or bounded.at < later.at else later
            elif due is None or child.start < due_start:
                due, due_start = bounded, child.start
        if due is None or (due.at > now and later is not None and later.at < due.at):
            return later
        return due


class Class(Share):
    """A share whose flows wait for it; a heap holds those that do, by their start tags."""

    def __init__(self, parent: Branch, weight: int) -> None:
        super().__init__(parent, weight)
        parent.children.append(self)
        self._order = count()
        self._heap: list[tuple[int, int, Flow]] = []
        self.refresh()

    def refresh(self) -> None:
        self.bounds = tuple(bucket for share in self.path for bucket in share.buckets)
        """All buckets from here up to the root; none is no limit."""

    def choose(self, now: int, most: int) -> Choice | None:
        flow = self.first()
        if flow is None:
            return None
        return self._bounded(Choice(flow, min(self._most(most), flow.asks[0].left), now), now)

    def first(self) -> "Flow | None":
        while self._heap and self._heap[0][2].entry != self._heap[0][1]:
            heapq.heappop(self._heap)  # it was cancelled, or moved
        return self._heap[0][2] if self._heap else None

    def place(self, flow: "Flow") -> None:
        """By its start tag, behind its equals; whatever place it had is void."""
        flow.start, flow.entry = max(self.virtual, flow.finish), next(self._order)
        heapq.heappush(self._heap, (flow.start, flow.entry, flow))
        if len(self._heap) > 64 and len(self._heap) > 4 * self.waiting:
            self._heap = [each for each in self._heap if each[2].entry == each[1]]
            heapq.heapify(self._heap)


class Flow:
    """One connection, or whoever else asks for bytes one after another."""

    def __init__(self, share: Class, weight: int = 1) -> None:
        if weight < 1:
            raise ValueError(f"need a weight of at least 1, got {weight}")
        self.share, self.weight = share, weight
        self.asks: deque[Ask] = deque()
        self.start = self.finish = 0
        self.entry = -1  # in its class's heap; -1 is nowhere


class FairQueue:
    """All that wait below *root*; `serve` at each ask, cancel or change, and when it says."""

    def __init__(self, root: Branch) -> None:
        self.root = root

    def ask(self, flow: Flow, size: int, now: int) -> Ask:
        ask = Ask(flow, size, now)
        flow.asks.append(ask)
        for share in flow.share.path:
            if share.waiting == 0 and share.parent is not None:
                share.start = max(share.parent.virtual, share.finish)
            share.waiting += 1
        if flow.entry < 0:
            flow.share.place(flow)
        return ask

    def take(self, flow: Flow, size: int, now: int) -> bool:
        """Whether *size* bytes are granted at once: nobody waits, so no order is to be kept."""
        if self.root.waiting:
            return False
        bounds = flow.share.bounds
        for bucket in bounds:
            if size > bucket.step or bucket.level(now) < size:
                return False
        for bucket in bounds:
            bucket.take(size, now)
        return True

    def leads(self, ask: Ask) -> bool:
        """Whether *ask*, a new one, may change what `serve` said: others of its class go first."""
        return ask.flow.share.first() is ask.flow

    def serve(self, now: int) -> tuple[list[Ask], int | None]:
        """The asks that now have all that they asked for, and when to call again if anyone waits.

        None: nothing more will be granted until something changes.
        """
        done: list[Ask] = []
        while choice := self.root.choose(now, 1 << 62):
            if choice.at > now:
                return done, choice.at
            if (ask := self._grant(choice, now)) is not None:
                done.append(ask)
        return done, None

    def cancel(self, ask: Ask, now: int) -> None:
        """*ask* will not be used, served or not: its buckets and tags are as without it."""
        flow = ask.flow
        for bucket, hold in ask.holds.items():
            bucket.give_back(hold, now)
        flow.finish = _moved(flow.finish, -ask.granted, flow.weight)
        for share in flow.share.path:
            share.finish = _moved(share.finish, -ask.granted, share.weight)
            if share.parent is not None and share.waiting:
                share.start = max(share.parent.virtual, share.finish)
        if ask.left:
            self._leave(ask)

    def owe(self, ask: Ask, now: int) -> None:
        """Nobody waits for *ask* any more, but its bytes came: those not yet granted are debt."""
        if ask.left:
            self.charge(ask.flow, ask.left, now)
            self._leave(ask)

    def charge(self, flow: Flow, size: int, now: int) -> None:
        """*size* bytes go at once, whoever waits."""
        for bucket in flow.share.bounds:
            bucket.take(size, now)

    def _grant(self, choice: Choice, now: int) -> Ask | None:
        flow, size, _ = choice
        ask = flow.asks[0]
        ask.granted += size
        flow.share.virtual = max(flow.share.virtual, flow.start)
        flow.finish = _moved(flow.start, size, flow.weight)
        for share in flow.share.path:
            for bucket in share.buckets:
                bucket.take(size, now, ask.holds.setdefault(bucket, Hold()))
            if share.parent is not None:
                _serve(share, share.parent, size)
        if ask.left:
            flow.share.place(flow)
            return None
        self._leave(ask)
        return ask

    def _leave(self, ask: Ask) -> None:
        flow = ask.flow
        flow.asks.remove(ask)
        for share in flow.share.path:
            share.waiting -= 1
        flow.entry = -1
        if flow.asks:
            flow.share.place(flow)


def _serve(share: Share, parent: Branch, size: int) -> None:
    parent.virtual = max(parent.virtual, share.start)
    share.finish = _moved(share.start, size, share.weight)
    share.start = share.finish
    for sibling in parent.children:
        # One that waits and was due earlier had no tokens of its own: its turn is over.
        if sibling.waiting and sibling.start < parent.virtual:
            sibling.start = parent.virtual


def _moved(tag: int, size: int, weight: int) -> int:
    return tag + (size << _SCALE) // weight
