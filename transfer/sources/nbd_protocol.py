"""NBD as a client of it speaks: bytes in, events out. No sockets, no clocks, and no writes, ever.

Integers are big-endian. The server opens, the client answers:

    server  NBDMAGIC 8, IHAVEOPT 8, flags 2     bit 0: fixed newstyle (needed), bit 1: no zeroes
    client  flags 4                             the same bits

Then come options, one at a time, each with its replies until ACK (1, empty) or an error (bit 31):

    client  IHAVEOPT 8, option 4, length 4, data
    server  0x3e889045565a9 8, option 4, reply 4, length 4, data

    option                   data                             replies
     5 STARTTLS              -                                ACK; TLS begins with the next byte
     8 STRUCTURED_REPLY      -                                ACK
     9 LIST_META_CONTEXT     export, count 4, queries         4 CONTEXT: 0 4, name
    10 SET_META_CONTEXT      export, count 4, names           4 CONTEXT: ID 4, name
     7 GO                    export, count 2, infos 2 each    3 INFO: kind 2, and
                                                                0: size 8, flags 2
                                                                3: least, preferred, most 4 each
     2 ABORT                 -                                not waited for

Export, query and name are strings: length 4 (at most 4096), bytes. After GO there are requests,
any number at a time, and replies in any order, the chunks of several replies mixed:

    client  0x25609513 4, flags 2, command 2, cookie 8, offset 8, length 4
    server  0x67446698 4, error 4, cookie 8; of a read without error its data       simple
    server  0x668e33ef 4, flags 2, type 2, cookie 8, length 4, payload              a chunk

    command                                   chunks of its reply; bit 0 of flags: the last one
    0 READ                                    1 DATA: offset 8, bytes    2 HOLE: offset 8, size 4
    7 BLOCK_STATUS; flag 8: one extent only   5 STATUS: context 4, (length 4, flags 4) ...
    3 FLUSH                                   -
    2 DISC                                    no reply
    any                                       0 NONE: empty, the last one
                                              bit 15, an error: number 4, length 2, words; type
                                              0x8002 also the offset 8

A read is answered in chunks where STRUCTURED_REPLY was agreed on, else in a simple reply; chunks
cover what was asked for, all of it and nothing twice, unless there is an error. A status has a
chunk for each context of SET_META_CONTEXT. A server that leaves a context out does not have it.

Whatever else a server says is `ProtocolBroken`, after which nothing is believed: a wrong magic,
another option's answer, bytes outside of what was asked for or for the second time, a cookie that
is not in use, an end before all is there, extents of no length or beyond the export. No length is
believed before it is compared with what was asked. Memory: see nbd_input.py and nbd_replies.py,
and in the handshake MAX_OFFERS replies of at most 8 KiB.
"""

import struct
from typing import Final, NamedTuple

from transfer.errors import TransferError
from transfer.sources.nbd_handshake import SEND_FLUSH, Export, Terms, shake_hands
from transfer.sources.nbd_input import Input, Parser
from transfer.sources.nbd_replies import (
    REQ_ONE,
    Answered,
    Command,
    Failure,
    Replies,
    Request,
    Statuses,
)

__all__ = [
    "MAX_READ", "MAX_STATUS", "START_TLS", "Answered", "Connection", "Event", "Export", "Failure",
    "StartTls", "Statuses", "Terms",
]  # fmt: skip

MAX_READ = 4 * 2**20
"""Bytes of one read."""
MAX_STATUS = 2**32 - 2**16
"""Bytes of one status: a multiple of any smallest block that a server may have."""
_REQUEST = struct.Struct(">IHHQQI")
_REQUEST_MAGIC = 0x25609513


class StartTls(NamedTuple):
    """Begin TLS, then call `secured`; what is received from now on belongs to TLS."""


Event = StartTls | Export | Answered
START_TLS: Final = StartTls()


