"""Block status by the asyncio client of NBD, however a server answers."""

import asyncio
import socket
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loops import on_both_loops
from tests.sources import nbd_script as script
from tests.sources.nbd_fake import FakeServer, faked
from transfer.errors import ProtocolBroken
from transfer.sources import nbd
from transfer.sources.nbd import NbdClient, Status

STEP = 2**32 - 2**16


@on_both_loops
async def test_a_status_that_nobody_reads_to_its_end_leaves_nothing(tmp_path):
    class HoldingMost(FakeServer):
        def reply(self, command, cookie, offset, length):
            if len(self.requests) > 1:
                self.go_on.wait(20)
            return super().reply(command, cookie, offset, length)

    server = HoldingMost(statuses=[(512, 0), (STEP, 1), (STEP, 0)])
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address, contexts=["x:y"]) as client:
            found = client.block_status("x:y", 0, 2 * STEP)
            assert await anext(found) == Status(0, 512, 0)
            await found.aclose()
            assert client._wire._core.in_flight == 1
            assert not client._wire._answers
            server.go_on.set()
            assert [s async for s in client.block_status("x:y", 0, 5)] == [Status(0, 5, 0)]


@on_both_loops
async def test_steps_of_a_status_are_asked_for_ahead(tmp_path):
    class Late(FakeServer):
        """Answers nothing before four requests are there."""

        def reply(self, command, cookie, offset, length):
            while len(self.requests) == 1 and not self.go_on.wait(0.01):
                if len(self.client.recv(2**16, socket.MSG_PEEK)) >= 3 * 28:
                    break
            return super().reply(command, cookie, offset, length)

    server = Late(statuses=[(STEP * 6 + 1000, 1)], most=1)
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address, contexts=["x:y"], patience=5) as client:
            found = client.block_status("x:y", 0, client.size)
            whole = [each async for each in found]
    assert whole == [Status(0, STEP * 6 + 1000, 1)]
    assert [each[3:] for each in server.requests] == [(n * STEP, STEP) for n in range(6)] + [
        (6 * STEP, 1000)
    ]


@on_both_loops
async def test_a_server_that_changes_its_mind_gives_no_byte_two_states(tmp_path):
    class Wavering(FakeServer):
        """Knows the state of all that follows, and another one each time."""

        def reply(self, command, cookie, offset, length):
            extent = (self.size - offset, cookie)
            return script.status(cookie, 7, extent, flags=script.DONE)

    with faked(Wavering(bytes(2048)), tmp_path) as address:
        async with await NbdClient.connect(address, contexts=["x:y"]) as client:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(nbd, "MAX_STATUS", 512)
                found = [each async for each in client.block_status("x:y", 0, 2048)]
    assert found == [Status(n * 512, 512, n + 1) for n in range(4)]


@on_both_loops
async def test_extents_finer_than_blocks(tmp_path):
    server = FakeServer(
        statuses=[(512, n % 2) for n in range(16)], most=99, infos=[script.sizes(4096)]
    )
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address, contexts=["x:y"]) as client:
            found = [each async for each in client.block_status("x:y", 1000, 2000)]
    assert found == [Status(1000, 24, 1), Status(1024, 512, 0), Status(1536, 464, 1)]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_however_a_server_cuts_its_answers_the_extents_are_the_same(tmp_path_factory, random):
    step = random.draw(st.sampled_from([512, 1024, 4096, STEP]))
    lengths = random.draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    flags = random.draw(st.lists(st.integers(0, 1), min_size=12, max_size=12))
    extents = [(512 * length, flag) for length, flag in zip(lengths, flags, strict=False)]
    size = sum(length for length, _ in extents)
    offset = random.draw(st.integers(0, size))
    end = random.draw(st.integers(offset, size))
    server = FakeServer(
        statuses=extents, most=random.draw(st.integers(1, 4)),
        infos=[script.sizes(random.draw(st.sampled_from([1, 512])))],
    )  # fmt: skip

    async def ask(address):
        async with await NbdClient.connect(address, contexts=["x:y"]) as client:
            return [each async for each in client.block_status("x:y", offset, end)]

    with (
        pytest.MonkeyPatch.context() as patched,
        faked(server, tmp_path_factory.mktemp("f")) as address,
    ):
        patched.setattr(nbd, "MAX_STATUS", step)
        found = asyncio.run(ask(address))
    each_byte = b"".join(bytes([flag]) * length for length, flag in extents)[offset:end]
    assert b"".join(bytes([flag]) * length for _, length, flag in found) == each_byte
    assert all(a.flags != b.flags for a, b in pairwise(found))
    at = offset
    for extent in found:
        assert extent.offset == at
        at += extent.length


@on_both_loops
async def test_extents_that_end_within_a_block(tmp_path):
    server = FakeServer(statuses=[(1000, 0), (3096, 1)], most=1, infos=[script.sizes(512)])
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address, contexts=["x:y"]) as client:
            with pytest.raises(ProtocolBroken, match="end within its blocks"):
                assert [each async for each in client.block_status("x:y", 0, 4096)]
