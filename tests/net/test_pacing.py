"""What a byte costs on the wire, who receives at a time, and buffers that follow a limit."""

import asyncio
import socket
import ssl
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.net import pacing
from transfer.net.pacing import Sockets, Turns, on_wire, pace_of, read_ahead, slice_of
from transfer.policy.token_bucket import MAX_RATE
from transfer.throttle.throttle import Throttle

MIB = 2**20


@given(st.integers(0, 10**7))
def test_tls_adds_22_bytes_to_each_record_of_16_kib(size):
    records = [min(16384, size - at) for at in range(0, size, 16384)]
    assert on_wire(size) == sum(record + 22 for record in records)


def test_openssl_agrees(contexts):
    client, server = contexts
    for size in (1, 1000, 16384, 16385, 100_000):
        before = server.incoming.pending
        client.tls.write(bytes(size))
        raw = client.outgoing.read()
        assert len(raw) == on_wire(size), before


class End:
    def __init__(self, context, incoming, outgoing, **options):
        self.incoming, self.outgoing = incoming, outgoing
        self.tls = context.wrap_bio(incoming, outgoing, **options)


@pytest.fixture
def contexts(tmp_path):
    """Two ends of a TLS 1.3 connection whose handshake is over."""
    from transfer.crypto import certificates, issuing
    from transfer.net import tls

    now = 1_700_000_000 * 10**9
    ca, key = issuing.new_ca(b"v" * 16, now), certificates.new_key()
    chain = [issuing.issue_server(ca, key, b"v" * 16, [], now)]
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = certificates.server_name(b"v" * 16)
    server = End(tls.server_context([ca.certificate], chain, key), up, down, server_side=True)
    client_context = tls.client_context([ca.certificate], None, None, lambda: now)
    client = End(client_context, down, up, server_hostname=name)
    for _ in range(4):
        for end in (client, server):
            try:
                end.tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
    client.outgoing.read()
    return client, server


@given(st.integers(1, 10**10))
def test_a_slice_costs_one_quantum_on_the_wire_and_one_byte_more_would_not(rate):
    with closing(Throttle(rate)) as throttle:
        flow = throttle.flow("up")
        assert on_wire(slice_of(flow)) <= flow.quantum < on_wire(slice_of(flow) + 1) + 23


def test_a_vault_is_asked_for_a_little_more_than_the_limit():
    assert (pace_of(0), pace_of(None), pace_of(MAX_RATE)) == (0, MAX_RATE, MAX_RATE)
    assert 5 * MIB < pace_of(5 * MIB) <= 5.05 * MIB


def test_what_waits_for_its_reader_is_little_where_the_rate_is():
    assert read_ahead(None) == read_ahead(10**9) == 64 * 1024
    assert read_ahead(1) == 4096


async def test_turns_are_taken_in_order_and_as_many_as_the_number_says():
    most, inside, order = [1], set(), []
    turns = Turns(lambda: most[0])

    async def work(number):
        async with turns.one():
            inside.add(number)
            order.append(number)
            assert len(inside) <= most[0]
            await asyncio.sleep(0.01)
            inside.discard(number)

    tasks = [asyncio.create_task(work(number)) for number in range(6)]
    await asyncio.sleep(0.005)
    tasks[1].cancel()
    most[0] = 2
    turns.look()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 2, 3, 4, 5]


async def test_who_is_cancelled_in_the_moment_of_its_turn_passes_it_on():
    turns = Turns(lambda: 1)
    done, go = [], asyncio.Event()

    async def work(number):
        async with turns.one():
            done.append(number)
            await go.wait()

    tasks = [asyncio.create_task(work(number)) for number in range(3)]
    await asyncio.sleep(0)
    tasks[0].add_done_callback(lambda _: tasks[1].cancel())
    go.set()
    await asyncio.wait_for(tasks[2], 1)
    assert done in ([0, 2], [0, 1, 2])
    await asyncio.wait(tasks)
    async with asyncio.timeout(1), turns.one():
        pass  # no turn was lost


def option(made, level, name):
    return made.getsockopt(level, name)


def test_sockets_follow_the_limit_and_forget_it():
    sockets = Sockets(4)
    with socket.socket() as made:
        sockets.add(made)
        sockets.follow(MIB, None)
        assert option(made, socket.SOL_SOCKET, pacing._SO_MAX_PACING_RATE) == int(MIB * 1.06)
        assert option(made, socket.IPPROTO_TCP, pacing._TCP_NOTSENT_LOWAT) == MIB // 4 // 20
        for rate in (0, 5000, None):  # a packet that waits for the kernel is not told of a change
            sockets.follow(rate, None)
            assert option(made, socket.SOL_SOCKET, pacing._SO_MAX_PACING_RATE) == -1
        assert option(made, socket.IPPROTO_TCP, pacing._TCP_NOTSENT_LOWAT) == pacing._ANY


@pytest.mark.parametrize("buffer", [socket.SO_SNDBUF, socket.SO_RCVBUF])
def test_buffers_are_as_small_as_the_rate_and_never_what_limits_it(buffer):
    """Linux doubles what is set."""
    sockets = Sockets(4)
    with socket.socket() as made, socket.socket() as later:
        sockets.add(made)
        before = option(made, socket.SOL_SOCKET, buffer)
        sockets.follow(50 * MIB, 50 * MIB)
        assert option(made, socket.SOL_SOCKET, buffer) == before  # it grows by itself
        sockets.follow(2 * MIB, 2 * MIB)
        assert option(made, socket.SOL_SOCKET, buffer) == 2 * (2 * MIB // 4 // 4)
        sockets.add(later)
        assert option(later, socket.SOL_SOCKET, buffer) == 2 * (2 * MIB // 4 // 4)
        sockets.follow(0, 0)
        assert option(made, socket.SOL_SOCKET, buffer) == 2 * (2 * MIB // 4 // 4)  # a pause ends
        sockets.follow(64_000, 64_000)
        least = {socket.SO_SNDBUF: 16, socket.SO_RCVBUF: 64}[buffer] * 1024
        assert option(made, socket.SOL_SOCKET, buffer) == 2 * least
        sockets.follow(None, None)
        assert option(made, socket.SOL_SOCKET, buffer) >= 416 * 1024  # as far as we may


def test_a_socket_that_was_closed_is_no_failure():
    sockets = Sockets(1)
    made = socket.socket()
    sockets.add(made)
    made.close()
    sockets.follow(1000, 1000)
    pacing.pace(made, 5)
