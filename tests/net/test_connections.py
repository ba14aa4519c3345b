"""Slow and hostile clients are cut within their limits, and cost the others nothing."""

import asyncio
import datetime
import gzip
import logging
import resource
import socket
import ssl
import tracemalloc
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.loops import on_both_loops
from transfer.net.connections import Connections, Limits
from transfer.net.slow_body import READ_AHEAD, SlowBody, TooSlow, read_into

QUICK = Limits(connections=16, head=0.3, idle=0.8, stalled=0.3)
GET = b"GET /small HTTP/1.1\r\nHost: vault\r\n\r\n"
POST = b"POST /body HTTP/1.1\r\nHost: vault\r\n"
MIB = 2**20


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """A server's TLS context and one for its clients."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = tmp_path_factory.mktemp("tls") / "server.pem"
    pem.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return server, client


@pytest.fixture
def tls(loop, contexts):
    """Without TLS on asyncio and with it on uvloop: half of the combinations, in half the time."""
    return contexts if loop == "uvloop" else (None, None)


class Server:
    """A vault's server reduced to three calls, and what its handlers saw."""

    def __init__(self, limits, tls=(None, None), rule=SlowBody, body=None):
        self.app = app = web.Application()
        app.router.add_get("/small", self.small)
        app.router.add_get("/large", self.large)
        app.router.add_post("/body", body or self.body)
        self.connections = Connections(app, limits)
        self.context, self.client_context = tls
        self.rule, self.clients = rule, []
        self.read, self.pieces, self.ended = [], [], asyncio.Event()

    async def small(self, request):
        return web.Response(text="here")

    async def large(self, request):
        response = web.StreamResponse()
        try:
            await response.prepare(request)
            wire = request.transport.get_extra_info("socket")
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MIB)
            for _ in range(64):
                await response.write(bytes(MIB))
        finally:
            self.ended.set()
        return response

    async def body(self, request):
        buffer = bytearray(MIB)
        try:
            await read_into(request.content, memoryview(buffer), self.rule(), self.pieces.append)
        except TooSlow:
            self.read.append("too slow")
        else:
            self.read.append(bytes(buffer[: sum(self.pieces)]))
        finally:
            self.ended.set()
        return web.Response(text="thanks")

    async def start(self):
        self.port = await self.connections.start(self.context, "127.0.0.1", 0)

    async def stop(self):
        for client in self.clients:
            client.transport.abort()
            client.close()
        await self.connections.stop(0.5)
        assert self.connections.open == 0

    async def connect(self, tls=True, **options):
        if "sock" not in options:
            options |= {"host": "127.0.0.1", "port": self.port}
        if tls and self.client_context:
            options |= {"ssl": self.client_context, "server_hostname": ""}
        reader, writer = await asyncio.open_connection(**options)
        self.clients.append(writer)
        return reader, writer

    async def get(self):
        """A request on a connection of its own."""
        reader, writer = await self.connect()
        writer.write(GET)
        answer = await reader.readuntil(b"here")
        await close(writer)
        return answer.startswith(b"HTTP/1.1 200")


