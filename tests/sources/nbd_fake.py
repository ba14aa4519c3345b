"""An NBD server in this process that can be slow, silent, wrong, and gone, when a test wants it."""

import socket
import struct
import threading
from contextlib import contextmanager, suppress

from tests.sources import nbd_script as script
from transfer.sources.nbd_address import NbdAddress

_STOP = 2


class FakeServer:
    """Serves *content* to one client after the other, one request at a time.

    *statuses* are the extents (length, flags) of the context `x:y`, of which each reply has at most
    *most*. Tests replace `reply`, which may wait, lie, and hang up by raising ConnectionError.
    """

    def __init__(self, content=b"", statuses=(), most=3, infos=()):
        self.content, self.statuses, self.most, self.infos = content, list(statuses), most, infos
        self.size = len(content) or sum(length for length, _ in statuses)
        self.requests = []
        """(flags, command, cookie, offset, length) of each."""
        self.client = None
        self.go_on = threading.Event()
        """For replies that wait for something; set when the test is over."""
        self.parted = threading.Event()
        """The last client said goodbye, or hung up."""

    def greet(self, client):
        client.sendall(script.GREETING)
        _take(client, 4)
        while True:
            _, number, length = struct.unpack(">QII", _take(client, 16))
            _take(client, length)
            if number == _STOP:
                raise ConnectionError
            if number == script.SET:
                client.sendall(script.context(number, 7, "x:y"))
            if number == script.GO:
                client.sendall(b"".join([script.described(self.size), *self.infos]))
            client.sendall(script.reply(number, script.ACK))
            if number == script.GO:
                return

    def serve(self, client):
        self.greet(client)
        while True:
            _, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", _take(client, 28))
            if command == _STOP:
                return
            self.requests.append((flags, command, cookie, offset, length))
            client.sendall(self.reply(command, cookie, offset, length))

    def reply(self, command, cookie, offset, length):
        if command == 7:
            extents = self._extents(offset, length)
            return script.status(cookie, 7, *extents, flags=script.DONE)
        return script.data(cookie, offset, self.content[offset : offset + length], script.DONE)

    def _extents(self, offset, length):
        found, at = [], 0
        for size, flags in self.statuses:
            start, at = at, at + size
            if at > offset and start < offset + length and len(found) < self.most:
                found.append((min(at - max(start, offset), 2**32 - 512), flags))
        return found

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.parted.clear()
            self.client = client
            with client, suppress(OSError):
                self.serve(client)
            self.parted.set()


def _take(client, count):
    raw = b""
    while len(raw) < count:
        got = client.recv(count - len(raw))
        if not got:
            raise ConnectionError
        raw += got
    return raw


@contextmanager
def faked(server, place):
    """*server* on a socket in *place*; its address."""
    path = place / "fake.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(bytes(path))
        listener.listen()
        thread = threading.Thread(target=server.accept, args=(listener,))
        thread.start()
        try:
            yield NbdAddress(b"disk", bytes(path))
        finally:
            server.go_on.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
