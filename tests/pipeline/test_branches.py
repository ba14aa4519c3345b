"""Room for directories: bounds hold, and whoever waits for room gets it, however trees nest."""

import asyncio
import random

import pytest

from transfer.pipeline.branches import Branches
from transfer.waiting import task_group


class Walk:
    """A tree of (is large, children), and what was held at the same time at most."""

    def __init__(self, branches):
        self._branches, self.walked, self.most, self._now = branches, 0, 0, 0

    async def walk(self, node, alone=False):
        is_large, children = node
        self.walked += 1
        await asyncio.sleep(0)
        if not is_large:
            return await self._below(children, alone)
        async with self._branches.large(alone) as alone:
            self._now += 1
            self.most = max(self.most, self._now)
            await asyncio.sleep(0)
            await self._below(children, alone)
            self._now -= 1

    async def _below(self, children, alone):
        tasks = [await self._branches.start(self.walk(child, alone), alone) for child in children]
        for task in tasks:
            await task


async def walked(tree, most=100, large=2):
    async with asyncio.timeout(10), task_group() as group:
        walk = Walk(Branches(group, most, large))
        await walk.walk(tree)
        return walk


async def test_large_ones_are_held_no_more_than_there_is_room_and_one_alone():
    found = await walked((False, [(True, [(False, [])] * 3)] * 20))
    assert (found.walked, found.most) == (81, 3)


async def test_one_alone_has_all_below_it_walked_one_after_the_other():
    """Of a chain all is held, as each is in the one before."""
    tree = (True, [])
    for _ in range(5):
        tree = (True, [tree])
    wide = (True, [(True, []) for _ in range(50)])
    assert (await walked((False, [tree, wide, wide, wide]), large=1)).most <= 1 + 6


async def test_below_one_alone_nothing_is_side_by_side():
    assert (await walked((True, [(True, [])] * 10), large=0)).most == 2


@pytest.mark.parametrize("seed", range(20))
async def test_every_walk_ends_whoever_waits_for_whom(seed):
    chance = random.Random(seed)
    count = 0

    def grown(depth):
        nonlocal count
        count += 1
        children = [grown(depth + 1) for _ in range(chance.randrange(5))] if depth < 6 else []
        return chance.random() < 0.7, children

    tree = grown(0)
    found = await walked(tree, most=chance.randrange(8), large=chance.randrange(3))
    assert found.walked == count


async def test_without_a_place_it_is_walked_in_that_of_its_parent():
    async with task_group() as group:
        branches, gate = Branches(group, 2), asyncio.Event()
        first = [await branches.start(gate.wait()) for _ in range(2)]
        third = await branches.start(asyncio.sleep(0.01, "done"))
        assert third.done() and not any(each.done() for each in first)
        gate.set()


async def test_a_place_is_free_again_when_its_directory_is_done():
    async with task_group() as group:
        branches = Branches(group, 1)
        await (await branches.start(asyncio.sleep(0)))
        assert not (await branches.start(asyncio.sleep(0.01))).done()
