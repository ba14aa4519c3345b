"""The blocking reader of NBD: what a worker process reads over a connection of its own."""

import pickle
import random
import signal
import socket
import threading
import time
from functools import partial

import pytest

from tests.sources import nbd_script as script
from tests.sources.nbd_fake import FakeServer, faked
from tests.sources.nbd_servers import command, nbdkit, open_sockets, qemu_io, qemu_nbd
from transfer.errors import NotFound, ProtocolBroken, SourceFailed, SourceUnavailable
from transfer.sources.nbd_address import NbdAddress
from transfer.sources.nbd_reader import NbdReader

MIB = 2**20
CONTENT = random.Random(5).randbytes(6 * MIB)


def read(reader, offset, length):
    view = memoryview(bytearray(b"?" * length))
    reader.read_into(offset, view)
    return bytes(view)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "disk"
    path.write_bytes(CONTENT)
    return path


# Real servers


def test_what_is_read_is_what_is_there(image, tmp_path):
    choice = random.Random(6)
    with qemu_nbd(image, tmp_path) as address, NbdReader(pickle.loads(pickle.dumps(address))) as r:
        assert r.size == len(CONTENT)
        assert read(r, 0, r.size) == CONTENT
        assert read(r, r.size - 1, 1) == CONTENT[-1:]
        assert read(r, 0, 0) == b""
        for _ in range(50):
            at = choice.randrange(r.size)
            length = min(choice.choice([1, 4096, 100_000, 3 * MIB]), r.size - at)
            assert read(r, at, length) == CONTENT[at : at + length]


