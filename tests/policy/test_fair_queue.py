"""Flows share by weight whatever they ask for, the bound holds always, nobody is lost."""

import random
from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.policy.grants import Event, jain, violations
from transfer.policy.fair_queue import Branch, Class, FairQueue, Flow
from transfer.policy.token_bucket import SECOND, TokenBucket

RATE = 10**7
MILLISECOND = 10**6


class Tree:
    """total -> up, down -> classes, on a virtual clock; keeps the log of all grants."""

    def __init__(self, rate=RATE, **weights):
        self.now, self.rate = 0, rate
        self.total = Branch()
        self.up, self.down = Branch(self.total), Branch(self.total)
        weights = weights or {"restore": 4, "backup": 2, "seed": 1}
        self.classes = {name: Class(self.up, weight) for name, weight in weights.items()}
        self.below = Class(self.down, 1)
        self.bucket = TokenBucket(rate, 0)
        self.up.buckets = [self.bucket]
        self.queue = FairQueue(self.total)
        self.live, self.seen, self.log = [], {}, []

    def flow(self, name="backup", weight=1):
        return Flow(self.classes[name], weight)

    def ask(self, flow, size):
        ask = self.queue.ask(flow, size, self.now)
        self.live.append(ask)
        self.seen[ask] = 0
        return ask

    def serve(self):
        done, at = self.queue.serve(self.now)
        for ask in self.live:
            if ask.granted > self.seen[ask]:
                self.log.append([self.now, ask.granted - self.seen[ask], ask])
                self.seen[ask] = ask.granted
        self.live = [ask for ask in self.live if ask.left]
        assert done == [] or set(done).isdisjoint(self.live)
        return done, at

    def until(self, end, asks):
        """Each flow of *asks* asks for its size again and again; bytes by flow, longest wait."""
        got, longest = defaultdict(int), 0
        for flow, size in asks.items():
            self.ask(flow, size)
        while True:
            done, at = self.serve()
            for ask in done:
                got[ask.flow] += ask.size
                longest = max(longest, self.now - ask.began)
                self.ask(ask.flow, ask.size)
            if not done:
                if at is None or at > end:
                    self.now = end
                    return got, longest
                assert at > self.now
                self.now = at


def test_64_equal_flows_get_the_same_whatever_they_ask_for():
    tree = Tree()
    sizes = (1000, 16_384, 65_536, 262_144)
    flows = {tree.flow(): sizes[number % 4] for number in range(64)}
    tree.until(4 * SECOND, flows)
    got = defaultdict(int)
    for _, size, ask in tree.log:
        got[ask.flow] += size
    assert jain(got[flow] for flow in flows) >= 0.999
    assert sum(got.values()) == pytest.approx(4 * RATE, rel=0.002)


def test_no_flow_waits_longer_than_two_rounds():
    tree = Tree()
    flows = {tree.flow(): tree.bucket.quantum if number % 2 else 1000 for number in range(64)}
    _, longest = tree.until(4 * SECOND, flows)
    assert longest <= 2 * 64 * tree.bucket.quantum * SECOND // RATE + 10 * MILLISECOND


def test_weights_share_in_proportion():
    tree = Tree()
    flows = {tree.flow(weight=weight): 40_000 for weight in (1, 2, 4, 8) for _ in range(4)}
    tree.until(10 * SECOND, flows)
    got = defaultdict(int)
    for _, size, ask in tree.log:
        got[ask.flow] += size
    assert jain(got[flow] / flow.weight for flow in flows) >= 0.999


def by_class(tree, since=0):
    got = defaultdict(int)
    for at, size, ask in tree.log:
        if at >= since:
            got[ask.flow.share] += size
    return {name: got[share] for name, share in tree.classes.items()}


def test_classes_share_by_weight_however_many_flows_they_have():
    tree = Tree()
    flows = {tree.flow("seed"): 40_000 for _ in range(30)} | {tree.flow("restore"): 40_000}
    tree.until(5 * SECOND, flows)
    got = by_class(tree)
    assert got["restore"] / got["seed"] == pytest.approx(4, rel=0.01)


def test_what_a_class_leaves_is_shared_by_the_others():
    tree = Tree()
    tree.until(SECOND, {tree.flow("seed"): 40_000, tree.flow("backup"): 40_000})
    got = by_class(tree)
    assert got["backup"] / got["seed"] == pytest.approx(2, rel=0.02)
    assert sum(got.values()) == pytest.approx(RATE, rel=0.01)


