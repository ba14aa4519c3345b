"""The asyncio client of NBD against a server that is slow, silent, wrong or gone."""

import asyncio
import gc
import random
import struct
import threading
import weakref

import pytest

from tests.loops import on_both_loops
from tests.sources import nbd_script as script
from tests.sources.nbd_fake import FakeServer, faked
from tests.sources.nbd_servers import open_sockets
from transfer.errors import ProtocolBroken, SourceUnavailable
from transfer.sources.nbd import NbdClient

MIB = 2**20
CONTENT = random.Random(3).randbytes(4 * MIB)
STEP = 2**32 - 2**16


class Holding(FakeServer):
    """Sends the first *part* bytes of its first reply, and the rest when it may *go_on*."""

    def __init__(self, *arguments, part=0, **options):
        super().__init__(*arguments, **options)
        self.part, self.held = part, threading.Event()

    def reply(self, command, cookie, offset, length):
        raw = super().reply(command, cookie, offset, length)
        if len(self.requests) > 1:
            return raw
        self.client.sendall(raw[: self.part])
        self.held.set()
        self.go_on.wait(20)
        return raw[self.part :]


async def happened(event):
    assert await asyncio.to_thread(event.wait, 20)


async def read(client, offset, length):
    view = memoryview(bytearray(length))
    await client.read_into(offset, view)
    return bytes(view)


# Cancellation


@on_both_loops
@pytest.mark.parametrize("part", [0, 5, 28 + 100_000])
async def test_after_a_cancellation_nothing_is_written(tmp_path, part):
    server, tasks = Holding(CONTENT, part=part), asyncio.all_tasks()
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address) as client:
            buffer = bytearray(MIB)
            reading = asyncio.ensure_future(client.read_into(0, memoryview(buffer)))
            await happened(server.held)
            await asyncio.sleep(0.02)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            buffer[:] = b"!" * MIB
            server.go_on.set()
            assert await read(client, MIB, 1000) == CONTENT[MIB : MIB + 1000]
            assert buffer == b"!" * MIB
    assert asyncio.all_tasks() == tasks


@on_both_loops
async def test_what_is_cancelled_lets_go_of_its_buffer(tmp_path):
    class Memory(bytearray):
        pass

    async def cancelled_read(client):
        memory = Memory(3 * MIB)
        reading = asyncio.ensure_future(client.read_into(0, memoryview(memory)))
        await happened(server.held)
        reading.cancel()
        await asyncio.wait([reading])
        return weakref.ref(memory)

    server = Holding(CONTENT, part=5000)
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address) as client:
            memory = await cancelled_read(client)
            gc.collect()
            assert memory() is None
            server.go_on.set()


@on_both_loops
async def test_who_is_told_that_it_broke_has_his_buffer_again(tmp_path, caplog):
    class Memory(bytearray):
        pass

    async def broken_read(client):
        memory = Memory(3 * MIB)
        with pytest.raises(SourceUnavailable, match="says nothing"):
            await client.read_into(0, memoryview(memory))
        return weakref.ref(memory)

    server = Holding(CONTENT, part=5000)
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address, patience=0.1) as client:
            memory = await broken_read(client)
            await asyncio.sleep(0)  # the step of the loop that brought the error knows it, too
            gc.collect()
            assert memory() is None
    assert not caplog.records  # of errors that nobody looked at


@on_both_loops
async def test_one_who_waits_for_a_turn_can_be_cancelled_too(tmp_path):
    server = Holding(CONTENT)
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address, in_flight=1) as client:
            first = asyncio.ensure_future(read(client, 0, 512))
            await happened(server.held)
            second = asyncio.ensure_future(read(client, 512, 512))
            third = asyncio.ensure_future(read(client, 1024, 512))
            await asyncio.sleep(0)
            second.cancel()
            server.go_on.set()
            assert await first + await third == CONTENT[:512] + CONTENT[1024:1536]
            assert second.cancelled()
    assert [each[3] for each in server.requests] == [0, 1024]


@on_both_loops
async def test_a_turn_comes_when_the_answer_does_and_not_before(tmp_path):
    """Else a server would be asked for more at a time than there may be."""
    server = Holding(CONTENT)
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address, in_flight=1) as client:
            first = asyncio.ensure_future(read(client, 0, 512))
            await happened(server.held)
            first.cancel()
            second = asyncio.ensure_future(read(client, 512, 512))
            await asyncio.sleep(0.05)
            assert client._wire._core.in_flight == 1
            server.go_on.set()
            assert await second == CONTENT[512:1024]


@on_both_loops
async def test_a_connection_that_is_cancelled_is_closed(tmp_path):
    class Mute(FakeServer):
        def greet(self, client):
            assert client.recv(1) == b""

    before = open_sockets()
    server = Mute(CONTENT)
    with faked(server, tmp_path) as address:
        connecting = asyncio.ensure_future(NbdClient.connect(address))
        await asyncio.sleep(0.05)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await happened(server.parted)
    assert open_sockets() == before


# Silence and the end


@on_both_loops
async def test_a_server_that_says_nothing_from_the_start(tmp_path):
    class Mute(FakeServer):
        def greet(self, client):
            assert client.recv(1) == b""

    server = Mute(CONTENT)
    with faked(server, tmp_path) as address:
        began = asyncio.get_running_loop().time()
        with pytest.raises(SourceUnavailable, match="says nothing"):
            await NbdClient.connect(address, patience=0.1)
        assert asyncio.get_running_loop().time() - began < 2
        await happened(server.parted)


