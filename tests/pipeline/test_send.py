"""Nodes on their way to the vault: named once it has them, sealed while it is busy with others."""

import asyncio

import pytest

from transfer.errors import NotStored
from transfer.formats.reference import Kind, tag_of
from transfer.pipeline import tasks

PAGE = tag_of(Kind.PAGE)


class Slow:
    """A vault's `store` that waits for *gate*, and then maybe fails."""

    def __init__(self, vault, error=None):
        self._store, self._error = vault.store, error
        self.gate, self.asked, self.stored = asyncio.Event(), asyncio.Event(), 0
        vault.store = self.store

    async def store(self, session, raw):
        self.asked.set()
        await self.gate.wait()
        if self._error is not None:
            raise self._error
        found = await self._store(session, raw)
        self.stored += len(found)
        return found


async def test_a_node_is_named_when_the_vault_has_it(sending, vault):
    slow = Slow(vault)
    async with sending() as line:
        node = asyncio.create_task(line.sender.node(PAGE, b"page", b""))
        await slow.asked.wait()
        await asyncio.sleep(0.02)
        assert not node.done()
        slow.gate.set()
        assert (await node).tag == PAGE
        assert slow.stored == 1


async def test_others_are_sealed_while_the_vault_is_busy(sending, vault, monkeypatch):
    sealed, seal = [], tasks.seal_nodes

    def counted(lane, nodes):
        sealed.extend(nodes)
        return seal(lane, nodes)

    monkeypatch.setattr(tasks, "seal_nodes", counted)
    slow = Slow(vault)
    async with sending() as line:
        nodes = []
        for number in range(10):  # each alone
            nodes.append(asyncio.create_task(line.sender.node(PAGE, b"%d" % number, b"")))
            async with asyncio.timeout(5):
                while len(sealed) <= number:
                    await asyncio.sleep(0.001)
        slow.gate.set()
        assert len(set(await asyncio.gather(*nodes))) == slow.stored == 10


async def test_one_that_the_parent_has_waits_for_nothing(sending, vault):
    async with sending(trust_parent=True) as line:
        known = await line.sender.node(PAGE, b"page", b"")
        slow = Slow(vault)
        assert await line.sender.node(PAGE, b"page", b"", frozenset([known.id])) == known
        assert not slow.asked.is_set()


async def test_what_keeps_a_node_from_being_stored_ends_the_run(sending, vault):
    slow = Slow(vault, NotStored("no"))
    slow.gate.set()
    with pytest.raises(NotStored):
        async with sending() as line:
            await line.sender.node(PAGE, b"page", b"")
