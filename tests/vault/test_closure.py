"""A walk over trees that are complete, or not, or cease to be while it is under way."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.suites.vault import (
    DOMAIN,
    OTHER_ITEM,
    PAGE,
    begun,
    has,
    id_of,
    made_frame,
    made_point,
)
from transfer.formats.reference import Reference
from transfer.vault import ledger
from transfer.vault.closure import Standing, Walk
from transfer.vault.open import open_vault

NODES = [Reference(PAGE, id_of(number)) for number in range(1, 13)]


class Graph:
    """Frames by what they name; `complete` is only what walks were told to keep."""

    def __init__(self, edges, missing):
        self.edges = edges
        self.lost = set(missing)
        self.complete = set()

    def standings(self, references):
        return {one: self._standing(one) for one in references}

    def _standing(self, one):
        if one in self.lost:
            return Standing.MISSING
        return Standing.COMPLETE if one in self.complete else Standing.INCOMPLETE

    def children(self, one):
        return None if one in self.lost else self.edges[one]

    def lose(self, one):
        """As a vault does it: nothing above stays complete."""
        self.lost.add(one)
        hit = {one}
        while above := {node for node, names in self.edges.items() if hit & set(names)} - hit:
            hit |= above
        self.complete -= hit

    def truly_complete(self):
        """What can be built up from what names nothing: neither cycles nor losses."""
        found = set()
        while True:
            more = {
                one
                for one, names in self.edges.items()
                if one not in self.lost and one not in found and found.issuperset(names)
            }
            if not more:
                return found
            found |= more


@st.composite
def graphs(draw):
    some = st.lists(st.sampled_from(NODES), max_size=4).map(tuple)
    edges = {node: draw(some) for node in NODES}
    return Graph(edges, draw(st.sets(st.sampled_from(NODES), max_size=2)))


def below(graph, roots):
    found, ahead = set(), list(roots)
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead += () if one in graph.lost else graph.edges[one]
    return found


def stepped(graph, roots, budget, between=lambda: None):
    walk = Walk(roots)
    while (completed := walk.step(graph, budget)) is not None:
        graph.complete |= completed
        assert graph.complete <= graph.truly_complete()
        between()
    graph.complete |= walk.closure.completed
    return walk.closure


@given(graphs(), st.lists(st.sampled_from(NODES), max_size=3), st.integers(1, 200))
def test_a_walk_in_steps_finds_what_is_complete_and_what_is_missing(graph, roots, budget):
    closure = stepped(graph, roots, budget)
    reached = below(graph, roots)
    assert closure.complete == (set(roots) <= graph.truly_complete())
    assert graph.complete == graph.truly_complete() & reached
    assert set(closure.missing) == graph.lost & reached
    assert not closure.more


@given(graphs(), st.sampled_from(NODES), st.integers(1, 100), st.data())
def test_nothing_is_called_complete_that_was_lost_between_two_steps(graph, root, budget, data):
    def between():
        if (one := data.draw(st.none() | st.sampled_from(NODES))) is not None:
            graph.lose(one)

    closure = stepped(graph, [root], budget, between)
    assert graph.complete <= graph.truly_complete()
    assert not closure.complete or root in graph.truly_complete()


@given(graphs(), st.integers(0, 3), st.booleans())
def test_only_so_many_missing_frames_are_named(graph, limit, thorough):
    walk = Walk(NODES, limit, thorough=thorough)
    closure = walk.run(graph)
    assert not closure.complete or not graph.lost
    assert len(closure.missing) == min(limit, len(graph.lost))
    assert closure.more == (len(graph.lost) > limit)


@pytest.mark.parametrize(("thorough", "entered"), [(True, 12), (False, 3)])
def test_a_walk_that_need_not_see_all_ends_with_the_first_frame_too_many(thorough, entered):
    lost = [Reference(16, id_of(number)) for number in range(1, 12 * 9 + 1)]
    edges = {page: lost[9 * at : 9 * at + 9] for at, page in enumerate(NODES)}
    graph, seen = Graph(edges, lost), []
    children = graph.children
    graph.children = lambda one: seen.append(one) or children(one)
    closure = Walk(NODES, 20, thorough=thorough).run(graph)
    assert (len(closure.missing), closure.more, closure.complete) == (20, True, False)
    assert len(seen) == entered


def test_a_node_named_along_many_paths_is_entered_once():
    layers = [
        [Reference(PAGE, id_of(1000 * layer + n + 1)) for n in range(256)] for layer in range(10)
    ]
    edges = {
        one: tuple(layers[at + 1]) if at < 9 else () for at, of in enumerate(layers) for one in of
    }
    graph, entered = Graph(edges, ()), []
    children = graph.children
    graph.children = lambda one: entered.append(one) or children(one)
    assert Walk(layers[0][:1]).run(graph).complete
    assert len(entered) == len(set(entered)) == 9 * 256 + 1


async def undecided(vault, session, pages):
    """A tree that nobody knows to be complete before its commit: all came before its one block."""
    block = made_frame(1)
    leaves = [made_frame(10 + n, PAGE, [block[0]]) for n in range(pages)]
    root = made_frame(2, PAGE, [one for one, _ in leaves])
    await vault.store(session, b"".join(raw for _, raw in (root, *leaves)))
    await vault.store(session, block[1])
    return block[0], leaves[0][0], root[0]


async def test_others_have_the_thread_while_a_commit_walks(path, monkeypatch):
    monkeypatch.setattr(ledger, "_AT_ONCE", 100)
    vault = await open_vault(path, create=True)
    session = await begun(vault)
    _, _, root = await undecided(vault, session, 200)
    other = await begun(vault, OTHER_ITEM)
    commit = asyncio.ensure_future(vault.commit(session, made_point(root)))
    turns = 0
    while not commit.done():
        await vault.heartbeat(other)
        turns += 1
    assert turns > 20
    assert (await commit).arrival_number == 1
    await vault.close()


async def test_damage_that_is_reported_while_a_commit_walks_stops_it(path, monkeypatch):
    monkeypatch.setattr(ledger, "_AT_ONCE", 100)
    vault = await open_vault(path, create=True)
    session, other = await begun(vault), await begun(vault, OTHER_ITEM)
    block, leaf, root = await undecided(vault, session, 200)
    commit = asyncio.ensure_future(vault.commit(session, made_point(root)))
    while await has(vault, other, leaf) != [True]:
        pass
    await vault.report_damaged(other, [block])
    outcome = (await asyncio.gather(commit, return_exceptions=True))[0]
    assert getattr(outcome, "references", None) == (block,), outcome
    assert await has(vault, other, leaf, root) == [False, False]
    assert await vault.points(DOMAIN) == []
    await vault.close()


async def test_two_commits_of_one_point_at_once_are_one_point(path, monkeypatch):
    monkeypatch.setattr(ledger, "_AT_ONCE", 100)
    vault = await open_vault(path, create=True)
    session = await begun(vault)
    _, _, root = await undecided(vault, session, 50)
    record = made_point(root)
    first, second = await asyncio.gather(*(vault.commit(session, record) for _ in range(2)))
    assert first == second
    assert await vault.points(DOMAIN) == [first]
    await vault.close()


async def test_a_commit_that_is_given_up_leaves_what_it_found_and_no_point(path, monkeypatch):
    monkeypatch.setattr(ledger, "_AT_ONCE", 100)
    vault = await open_vault(path, create=True)
    session, other = await begun(vault), await begun(vault, OTHER_ITEM)
    _, leaf, root = await undecided(vault, session, 200)
    commit = asyncio.ensure_future(vault.commit(session, made_point(root)))
    while await has(vault, other, leaf) != [True]:
        pass
    commit.cancel()
    await asyncio.gather(commit, return_exceptions=True)
    assert await vault.points(DOMAIN) == []
    assert (await vault.commit(session, made_point(root))).arrival_number == 1
    await vault.close()
