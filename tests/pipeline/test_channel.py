"""The channel ends once, for everybody, and holds no more than it says."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.pipeline.channel import Channel


async def drain(channel):
    return [item async for item in channel]


@given(st.lists(st.lists(st.integers()), min_size=1, max_size=3), st.integers(1, 3))
def test_all_that_is_sent_arrives_once_and_iteration_ends_with_the_last_sender(parts, receivers):
    async def scenario():
        channel = Channel(2, senders=len(parts))

        async def send(items):
            for item in items:
                await channel.send(item)
            await channel.close()

        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            sinks = [group.create_task(drain(channel)) for _ in range(receivers)]
            for items in parts:
                group.create_task(send(items))
        return sorted(item for sink in sinks for item in sink.result())

    assert asyncio.run(scenario()) == sorted(item for items in parts for item in items)


async def test_a_channel_without_a_receiver_stops_its_sender():
    channel, sent = Channel(3), []

    async def send():
        while True:
            await channel.send(0)
            sent.append(0)

    task = asyncio.create_task(send())
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(sent) == 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_closed_channel_refuses_items():
    channel = Channel(1)
    await channel.close()
    with pytest.raises(ValueError):
        await channel.send(1)


def test_a_channel_has_a_bound():
    with pytest.raises(ValueError):
        Channel(0)