def test_a_ceiling_holds_and_others_have_the_rest():
    tree = Tree()
    tree.classes["restore"].buckets = [TokenBucket(RATE // 10, 0)]
    tree.until(2 * SECOND, {tree.flow("restore"): 40_000, tree.flow("seed"): 40_000})
    got = by_class(tree)
    assert got["restore"] == pytest.approx(2 * RATE // 10, rel=0.01)
    assert sum(got.values()) == pytest.approx(2 * RATE, rel=0.01)


def test_a_ceiling_that_is_lifted_gives_no_arrears():
    tree = Tree()
    tree.classes["restore"].buckets = [TokenBucket(RATE // 100, 0)]
    flows = {tree.flow(name): 40_000 for name in ("restore", "restore", "seed")}
    tree.until(60 * SECOND, flows)
    tree.classes["restore"].buckets = []
    tree.until(61 * SECOND, {})
    got = by_class(tree, since=60 * SECOND)
    assert got["restore"] / got["seed"] == pytest.approx(4, rel=0.05)


def test_who_waits_for_its_ceiling_is_not_woken_later_than_that():
    """While the others wait for more than it needs."""
    tree = Tree(rate=1000)
    ceiling = TokenBucket(10**6, 0)
    ceiling.take(100_000, 0)
    tree.classes["restore"].buckets = [ceiling]
    small = tree.ask(tree.flow("restore"), 50)
    tree.ask(tree.flow("seed"), 512)
    _, tree.now = tree.serve()
    assert tree.now == 100 * MILLISECOND + 50_000
    assert tree.serve()[0] == [small]


def test_a_total_is_shared_by_both_directions_and_each_keeps_its_own():
    tree = Tree()
    total = TokenBucket(RATE, 0)
    tree.total.buckets = [total]
    tree.bucket.set_rate(RATE // 4, 0)
    down = Flow(tree.below)
    tree.until(2 * SECOND, {tree.flow(): 40_000, down: 40_000})
    got = defaultdict(int)
    for _, size, ask in tree.log:
        got[ask.flow is down] += size
    assert got[False] == pytest.approx(2 * RATE // 4, rel=0.01)
    assert got[True] == pytest.approx(2 * RATE * 3 // 4, rel=0.01)


def test_up_does_not_wait_for_a_paused_down():
    tree = Tree()
    tree.down.buckets = [TokenBucket(0, 0)]
    tree.ask(Flow(tree.below), 1000)
    tree.until(SECOND, {tree.flow(): 40_000})
    assert sum(by_class(tree).values()) == pytest.approx(RATE, rel=0.01)


def test_a_small_ask_does_not_wait_for_a_large_one():
    tree = Tree()
    tree.ask(tree.flow(), 100 * RATE)
    small = tree.ask(tree.flow(), 1000)
    while small.left:
        _, tree.now = tree.serve()
    assert tree.now <= 3 * tree.bucket.quantum * SECOND // RATE


def test_asks_of_one_flow_are_served_in_their_order():
    tree = Tree()
    flow = tree.flow()
    asks, served = [tree.ask(flow, 50_000) for _ in range(5)], []
    while len(served) < 5:
        done, at = tree.serve()
        served += done
        tree.now = at or tree.now
    assert served == asks


def test_who_was_idle_gets_no_arrears():
    tree = Tree()
    idle, busy = tree.flow(), tree.flow()
    tree.until(10 * SECOND, {busy: 40_000})
    tree.until(11 * SECOND, {idle: 40_000})
    got = defaultdict(int)
    for at, size, ask in tree.log:
        got[ask.flow] += size if at > 10 * SECOND else 0
    assert got[idle] / got[busy] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("weight", [0, -1])
def test_a_weight_is_at_least_one(weight):
    with pytest.raises(ValueError):
        Class(Branch(), weight)
    with pytest.raises(ValueError):
        Flow(Class(Branch(), 1), weight)


def replayed(events, rate, now):
    """The tokens after *events*, in fractions: a bucket written another way."""
    tokens, at, burst = Fraction(0), 0, TokenBucket(rate, 0).burst
    for event in [*events, Event(now, 0)]:
        tokens = min(Fraction(burst), tokens + Fraction(rate * (event.at - at), SECOND))
        tokens -= event.size
        at = event.at
        if event.rate is not None:
            rate, burst = event.rate, TokenBucket(event.rate, 0).burst
            tokens = min(tokens, Fraction(burst))
    return tokens


class World:
    """Everything that can happen to a tree, and what must hold after each of it."""

    def __init__(self):
        self.tree = Tree(rate=10**6)
        self.flows = [self.tree.flow(name, w) for name in self.tree.classes for w in (1, 3)]
        self.events, self.asks, self.at = [], [], None

    def settle(self):
        tree, before = self.tree, len(self.tree.log)
        _, self.at = tree.serve()
        self.events += [(Event(at, size), ask) for at, size, ask in tree.log[before:]]
        waiting = [ask for ask in self.asks if ask.left]
        assert tree.total.waiting == len(waiting)
        # Nobody is forgotten: while someone waits and nothing is paused, a wake-up is due.
        assert (self.at is not None) == bool(waiting and tree.bucket.rate)
        assert self.at is None or self.at > tree.now

    def log(self):
        return [event for event, _ in self.events]

    def ask(self, flow, size):
        self.asks.append(self.tree.ask(self.flows[flow % len(self.flows)], size))
        self.settle()

    def cancel(self, which):
        """An ask that waits, or that was served and not yet used."""
        ask = self.asks.pop(which % len(self.asks))
        self.tree.queue.cancel(ask, self.tree.now)
        self.tree.live = [each for each in self.tree.live if each is not ask]
        self.events = [each for each in self.events if each[1] is not ask]
        self.settle()

    def owe(self, which):
        """A reader that ends: its bytes came, and stay spent."""
        ask = self.asks.pop(which % len(self.asks))
        self.tree.live = [each for each in self.tree.live if each is not ask]
        self.events.append((Event(self.tree.now, ask.left, control=True), None))
        self.tree.queue.owe(ask, self.tree.now)
        self.settle()

    def charge(self, size):
        self.tree.queue.charge(self.flows[0], size, self.tree.now)
        self.events.append((Event(self.tree.now, size, control=True), None))
        self.settle()

    def change(self, rate):
        self.tree.bucket.set_rate(rate, self.tree.now)
        self.events.append((Event(self.tree.now, 0, rate=rate), None))
        self.settle()

    def advance(self, ns):
        self.tree.now += ns
        self.settle()

    def wake(self):
        """At the moment that was named, someone is granted a step; not a nanosecond before."""
        self.tree.now = self.at
        before = len(self.tree.log)
        self.settle()
        assert len(self.tree.log) > before

    def tokens(self):
        self.tree.bucket.settle(self.tree.now)
        return Fraction(self.tree.bucket._level, SECOND)

    def drained(self):
        if self.tree.bucket.rate == 0:
            self.change(10**6)
        while self.at is not None:
            self.wake()
        return all(ask.left == 0 for ask in self.asks)


class Anything(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = World()

    @rule(flow=st.integers(0, 5), size=st.integers(1, 50_000))
    def ask(self, flow, size):
        self.world.ask(flow, size)

    @precondition(lambda self: self.world.asks)
    @rule(which=st.integers(0, 100))
    def cancel(self, which):
        self.world.cancel(which)

    @precondition(lambda self: self.world.asks)
    @rule(which=st.integers(0, 100))
    def owe(self, which):
        self.world.owe(which)

    @rule(size=st.integers(0, 50_000))
    def charge(self, size):
        self.world.charge(size)

    @rule(rate=st.one_of(st.just(0), st.integers(1000, 10**9)))
    def change(self, rate):
        self.world.change(rate)

    @rule(ns=st.integers(0, 50 * MILLISECOND))
    def advance(self, ns):
        self.world.advance(ns)

    @precondition(lambda self: self.world.at is not None)
    @rule()
    def wake(self):
        self.world.wake()

    @invariant()
    def no_token_comes_from_nowhere(self):
        assert self.world.tokens() <= replayed(self.world.log(), 10**6, self.world.tree.now)

    def teardown(self):
        assert self.world.drained()
        assert violations([event for event, _ in self.world.events], 10**6) == 0


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def anything(world, chance, cancels=True):
    """One step of a run that lasts."""
    dice, some = chance.random(), bool(world.asks)
    if dice < 0.05:
        world.change(chance.choice([0, 10**4, 10**6, 10**8]))
    elif dice < 0.1:
        world.charge(chance.randrange(5000))
    elif dice < 0.35 and some and cancels:
        world.cancel(chance.randrange(len(world.asks)))
    elif dice < 0.4 and some:
        world.owe(chance.randrange(len(world.asks)))
    elif dice < 0.7:
        world.ask(chance.randrange(6), chance.randrange(1, 20_000))
    elif world.at is not None and dice < 0.97:
        world.wake()
    else:
        world.advance(chance.randrange(10**7))


def test_a_hundred_thousand_cancels_and_changes_lose_nobody():
    chance, world = random.Random(4), World()
    for _ in range(100_000):
        anything(world, chance)
        if len(world.events) > 500:
            world.events.clear()
            world.tree.log.clear()
        if len(world.asks) > 30:
            world.asks = [ask for ask in world.asks if ask.left]
    assert world.drained()


@pytest.mark.parametrize("seed", range(10))
def test_every_interval_keeps_to_the_bound_through_all_that_happens(seed):
    chance, world = random.Random(seed), World()
    for _ in range(400):
        anything(world, chance)
    assert violations(world.log(), 10**6) == 0


@pytest.mark.parametrize("seed", range(5))
def test_without_cancels_the_tokens_are_right_to_the_last_of_them(seed):
    chance, world = random.Random(seed), World()
    for _ in range(400):
        anything(world, chance, cancels=False)
    assert world.tokens() == replayed(world.log(), 10**6, world.tree.now)


def test_who_is_cancelled_costs_the_tokens_nothing():
    """One at a time, among others that go on: as if it had never asked, to the last token."""
    chance, world = random.Random(7), World()
    for _ in range(300):
        mine = len(world.asks)
        world.ask(0, chance.randrange(1, world.tree.bucket.step + 1))
        for _ in range(chance.randrange(4)):
            world.charge(chance.randrange(100))
            world.advance(chance.randrange(10**7))
        world.cancel(mine)
        assert world.tokens() == replayed(world.log(), 10**6, world.tree.now)
