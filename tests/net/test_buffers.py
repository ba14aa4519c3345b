"""Receive memory keeps to its total and its shares, and everyone who waits is served."""

import asyncio

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from transfer.net.buffers import ReceiveBuffers

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
TOTAL, SHARE = 10, 6


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


class Lease:
    """A request that holds its buffer until it is told to end."""

    def __init__(self, buffers, machine, size):
        self.machine, self.size, self.buffer = machine, size, None
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._hold(buffers))

    @property
    def served(self):
        return self.buffer is not None

    async def _hold(self, buffers):
        async with buffers.lease(self.machine, self.size) as self.buffer:
            assert len(self.buffer) == self.size
            await self._end.wait()

    def end(self):
        self._end.set()


steps = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from([A, B, C]), st.integers(0, SHARE)),
    st.tuples(st.sampled_from(["end", "cancel", "end and cancel"]), st.integers(0, 7)),
    st.just(("settle",)),
)


@given(st.lists(steps, max_size=40))
def test_no_schedule_goes_beyond_the_limits_and_all_are_served_in_the_end(schedule):
    async def scenario():
        buffers, leases = ReceiveBuffers(TOTAL, SHARE), []

        def check():
            live = [each for each in leases if each.served and not each.task.done()]
            assert sum(each.size for each in live) <= buffers.in_use <= TOTAL
            for machine in (A, B, C):
                assert sum(each.size for each in live if each.machine == machine) <= SHARE

        for step in schedule:
            if step[0] == "ask":
                leases.append(Lease(buffers, *step[1:]))
            elif step[0] == "settle":
                await settle()
            elif step[1] < len(leases):
                if "end" in step[0]:
                    leases[step[1]].end()
                if "cancel" in step[0]:
                    leases[step[1]].task.cancel()
            check()
        await settle()
        event("somebody waited" if buffers.waiting else "nobody waited")
        for lease in leases:
            lease.end()
        await asyncio.wait_for(asyncio.gather(*(e.task for e in leases), return_exceptions=True), 5)
        assert all(lease.served or lease.task.cancelled() for lease in leases)
        assert (buffers.in_use, buffers.waiting) == (0, 0)
        assert not buffers._by_machine  # a machine that is gone leaves nothing behind

    asyncio.run(scenario())


@pytest.fixture
def ask():
    buffers = ReceiveBuffers(TOTAL, SHARE)

    async def ask(machine, size):
        lease = Lease(buffers, machine, size)
        await settle()
        return lease

    ask.buffers = buffers
    return ask


async def test_requests_wait_in_the_order_of_their_coming(ask):
    first, second = await ask(A, 6), await ask(B, 4)
    third, fourth = await ask(C, 4), await ask(C, 1)
    assert first.served and second.served and not third.served and not fourth.served
    assert (ask.buffers.in_use, ask.buffers.waiting) == (10, 2)
    second.end()
    await settle()
    assert third.served and not fourth.served
    for lease in (first, third, fourth):
        lease.end()
    await settle()
    assert ask.buffers.in_use == 0


async def test_a_machine_over_its_share_waits_without_holding_up_others(ask):
    held, over, other = await ask(A, 6), await ask(A, 1), await ask(B, 4)
    assert other.served and not over.served
    held.end()
    await settle()
    assert over.served


async def test_a_large_request_at_the_head_is_not_starved_by_small_ones(ask):
    small = [await ask(machine, 3) for machine in (A, B, C)]
    large = await ask(A, 3)
    late = [await ask(machine, 1) for machine in (B, C)]
    assert not large.served and not any(each.served for each in late)
    small[1].end()
    await settle()
    assert large.served


async def test_a_machines_small_requests_do_not_starve_its_large_one(ask):
    held, other = await ask(A, 3), await ask(A, 3)
    large, small = await ask(A, 6), await ask(A, 1)
    other.end()
    await settle()
    assert held.served and not large.served and not small.served


async def test_who_waits_at_the_head_and_is_cancelled_lets_the_others_through(ask):
    held, head, behind = await ask(A, 6), await ask(B, 6), await ask(C, 4)
    assert held.served and not behind.served
    head.task.cancel()
    await settle()
    assert behind.served and ask.buffers.waiting == 0


async def test_a_buffer_granted_in_the_moment_of_a_cancellation_comes_back(ask):
    held, waiting = await ask(A, 6), await ask(A, 6)
    held.end()
    await asyncio.sleep(0)
    assert ask.buffers.in_use == 6 and ask.buffers.waiting == 0  # granted, not yet resumed
    waiting.task.cancel()
    await settle()
    assert waiting.task.cancelled() and not waiting.served
    assert ask.buffers.in_use == 0


async def test_who_is_cancelled_in_the_moment_of_a_release_is_passed_over(ask):
    held, waiting, behind = await ask(A, 6), await ask(A, 5), await ask(A, 6)
    held.end()
    waiting.task.cancel()
    await settle()
    assert waiting.task.cancelled() and behind.served
    assert held.task.exception() is None and ask.buffers.in_use == 6


async def test_an_error_in_the_block_gives_the_buffer_back():
    buffers = ReceiveBuffers(TOTAL, SHARE)
    with pytest.raises(RuntimeError):
        async with buffers.lease(A, 5):
            raise RuntimeError
    assert buffers.in_use == 0


async def test_memory_that_python_does_not_give_is_not_counted_as_used():
    huge = 2**62
    buffers = ReceiveBuffers(huge, huge)
    with pytest.raises(MemoryError):
        async with buffers.lease(A, huge):
            pass
    assert buffers.in_use == 0


@pytest.mark.parametrize("size", [SHARE + 1, -1])
async def test_a_size_that_could_never_be_served_is_refused_at_once(ask, size):
    with pytest.raises(ValueError):
        async with ask.buffers.lease(A, size):
            pass
    assert ask.buffers.waiting == 0


@pytest.mark.parametrize(("total", "share"), [(10, 11), (10, 0), (0, 0)])
def test_a_share_is_something_and_within_the_total(total, share):
    with pytest.raises(ValueError):
        ReceiveBuffers(total, share)
