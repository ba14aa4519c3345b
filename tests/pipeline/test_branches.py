"""Room for directories: bounds hold, and whoever waits for room gets it, however trees nest."""

import asyncio
import random

import pytest

from transfer.pipeline.branches import Branches
from transfer.waiting import task_group


class Walk:
    """Of a tree of (is large, children), each of which takes *pause*: what was held at most."""

    def __init__(self, branches, pause):
        self._branches, self._pause = branches, pause
        self.walked, self.most, self._now = 0, 0, 0

    async def walk(self, node, lent=None):
        is_large, children = node
        self.walked += 1
        if not is_large:
            return await self._below(children, lent)
        async with self._branches.large(lent) as lent:
            self._now += 1
            self.most = max(self.most, self._now)
            await asyncio.sleep(self._pause)
            await self._below(children, lent)
            self._now -= 1

    async def _below(self, children, lent):
        tasks = [await self._branches.start(self.walk(child, lent)) for child in children]
        for task in tasks:
            await task


async def walked(tree, most=100, large=2, pause=0):
    async with asyncio.timeout(10), task_group() as group:
        walk = Walk(Branches(group, most, large), pause)
        await walk.walk(tree)
        return walk


async def test_large_ones_are_held_no_more_than_there_is_room_and_one():
    found = await walked((False, [(True, [(False, [])] * 3)] * 20))
    assert (found.walked, found.most) == (81, 3)


@pytest.mark.parametrize("large", [0, 1, 3])
async def test_each_large_one_lends_its_room_to_one_of_those_in_it(large):
    tree = (True, [])
    for _ in range(4):
        tree = (True, [tree] * 4)
    found = await walked((False, [tree] * 4), large=large)
    assert found.most <= (large + 1) * 5


@pytest.mark.parametrize("most", [16, 100, 1000])
@pytest.mark.parametrize(
    "tree",
    [
        (False, [(True, [])] * 400),
        (True, [(True, [])] * 400),
        (False, [(True, [(True, [])] * 4)] * 80),
        (True, [(True, [(False, [(True, [])] * 4)])] * 80),
    ],
)
async def test_room_is_used_wherever_the_large_ones_are(tree, most):
    """One after the other they take 4 s."""
    began = asyncio.get_running_loop().time()
    await walked(tree, most, large=16, pause=0.01)
    assert asyncio.get_running_loop().time() - began < 1.5


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


async def test_whoever_is_cancelled_takes_no_room_with_it():
    async with task_group() as group:
        branches = Branches(group, 0, 1)

        async def held(seconds):
            async with branches.large(None):
                await asyncio.sleep(seconds)

        first, second = (asyncio.create_task(held(60)) for _ in range(2))
        waiting = [asyncio.create_task(held(60)) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        first.cancel()  # its room goes to one who is cancelled before it hears of it
        await asyncio.sleep(0)
        waiting[1].cancel()
        second.cancel()
        await asyncio.sleep(0.01)
        waiting[2].cancel()
        await asyncio.wait([first, second, *waiting])
        assert branches.is_free(None)
        async with branches.large(None), branches.large(None):
            assert not branches.is_free(None)


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