class Connection:
    """One connection. What `output` gives is to be sent, after whatever else is called.

    The first event is the Export, before it with *terms.tls* START_TLS. Then any number of requests
    may be made; each has a cookie, which its Answered names.
    """

    export: Export | None = None

    def __init__(self, terms: Terms) -> None:
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._pending: dict[int, Request] = {}
        self._cookie = 0
        self._error: TransferError | None = None
        self._input = Input(self._parser(terms))

    def _parser(self, terms: Terms) -> Parser[None]:
        self.export = yield from shake_hands(terms, self._out.append)
        self._events.append(self.export)
        yield from Replies(self.export, self._pending, self._events.append).parse()

    @property
    def in_flight(self) -> int:
        """Requests that are not answered, those that were discarded too."""
        return len(self._pending)

    def buffer(self) -> memoryview:
        """Where to receive to: never empty, and good until anything else is called."""
        return self._input.buffer()

    def received(self, count: int) -> list[Event]:
        """What follows from *count* bytes that are in the buffer now.

        Raises what `shake_hands` does, and ProtocolBroken; from then on always the same.
        """
        if self._error is not None:
            raise self._error
        try:
            self._input.received(count)
        except TransferError as error:
            self._error = error
            raise
        events = self._events[:]
        self._events.clear()
        return [START_TLS, *events] if self._input.waits_for_tls else events

    def secured(self) -> None:
        """TLS has begun: go on."""
        self._input.secured()

    def output(self) -> bytes:
        """What is to be sent now; it is given once."""
        said = b"".join(self._out)
        self._out.clear()
        return said

    # Requests. Each raises ValueError for what the export does not allow.

    def read(self, offset: int, view: memoryview) -> int:
        """Fill *view* with what is at *offset*; if it fails, the view may hold anything."""
        if view.readonly or view.nbytes != len(view):
            raise ValueError("a read needs a writable view of bytes")
        most = min(MAX_READ, self._opened.max_payload)
        return self._ask(Command.READ, offset, len(view), most, view)

    def block_status(self, offset: int, length: int, one: bool = False) -> int:
        """Ask for all contexts at once; with *one* for the first extent only."""
        if not self._opened.contexts:
            raise ValueError("no context was agreed on")
        return self._ask(
            Command.BLOCK_STATUS, offset, length, MAX_STATUS, None, REQ_ONE if one else 0
        )

    def flush(self) -> int:
        """What others wrote becomes durable."""
        if not self._opened.flags & SEND_FLUSH:
            raise ValueError("the server cannot flush")
        return self._send(Request(Command.FLUSH, 0, 0), 0)

    def disconnect(self) -> None:
        """Say goodbye, if it is time for that; nothing may be asked any more."""
        if self.export is not None:
            self._out.append(_REQUEST.pack(_REQUEST_MAGIC, 0, Command.DISC, 0, 0, 0))

    def discard(self, cookie: int) -> None:
        """Leave the request's buffer alone from now on. It stays in flight."""
        if cookie in self._pending:
            self._pending[cookie].discard()

    @property
    def _opened(self) -> Export:
        if self.export is None:
            raise ValueError("the handshake is not over")
        return self.export

    def _ask(
        self, command: Command, offset: int, length: int, most: int, view: memoryview | None,
        flags: int = 0,
    ) -> int:  # fmt: skip
        size, block = self._opened.size, self._opened.min_block
        end = offset + length
        aligned = offset % block == 0 and (length % block == 0 or end == size)
        if not (aligned and 0 < length <= most and 0 <= offset <= size - length):
            raise ValueError(f"{length} bytes at {offset} of {size}, in blocks of {block}")
        return self._send(Request(command, offset, length, view, bool(flags & REQ_ONE)), flags)

    def _send(self, request: Request, flags: int) -> int:
        self._cookie += 1
        self._pending[self._cookie] = request
        self._out.append(
            _REQUEST.pack(
                _REQUEST_MAGIC, flags, request.command, self._cookie, request.offset, request.length
            )
        )
        return self._cookie
