"""Where packets are lost again and again, connections send at the pace that they measure."""

import socket

import pytest

from transfer.net import losses
from transfer.net.losses import Losses, bear_losses
from transfer.net.pacing import Sockets
from transfer.net.tcp_info import Traffic, info_of


def looks(*pairs, trip=0.1):
    """What is said of looks at so many (segments, repeated) each."""
    seen, traffic, said = Losses(), Traffic(), []
    for segments, repeated in pairs:
        traffic = traffic._replace(
            segments=traffic.segments + segments, repeated=traffic.repeated + repeated
        )
        said.append(seen.seen(traffic, trip))
    return said


def test_a_line_that_loses_again_and_again_is_known_at_the_second_look_and_said_once():
    assert looks((1000, 10), (1000, 10), (1000, 10)) == [False, True, False]


def test_a_line_that_loses_one_in_a_thousand_is_known_after_a_few_losses():
    assert looks(*[(400, n % 5 > 2) for n in range(20)]).index(True) < 15


def test_the_losses_of_one_start_say_nothing():
    assert looks((1000, 400), *[(1000, 0)] * 90) == [False] * 91


def test_a_loss_now_and_then_on_a_quick_line_says_nothing():
    assert not any(looks(*[(100_000, 40)] * 50))


def test_a_loss_in_an_hour_of_a_slow_line_says_nothing():
    assert not any(looks(*[(5000, n % 40 == 0) for n in range(400)]))


def test_a_line_that_begins_to_lose_is_known_however_long_it_did_not():
    assert any(looks(*[(9000, 0)] * 900, *[(1000, 30)] * 2))


def test_losses_of_a_line_that_is_short_say_nothing():
    assert not any(looks(*[(1000, 20)] * 50, trip=0.0005))


@pytest.fixture
def pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            yield near, far


def test_what_the_kernel_says_of_a_connection_is_what_went_over_it(pair):
    near, far = pair
    near.sendall(bytes(20_000))
    left = 20_000
    while left:
        left -= len(far.recv(left))
    far.sendall(b"done")
    assert near.recv(4) == b"done"
    sent, received = info_of(near), info_of(far)
    assert sent.traffic.sent in (20_000, 20_001)  # the SYN counts as a byte
    assert sent.traffic.received == 4
    assert received.traffic.received == 20_000
    assert sent.traffic.segments >= 2 and sent.traffic.repeated == 0
    assert 3e-6 < sent.round_trip < 1
    assert 0 <= sent.traffic.busy < 1


def test_of_a_socket_that_is_closed_nothing_is_known():
    made = socket.socket()
    assert info_of(made).round_trip == 0  # there was none
    made.close()
    assert info_of(made) is None
    bear_losses(made)


def test_traffic_counts_what_went_over_connections_that_are_gone(pair):
    near, far = pair
    sockets = Sockets(4)
    assert sockets.traffic() is None
    sockets.add(near)
    near.sendall(bytes(1000))
    far.sendall(far.recv(1000))
    assert len(near.recv(1000)) == 1000
    before = sockets.traffic()
    assert before.received == sockets.traffic().received == 1000
    near.close()
    assert sockets.traffic().received == 1000


def congestion(made):
    return made.getsockopt(socket.IPPROTO_TCP, losses._CONGESTION, 16).rstrip(b"\0")


def test_a_connection_that_is_to_bear_losses_has_bbr():
    with socket.socket() as made:
        try:
            made.setsockopt(socket.IPPROTO_TCP, losses._CONGESTION, b"reno")
            made.setsockopt(socket.IPPROTO_TCP, losses._CONGESTION, b"bbr")
        except OSError:
            pytest.skip("this system has no BBR for us")
        made.setsockopt(socket.IPPROTO_TCP, losses._CONGESTION, b"reno")
        bear_losses(made)
        assert congestion(made) == b"bbr"