def test_holes_become_zeros(tmp_path):
    path = tmp_path / "disk"
    command("qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
    qemu_io(path, "write -q -P 7 1M 64k", "write -q -z 2M 64k", "write -q -P 8 5M 512")
    expected = bytearray(8 * MIB)
    expected[MIB : MIB + 2**16] = b"\7" * 2**16
    expected[5 * MIB : 5 * MIB + 512] = b"\x08" * 512
    with qemu_nbd(path, tmp_path, format="qcow2") as address, NbdReader(address) as reader:
        assert read(reader, 0, 8 * MIB) == expected


def test_an_error_is_raised_and_the_connection_lives_on(tmp_path):
    trigger = tmp_path / "fail"
    words = ["--filter=error", "pattern", "size=16M", "error-pread-rate=30%",
             f"error-file={trigger}"]  # fmt: skip
    with nbdkit(tmp_path, *words) as (address, _), NbdReader(address, in_flight=8) as reader:
        whole = read(reader, 0, 16 * MIB)
        trigger.touch()
        with pytest.raises(SourceFailed, match=r"1048576 bytes at \d+ cannot be read") as failed:
            list(iter(partial(read, reader, 0, 16 * MIB), b""))
        assert failed.value.number == 5
        trigger.unlink()
        assert read(reader, 0, 16 * MIB) == whole


def test_requests_keep_to_the_servers_blocks(tmp_path):
    words = ["--filter=blocksize-policy", "pattern", "size=1M", "blocksize-error-policy=error",
             "blocksize-minimum=4096", "blocksize-preferred=4096",
             "blocksize-maximum=65536"]  # fmt: skip
    whole = b"".join(at.to_bytes(8, "big") for at in range(0, MIB, 8))
    with nbdkit(tmp_path, *words) as (address, _), NbdReader(address) as reader:
        for at, length in ((0, MIB), (1, 1), (4095, 2), (4096, 8192), (777, 200_000)):
            assert read(reader, at, length) == whole[at : at + length]


def test_requests_are_under_way_at_a_time(tmp_path):
    words = ["--filter=delay", "null", "size=4M", "rdelay=200ms"]
    with nbdkit(tmp_path, *words) as (address, _):
        for in_flight, least, most in ((1, 0.8, 9), (4, 0.2, 0.75)):
            with NbdReader(address, in_flight=in_flight) as reader:
                began = time.monotonic()
                assert read(reader, 0, 4 * MIB) == bytes(4 * MIB)
                assert least <= time.monotonic() - began < most


def test_a_server_without_structured_replies(image, tmp_path):
    simple = nbdkit(tmp_path, "file", image, options=["--no-sr"])
    with simple as (address, _), NbdReader(address) as reader:
        assert read(reader, 1000, 3 * MIB) == CONTENT[1000 : 1000 + 3 * MIB]


def test_tcp(image, tmp_path):
    with nbdkit(tmp_path, "file", image, tcp=True) as (address, _), NbdReader(address) as reader:
        assert read(reader, 0, len(CONTENT)) == CONTENT
        # A request that waits for the acknowledgement of another one would wait for 40 ms.
        assert reader._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_server_that_dies(tmp_path):
    words = ["--filter=delay", "null", "size=4M", "rdelay=60"]
    with nbdkit(tmp_path, *words) as (address, process), NbdReader(address) as reader:
        killer = threading.Timer(0.1, process.kill)
        killer.start()
        with pytest.raises(SourceUnavailable):
            read(reader, 0, 4 * MIB)
        with pytest.raises(SourceUnavailable, match="closed"):
            read(reader, 0, 512)
        killer.join()


def test_where_nothing_is(image, tmp_path):
    before = open_sockets()
    with pytest.raises(NotFound, match="no such socket"):
        NbdReader(NbdAddress(b"", bytes(tmp_path / "no")))
    with pytest.raises(SourceUnavailable, match=r"nbd://127\.0\.0\.1:1/: Connection refused"):
        NbdReader(NbdAddress(b"", host="127.0.0.1", port=1))
    with pytest.raises(SourceUnavailable, match=r"nbd://x{64}/"):
        NbdReader(NbdAddress(b"", host="x" * 64))
    with qemu_nbd(image, tmp_path) as address, pytest.raises(NotFound, match="export 'another'"):
        NbdReader(address._replace(export=b"another"))
    assert open_sockets() == before


# A server that does what it wants


def test_the_buffer_is_received_into_where_it_is(tmp_path):
    """But for what comes along with a header, nothing is copied."""
    received = []

    class Noting(socket.socket):
        def recv_into(self, buffer, *arguments):
            count = super().recv_into(buffer, *arguments)
            received.append((buffer.obj, count))
            return count

    with faked(FakeServer(CONTENT), tmp_path) as address, NbdReader(address) as reader:
        reader._socket = Noting(fileno=reader._socket.detach())
        reader._socket.settimeout(20)
        view = memoryview(bytearray(4 * MIB))
        reader.read_into(MIB, view)
    assert bytes(view) == CONTENT[MIB : 5 * MIB]
    direct = sum(count for where, count in received if where is view.obj)
    assert 4 * MIB - 4 * 2**13 <= direct < 4 * MIB


class Waiting(FakeServer):
    """Answers when all that can come has come; knows how many requests that were at the most."""

    highest = 0

    def reply(self, command, cookie, offset, length):
        waiting = b""
        if len(self.requests) == 1:
            time.sleep(0.05)
            waiting = self.client.recv(2**16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        self.highest = max(self.highest, 1 + len(waiting) // 28)
        return super().reply(command, cookie, offset, length)


def test_as_much_is_asked_for_at_a_time_as_there_may_be(tmp_path):
    server = Waiting(CONTENT)
    with faked(server, tmp_path) as address, NbdReader(address, in_flight=3) as reader:
        assert read(reader, 0, 6 * MIB) == CONTENT
    assert server.highest == 3
    assert [each[3:] for each in server.requests] == [(n * MIB, MIB) for n in range(6)]


class Failing(FakeServer):
    """Fails the request of number *bad*."""

    bad = 2

    def reply(self, command, cookie, offset, length):
        if len(self.requests) == self.bad:
            return script.failed(cookie, 5, b"a bad sector")
        return super().reply(command, cookie, offset, length)


def test_after_an_error_no_more_is_asked_for_and_nothing_is_left(tmp_path):
    server = Failing(CONTENT)
    with faked(server, tmp_path) as address, NbdReader(address, in_flight=2) as reader:
        with pytest.raises(SourceFailed, match=r"1048576 bytes at 1048576 .*: a bad sector"):
            read(reader, 0, 6 * MIB)
        assert len(server.requests) < 5
        assert read(reader, 0, 6 * MIB) == CONTENT


def test_a_lie_closes_the_connection(tmp_path):
    class Lying(FakeServer):
        def reply(self, command, cookie, offset, length):
            return script.data(cookie, offset + length, b"x")

    server = Lying(CONTENT)
    with faked(server, tmp_path) as address:
        reader = NbdReader(address)
        with pytest.raises(ProtocolBroken, match=r"fake\.sock: it sends 1 bytes at 512"):
            read(reader, 0, 512)
        assert server.parted.wait(20)
        with pytest.raises(SourceUnavailable, match="closed"):
            read(reader, 0, 512)
        reader.close()


def test_a_server_that_ends_is_parted_with(tmp_path):
    class Ending(FakeServer):
        def reply(self, command, cookie, offset, length):
            return script.failed(cookie, 108)

    server = Ending(CONTENT)
    with faked(server, tmp_path) as address:
        reader = NbdReader(address)
        with pytest.raises(SourceUnavailable, match="about to end"):
            read(reader, 0, 512)
        assert server.parted.wait(20)


class Mute(FakeServer):
    def greet(self, client):
        self.go_on.wait(20)


class MuteLater(FakeServer):
    def reply(self, command, cookie, offset, length):
        self.go_on.wait(20)
        raise ConnectionError


class Dripping(FakeServer):
    """Something comes all the time, and never an end."""

    def greet(self, client):
        for byte in script.GREETING + script.reply(script.STRUCTURED, script.INFO, bytes(8000)):
            client.sendall(bytes([byte]))
            if self.go_on.wait(0.02):
                return


@pytest.mark.parametrize("server", [Mute, MuteLater, Dripping])
def test_a_server_that_says_nothing_is_not_waited_for(tmp_path, server):
    before = open_sockets()
    with faked(server(CONTENT), tmp_path) as address:
        began = time.monotonic()
        with pytest.raises(SourceUnavailable, match="says nothing"):
            read(NbdReader(address, patience=0.2), 0, 512)
        assert 0.15 < time.monotonic() - began < 2
    assert open_sockets() == before


def test_the_handshake_takes_none_of_the_time_of_what_follows(tmp_path):
    class Slow(FakeServer):
        def greet(self, client):
            self.go_on.wait(0.3)
            super().greet(client)

        def reply(self, command, cookie, offset, length):
            self.go_on.wait(0.3)
            return super().reply(command, cookie, offset, length)

    with faked(Slow(CONTENT), tmp_path) as address, NbdReader(address, patience=0.5) as reader:
        assert read(reader, 0, 5) == CONTENT[:5]


def test_what_is_interrupted_is_closed(tmp_path):
    """The answer is still to come, and whose it is nobody would know."""

    class Interrupted(Exception):
        pass

    def interrupt(number, frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with faked(MuteLater(CONTENT), tmp_path) as address, NbdReader(address) as reader:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                read(reader, 0, 512)
            with pytest.raises(SourceUnavailable, match="closed"):
                read(reader, 0, 512)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_beyond_the_end_is_not_asked(tmp_path):
    server = FakeServer(CONTENT)
    with faked(server, tmp_path) as address, NbdReader(address) as reader:
        for offset in (len(CONTENT) - 1, -1):
            with pytest.raises(ValueError, match=f"2 bytes at {offset}"):
                read(reader, offset, 2)
        assert read(reader, 0, 2) == CONTENT[:2]
    assert len(server.requests) == 1


def test_an_export_that_ends_within_a_block(tmp_path):
    server = FakeServer(CONTENT[:1000], infos=[script.sizes(512)])
    with faked(server, tmp_path) as address, NbdReader(address) as reader:
        assert read(reader, 600, 400) == CONTENT[600:1000]
    assert server.requests[0][3:] == (512, 488)


def test_a_goodbye_is_said_and_the_socket_is_gone(tmp_path):
    class Listening(FakeServer):
        polite = False

        def serve(self, client):
            super().serve(client)
            self.polite = True

    server = Listening(CONTENT)
    with faked(server, tmp_path) as address:
        reader = NbdReader(address)
        reader.close()
        assert server.parted.wait(20)
        reader.close()
        assert server.polite


def test_what_a_server_said_before_it_hung_up_is_heard(tmp_path):
    class Leaving(FakeServer):
        def serve(self, client):
            self.greet(client)
            self.go_on.wait(20)
            client.sendall(script.failed(1, 108, b"bye"))

    server = Leaving(CONTENT)
    with faked(server, tmp_path) as address:
        reader = NbdReader(address)
        server.go_on.set()
        assert server.parted.wait(20)
        with pytest.raises(SourceUnavailable, match="about to end: bye"):
            read(reader, 0, 512)
