"""Frames are used together where they come quickly, else each as soon as it is there."""

import asyncio
import os

import pytest

from transfer.errors import VaultUnavailable
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.pipeline.receive_streams import QUICK, Received, fill
from transfer.pipeline.write_tasks import Piece

DATA = tag_of(Kind.DATA)


class Slow:
    """A vault below, whose frames come in the order asked; the one at *last* after *go*."""

    def __init__(self, vault, session, last):
        self._vault, self._session, self._last, self.go = vault, session, last, asyncio.Event()

    def turn(self, reference):
        return 0

    async def fetch(self, references, arrived):
        for number, reference in enumerate(references):
            if number == self._last:
                await self.go.wait()
            await self._vault.fetch(self._session, [reference], arrived)


@pytest.fixture
async def pieces(sending):
    async with sending() as line:
        stored = [await line.sender.node(DATA, os.urandom(1000), b"") for _ in range(6)]
    return [Piece(reference, 1000 * n, 1000) for n, reference in enumerate(stored)]


async def filled(line, nodes, units, use):
    async def work(worker):
        async def lengths(which, frames):
            await use(which, [frame.length > 0 for frame in frames])
            return []

        await fill(nodes, worker, units, received, lengths, range(len(units)))

    received = Received()
    await line.pool.run(work)
    return received


async def test_what_has_come_is_used_while_the_rest_is_on_its_way(receiving, pieces):
    used = []
    async with receiving() as line:
        nodes = Slow(line.vault, line.session, last=4)

        async def use(which, there):
            used.append((which, there))
            nodes.go.set()  # without this use the rest never comes

        async with asyncio.timeout(40 * QUICK):
            received = await filled(line, nodes, [[piece] for piece in pieces], use)
    assert used == [([0, 1, 2, 3], [True] * 4), ([4, 5], [True] * 2)]
    assert received.blocks == 6


async def test_what_comes_quickly_is_used_together(receiving, pieces):
    used = []
    async with receiving() as line:
        nodes = Slow(line.vault, line.session, last=4)
        asyncio.get_running_loop().call_later(QUICK / 10, nodes.go.set)

        async def use(which, there):
            used.append((which, there))

        await filled(line, nodes, [[piece] for piece in pieces], use)
    assert used == [([0, 1, 2, 3, 4, 5], [True] * 6)]


async def test_a_unit_waits_for_all_of_its_frames_and_what_is_missing_is_known_at_the_end(
    receiving, pieces
):
    used = []
    lost = Piece(Reference(DATA, b"?" * 32), 0, 1000)
    async with receiving() as line:
        nodes = Slow(line.vault, line.session, last=3)

        async def use(which, there):
            used.append((which, there))
            nodes.go.set()

        await filled(line, nodes, [pieces[:2], [pieces[2], lost, pieces[3]], [pieces[4]]], use)
    assert used == [([0], [True] * 2), ([1, 2], [True, False, True, True])]


async def test_a_fetch_that_fails_is_an_error_and_one_that_goes_on_ends_with_its_user(
    receiving, pieces
):
    async with receiving() as line:
        nodes = Slow(line.vault, line.session, last=1)

        async def gone(which, there):
            raise VaultUnavailable("scripted")

        before = asyncio.all_tasks()
        with pytest.raises(VaultUnavailable):
            await filled(line, nodes, [[piece] for piece in pieces], gone)
        assert asyncio.all_tasks() == before

        class Broken(Slow):
            async def fetch(self, references, arrived):
                await asyncio.sleep(2 * QUICK)
                raise VaultUnavailable("scripted")

        with pytest.raises(VaultUnavailable):
            await filled(
                line, Broken(line.vault, line.session, 0), [[piece] for piece in pieces], gone
            )