@on_both_loops
async def test_a_server_that_says_nothing_any_more(tmp_path):
    class Silenced(FakeServer):
        def reply(self, command, cookie, offset, length):
            raw = super().reply(command, cookie, offset, length)
            if len(self.requests) == 1:
                return raw
            self.client.sendall(raw[:1000])
            self.go_on.wait(20)
            raise ConnectionError

    server, now = Silenced(CONTENT), asyncio.get_running_loop().time
    with faked(server, tmp_path) as address:
        client = await NbdClient.connect(address, patience=0.2)
        assert await read(client, 0, 1) == CONTENT[:1]
        await asyncio.sleep(0.5)  # nothing is asked, so nothing has to be said
        began = now()
        ends = await asyncio.gather(
            read(client, 0, MIB), read(client, MIB, 512), return_exceptions=True
        )
        assert 0.19 < now() - began < 2
        assert {type(end) for end in ends} == {SourceUnavailable}
        assert "says nothing" in ends[0].message
        with pytest.raises(SourceUnavailable, match="says nothing"):
            await read(client, 0, 512)
        server.go_on.set()
        await happened(server.parted)
        await client.close()


@on_both_loops
async def test_a_server_that_is_slow_and_says_something_is_waited_for(tmp_path):
    class Slow(FakeServer):
        def reply(self, command, cookie, offset, length):
            threading.Event().wait(0.15)
            return super().reply(command, cookie, offset, length)

    with faked(Slow(CONTENT), tmp_path) as address:
        async with await NbdClient.connect(address, patience=0.4) as client:
            got = await asyncio.gather(*(read(client, at, 1) for at in range(6)))
            assert b"".join(got) == CONTENT[:6]


async def test_one_timer_is_enough_for_all(tmp_path):
    def timers():
        return sum(isinstance(each, asyncio.TimerHandle) for each in gc.get_objects())

    with faked(FakeServer(CONTENT), tmp_path) as address:
        async with await NbdClient.connect(address) as client:
            await read(client, 0, 512)
            before = timers()
            for _ in range(50):
                await read(client, 0, 512)
            assert timers() <= before


@on_both_loops
async def test_closing_ends_those_who_wait(tmp_path):
    server = Holding(CONTENT, part=100)
    with faked(server, tmp_path) as address:
        client = await NbdClient.connect(address, in_flight=1)
        waiting = [asyncio.ensure_future(read(client, 0, 512)) for _ in range(3)]
        await happened(server.held)
        await client.close()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(end) for end in ends} == {SourceUnavailable}
        assert "connection is closed" in ends[0].message
        server.go_on.set()


@on_both_loops
async def test_a_closed_client_is_gone_at_once(tmp_path):
    async def closed():
        client = await NbdClient.connect(address)
        reading = asyncio.ensure_future(read(client, 0, 512))
        await happened(server.held)
        await client.close()
        await asyncio.gather(reading, return_exceptions=True)
        return weakref.ref(client._wire)

    server = Holding(CONTENT)
    with faked(server, tmp_path) as address:
        wire = await closed()
        await asyncio.sleep(0.01)
        gc.collect()
        assert wire() is None


@on_both_loops
async def test_a_lie_ends_the_connection_and_says_which(tmp_path):
    class Lying(FakeServer):
        def reply(self, command, cookie, offset, length):
            return script.data(cookie, offset + length, b"x")

    before = open_sockets()
    server = Lying(CONTENT)
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address) as client:
            for _ in range(2):
                with pytest.raises(ProtocolBroken, match=r"fake\.sock: it sends 1 bytes at 512"):
                    await read(client, 0, 512)
            await happened(server.parted)
    assert open_sockets() == before


@on_both_loops
async def test_a_refusal_is_followed_by_a_goodbye(tmp_path):
    """A server that hears none logs an error."""

    class Refusing(FakeServer):
        heard = b""

        def greet(self, client):
            client.sendall(script.GREETING + script.reply(script.STRUCTURED, script.ERROR | 7))
            while more := client.recv(100):
                self.heard += more

    server = Refusing()
    with faked(server, tmp_path) as address:
        with pytest.raises(SourceUnavailable, match="about to end"):
            await NbdClient.connect(address)
        await happened(server.parted)
    assert server.heard.endswith(b"IHAVEOPT" + struct.pack(">II", 2, 0))


@on_both_loops
async def test_a_goodbye_is_said(tmp_path):
    class Listening(FakeServer):
        polite = False

        def serve(self, client):
            super().serve(client)
            self.polite = True

    server = Listening(CONTENT)
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address):
            pass
        await happened(server.parted)
    assert server.polite


@on_both_loops
async def test_a_server_that_ends_is_away_for_all(tmp_path):
    class Ending(FakeServer):
        def reply(self, command, cookie, offset, length):
            return script.failed(cookie, 108, b"bye")

    server = Ending(CONTENT)
    with faked(server, tmp_path) as address:
        async with await NbdClient.connect(address) as client:
            for _ in range(2):
                with pytest.raises(SourceUnavailable, match="about to end: bye"):
                    await read(client, 0, 512)
            await happened(server.parted)
    assert len(server.requests) == 1
