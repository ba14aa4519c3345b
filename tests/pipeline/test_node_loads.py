"""Nodes that several tasks ask for: few at a time are loaded together, many beside each other."""

import asyncio
import os

from transfer.formats.reference import Kind, tag_of

PAGE = tag_of(Kind.PAGE)


async def loads(line, references, step):
    """How many nodes each call to the vault asked for, if *step* at a time are asked for while none
    comes back; and what came back in the end.
    """
    fetch, asked, gate = line.vault.fetch, [], asyncio.Event()

    async def held(session, some, arrived):
        asked.append(len(some))
        await gate.wait()
        await fetch(session, some, arrived)

    line.vault.fetch = held
    tasks = []
    for at in range(0, len(references), step):
        tasks += [
            line.group.create_task(line.nodes.load(each)) for each in references[at : at + step]
        ]
        await asyncio.sleep(0.01)
    before = list(asked)
    gate.set()
    found = [(await task)[0] for task in tasks]
    del line.vault.fetch
    return before, asked, found


async def test_few_nodes_wait_for_those_under_way_and_many_do_not(sending, receiving):
    plains = [os.urandom(100) for _ in range(18)]
    async with sending() as line:
        nodes = [await line.sender.node(PAGE, plain, b"") for plain in plains]
    async with receiving() as line:
        before, asked, found = await loads(line, nodes[:4], step=1)
        assert (before, asked, found) == ([1], [1, 3], plains[:4])
        before, _, found = await loads(line, [nodes[0], *nodes[1:17]], step=1)
        assert (before, found) == ([1, 16], plains[:17])