@asynccontextmanager
async def serving(limits=QUICK, tls=(None, None), **options):
    server = Server(limits, tls, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def close(writer):
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def connected(server):
    """A client's end; the server's fixture closes it."""
    yield await server.connect()


async def end_of(reader):
    """What still came until the server closed the connection, and after how many seconds."""
    began, rest = asyncio.get_running_loop().time(), b""
    async with asyncio.timeout(5):
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                rest += piece
    return rest, asyncio.get_running_loop().time() - began


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


@on_both_loops
async def test_an_ordinary_client_is_answered_again_and_again(tls):
    async with serving(tls=tls) as server, connected(server) as (reader, writer):
        for _ in range(3):
            writer.write(GET)
            await reader.readuntil(b"here")
        assert (server.connections.open, server.connections.cut) == (1, 0)


@on_both_loops
async def test_half_a_head_and_silence(tls):
    async with serving(tls=tls) as server, connected(server) as (reader, writer):
        writer.write(GET[:20])
        rest, seconds = await end_of(reader)
        assert rest == b"" and 0.15 < seconds < 1
        assert server.connections.cut == 1


@on_both_loops
async def test_a_head_that_comes_byte_by_byte(tls):
    async with serving(tls=tls) as server, connected(server) as (reader, writer):

        async def drip():
            for byte in GET:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        _, seconds = await end_of(reader)
        dripping.cancel()
        assert seconds < 1 and server.connections.cut == 1


@on_both_loops
async def test_a_later_head_has_its_time_from_its_first_byte(tls):
    async with serving(tls=tls) as server, connected(server) as (reader, writer):
        writer.write(GET)
        await reader.readuntil(b"here")
        await asyncio.sleep(QUICK.head + 0.2)  # idle, which is allowed
        assert server.connections.cut == 0
        writer.write(GET[:20])
        await asyncio.sleep(QUICK.head / 2)
        writer.write(GET[20:])
        await reader.readuntil(b"here")
        writer.write(GET[:20])
        _, seconds = await end_of(reader)
        assert seconds < 0.9 and server.connections.cut == 1


@on_both_loops
async def test_a_connection_on_which_a_head_has_begun_is_not_idle():
    limits = QUICK._replace(head=2, idle=0.4)
    async with serving(limits) as server, connected(server) as (reader, writer):
        writer.write(GET)
        await reader.readuntil(b"here")
        await asyncio.sleep(0.1)
        writer.write(GET[:20])
        await asyncio.sleep(0.5)  # beyond the end of its idle time
        writer.write(GET[20:])
        await reader.readuntil(b"here")
        assert (await end_of(reader))[1] > 0.2  # and it is idle again from here


@on_both_loops
async def test_an_idle_connection_is_closed_in_time(tls):
    limits = QUICK._replace(idle=0.3)
    async with serving(limits, tls) as server, connected(server) as (reader, writer):
        writer.write(GET)
        await reader.readuntil(b"here")
        _, seconds = await end_of(reader)
        assert 0.15 < seconds < 1
        await until(lambda: server.connections.open == 0)


@on_both_loops
async def test_a_connection_that_says_nothing(tls):
    async with serving(tls=tls) as server, connected(server) as (reader, _):
        _, seconds = await end_of(reader)
        assert seconds < 1
        await until(lambda: server.connections.open == 0)


@on_both_loops
async def test_a_handshake_that_never_comes_counts_and_is_cut(contexts):
    async with serving(tls=contexts) as server:
        reader, writer = await server.connect(tls=False)
        await until(lambda: server.connections.open == 1)
        _, seconds = await end_of(reader)
        assert 0.15 < seconds < 1
        await until(lambda: server.connections.open == 0)
        await close(writer)


@on_both_loops
async def test_what_is_no_tls_is_closed_at_once_and_not_reported(contexts, caplog):
    async with serving(tls=contexts) as server:
        reader, writer = await server.connect(tls=False)
        writer.write(GET)
        _, seconds = await end_of(reader)
        assert seconds < 0.2
        await until(lambda: server.connections.open == 0)
        await close(writer)
    assert not caplog.records


@on_both_loops
async def test_connections_beyond_the_limit_are_closed_at_once(tls):
    limits = QUICK._replace(connections=3, head=5)
    async with serving(limits, tls) as server:
        kept = [await server.connect() for _ in range(3)]
        raw_reader, raw_writer = await server.connect(tls=False)
        _, seconds = await end_of(raw_reader)
        assert seconds < 0.2 and server.connections.refused == 1
        assert server.connections.open == 3
        await close(raw_writer)
        await close(kept.pop()[1])
        await until(lambda: server.connections.open == 2)
        assert await server.get()  # there is room again
        for _, writer in kept:
            await close(writer)


@on_both_loops
async def test_one_address_does_not_lock_the_others_out(tls):
    async with serving(QUICK._replace(per_address=2, head=5), tls) as server:
        kept = [await server.connect() for _ in range(2)]
        raw_reader, raw_writer = await server.connect(tls=False)
        _, seconds = await end_of(raw_reader)
        assert seconds < 0.2 and server.connections.refused == 1
        await close(raw_writer)
        another = socket.socket()
        another.setblocking(False)
        another.bind(("127.0.0.2", 0))
        await asyncio.get_running_loop().sock_connect(another, ("127.0.0.1", server.port))
        kept.append(await server.connect(sock=another, tls=False))
        await until(lambda: server.connections.open == 3)
        await close(kept.pop(0)[1])
        await until(lambda: server.connections.open == 2)
        assert await server.get()
        for _, writer in kept:
            await close(writer)


@on_both_loops
async def test_an_upgrade_to_what_nobody_speaks_ends_the_connection(tls):
    async with serving(tls=tls) as server:
        reader, writer = await server.connect()
        head = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        writer.write(GET[:-2] + head)
        _, seconds = await end_of(reader)
        assert seconds < 0.3
        await close(writer)


@on_both_loops
async def test_an_answer_that_is_taken_in_drips_is_cut():
    """Each acknowledgement is in time, and all together are too few."""
    limits = Limits(stalled=5, floor=10**6, window=0.5)
    async with serving(limits) as server:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", server.port))
        await loop.sock_sendall(client, GET.replace(b"small", b"large"))
        began = loop.time()
        while not server.connections.cut:
            await loop.sock_recv(client, 1024)
            await asyncio.sleep(0.05)
        assert loop.time() - began < 3
        client.close()


@pytest.fixture
def descriptors():
    """Two for each connection, as both of its ends are in this process; many systems give 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@on_both_loops
async def test_a_thousand_idle_connections_do_not_stop_another_client(descriptors):
    limits = Limits(connections=1010, per_address=1010)
    async with serving(limits) as server:
        idle = []
        for _ in range(1000):
            client = socket.socket()
            client.setblocking(False)
            idle.append(client)
            with suppress(BlockingIOError):
                client.connect(("127.0.0.1", server.port))
            if len(idle) % 50 == 0:
                assert await server.get()
        await until(lambda: server.connections.open == 1000)
        assert await server.get() and server.connections.refused == 0
        for client in idle:
            client.close()


@pytest.mark.parametrize("header", [b"X: %s\r\n" % (b"x" * 100), b"x" * 1000])
@on_both_loops
async def test_headers_without_end_are_refused_and_nothing_more_is_read(header, tls, caplog):
    async with (
        serving(QUICK._replace(head=5), tls) as server,
        connected(server) as (reader, writer),
    ):
        writer.write(GET[:-2])

        async def flood():
            with suppress(ConnectionError):
                while True:
                    writer.write(header)
                    await writer.drain()

        flooding = asyncio.create_task(flood())
        rest, seconds = await end_of(reader)
        flooding.cancel()
        assert rest[8:13] in (b" 400 ", b"")  # a reset may overtake the answer
        assert seconds < 5
        await until(lambda: server.connections.open == 0)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("nonsense", [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
@on_both_loops
async def test_what_is_no_http_gets_an_answer_and_no_traceback(nonsense, caplog):
    async with serving() as server, connected(server) as (reader, writer):
        writer.write(nonsense)
        rest, seconds = await end_of(reader)
        assert b" 400 " in rest.partition(b"\r\n")[0] and seconds < 0.2
    assert not caplog.records


@on_both_loops
async def test_what_follows_a_request_under_way_and_is_no_http_is_not_kept(tls):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def body(request):
        begun.set()
        await go_on.wait()
        return web.Response(text="done")

    async with serving(tls=tls, body=body) as server, connected(server) as (reader, writer):
        writer.write(POST + b"Content-Length: 0\r\n\r\n")
        await begun.wait()
        tracemalloc.start()
        for _ in range(64):
            writer.write(bytes(MIB // 4))
            await writer.drain()
        await until(lambda: writer.transport.get_write_buffer_size() == 0)
        kept, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 2 * MIB
        assert most < 8 * MIB
        go_on.set()
        rest, _ = await end_of(reader)
        assert b" 200 " in rest.partition(b"\r\n")[0] and b" 400 " in rest


@on_both_loops
async def test_a_client_that_never_reads_its_answer(tls, caplog):
    async with serving(tls=tls) as server:
        _, writer = await server.connect(limit=1024)
        writer.transport.pause_reading()
        writer.write(GET.replace(b"small", b"large"))
        await asyncio.wait_for(server.ended.wait(), 3)
        await until(lambda: server.connections.open == 0)
        assert server.connections.cut == 1
    assert not caplog.records  # clients go every day; that is no traceback's worth


@on_both_loops
async def test_a_client_that_reads_its_answer_slowly_is_served():
    """160 KB/s out of 400 KB in the server's kernel: its socket is not writable for a second."""
    async with serving() as server:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", server.port))
        reader, writer = await server.connect(sock=client, limit=8192)
        writer.write(GET.replace(b"small", b"large"))
        for _ in range(18):
            await reader.readexactly(8192)
            await asyncio.sleep(0.05)
        assert (server.connections.open, server.connections.cut) == (1, 0)


@on_both_loops
async def test_a_body_arrives_in_pieces(tls):
    async with serving(tls=tls) as server, connected(server) as (reader, writer):
        writer.write(POST + b"Content-Length: 1048576\r\n\r\n" + bytes(range(256)) * 4096)
        await reader.readuntil(b"thanks")
        assert server.read == [bytes(range(256)) * 4096]
        assert max(server.pieces) <= 65536


@on_both_loops
async def test_a_body_that_nobody_reads_yet_costs_no_memory_of_its_size(tls):
    arrived = []

    async def wait(request):
        await asyncio.sleep(0.3)  # as it does for a receive buffer
        arrived.append(request.content.total_bytes)
        return web.Response(text="thanks")

    async with serving(tls=tls, body=wait) as server:
        reader, writer = await server.connect()
        writer.write(POST + b"Content-Length: 4194304\r\n\r\n" + bytes(4 * MIB))
        await reader.readuntil(b"thanks")
        assert 0 < arrived[0] <= 2 * READ_AHEAD + 2**18  # and one read of the loop


@on_both_loops
async def test_a_body_that_calls_itself_compressed_arrives_as_it_was_sent():
    async with serving() as server, connected(server) as (reader, writer):
        bomb = gzip.compress(bytes(MIB))
        head = POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        writer.write(head + bomb)
        await reader.readuntil(b"thanks")
        assert server.read == [bomb]


@on_both_loops
async def test_a_body_shorter_than_its_length_counts_as_far_as_it_came(tls):
    async with serving(tls=tls) as server:
        _, writer = await server.connect()
        writer.write(POST + b"Content-Length: 1048576\r\n\r\n" + b"x" * 300_000)
        await writer.drain()
        await until(lambda: sum(server.pieces) == 300_000)
        await close(writer)
        await asyncio.wait_for(server.ended.wait(), 3)
        assert server.read == [b"x" * 300_000]


@on_both_loops
async def test_what_came_before_the_connection_broke_is_not_lost(tls):
    """The stream answers with the error from then on, although the bytes are still in it."""
    gone = asyncio.Event()

    async def body(request):
        await gone.wait()
        return await server.body(request)

    async with serving(tls=tls, body=body) as server:
        _, writer = await server.connect()
        writer.write(POST + b"Content-Length: 1048576\r\n\r\n" + b"x" * 50_000)
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await until(lambda: server.connections.open == 0)
        gone.set()
        await asyncio.wait_for(server.ended.wait(), 3)
        assert server.read == [b"x" * 50_000]


@on_both_loops
async def test_a_chunked_body_without_end_ends_with_the_buffer():
    async with serving() as server, connected(server) as (reader, writer):
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")

        async def flood():
            with suppress(ConnectionError):
                while True:
                    writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                    await writer.drain()

        flooding = asyncio.create_task(flood())
        await reader.readuntil(b"thanks")
        flooding.cancel()
        assert server.read == [b"x" * MIB]


@on_both_loops
async def test_after_a_chunk_that_is_none_nothing_more_comes():
    def rule():
        return SlowBody(silence=0.2)  # aiohttp does not tell the reader

    async with serving(rule=rule) as server, connected(server) as (_, writer):
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n")
        await until(lambda: server.pieces)
        writer.write(b"no size\r\n")
        await asyncio.wait_for(server.ended.wait(), 3)
        assert (server.read, server.pieces) == (["too slow"], [5])


@on_both_loops
async def test_a_body_that_stops_coming_is_cut(tls):
    def rule():
        return SlowBody(silence=0.2)

    async with serving(tls=tls, rule=rule) as server, connected(server) as (_, writer):
        writer.write(POST + b"Content-Length: 1048576\r\n\r\nx")
        await asyncio.wait_for(server.ended.wait(), 3)
        assert server.read == ["too slow"]
        assert server.pieces == [1]


@on_both_loops
async def test_a_body_that_drips_is_cut():
    def rule():
        return SlowBody(silence=0.2, floor=100_000, window=0.5)

    async with serving(rule=rule) as server, connected(server) as (_, writer):
        writer.write(POST + b"Content-Length: 1048576\r\n\r\n")
        while not server.ended.is_set():
            writer.write(b"x")
            await asyncio.sleep(0.05)
        assert server.read == ["too slow"]
        assert len(server.pieces) > 4


@on_both_loops
async def test_stopping_lets_a_request_end_and_closes_what_is_idle(tls):
    server = Server(QUICK, tls)
    await server.start()
    idle, busy = await server.connect(), await server.connect()
    idle[1].write(GET)
    await idle[0].readuntil(b"here")
    busy[1].write(POST + b"Content-Length: 1048576\r\n\r\n")
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(server.connections.stop(2))
    await asyncio.sleep(0.05)
    busy[1].write(b"x" * MIB)
    assert b"thanks" in (await end_of(busy[0]))[0]
    assert (await end_of(idle[0]))[1] < 0.5
    for _, writer in (idle, busy):
        await close(writer)
    await asyncio.wait_for(stopping, 1)
    assert server.connections.open == 0
    with pytest.raises(ConnectionError):
        await server.connect()


@on_both_loops
async def test_stopping_does_not_wait_for_a_client_that_does_not_read():
    server = Server(Limits())
    await server.start()
    _, writer = await server.connect(limit=1024)
    writer.transport.pause_reading()
    writer.write(GET.replace(b"small", b"large"))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(3):
        await server.connections.stop(0.2)
    assert server.connections.open == 0
    writer.transport.abort()
