"""The second half of NBD: replies to requests, each believed only as far as it was asked for.

See nbd_protocol.py for the messages. Memory is bounded by what was asked: a read has its caller's
buffer, and a list of the parts that have come, no more than its sectors and a few; of a status at
most MAX_EXTENTS a context are kept. All that a server says for one request is bounded, too.
"""

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import NamedTuple

from transfer.errors import ProtocolBroken
from transfer.sources.nbd_handshake import Export
from transfer.sources.nbd_input import Fill, Parser

SIMPLE, STRUCTURED = 0x67446698, 0x668E33EF
REQ_ONE = 1 << 3
DONE = 1
ANY_ERROR = 1 << 15
MAX_EXTENTS = 2**20
MAX_WORDS = 4096  # bytes of an error's message
_SIMPLE = struct.Struct(">IQ")
_CHUNK = struct.Struct(">HHQI")
_OFFSET = struct.Struct(">Q")
_HOLE = struct.Struct(">QI")
_ERROR = struct.Struct(">IH")
_SECTOR = 512
_MORE_PARTS = 64
_ZEROS = bytes(64 * 2**10)
Statuses = Mapping[str, "array[int]"]


class Command(IntEnum):
    READ = 0
    DISC = 2
    FLUSH = 3
    BLOCK_STATUS = 7


class Chunk(IntEnum):
    NONE = 0
    DATA = 1
    HOLE = 2
    STATUS = 5
    ERROR = ANY_ERROR + 1
    ERROR_OFFSET = ANY_ERROR + 2


class Failure(NamedTuple):
    """What the server says went wrong: a number of those that NBD has, and its words."""

    number: int
    words: str = ""


class Answered(NamedTuple):
    """All of the reply to the request *cookie* is there.

    Without a *failure* the buffer of a read is full. *statuses* are a status's: for each context
    lengths and flags in turn; the extents follow one another from the offset that was asked for,
    and the last one may end beyond what was asked, never beyond the export.
    """

    cookie: int
    failure: Failure | None
    statuses: Statuses


class Request:
    """One that was sent, and what has come of its reply."""

    def __init__(
        self, command: Command, offset: int, length: int,
        view: memoryview | None = None, one: bool = False,
    ) -> None:  # fmt: skip
        self.command, self.offset, self.length, self.one = command, offset, length, one
        self.failure: Failure | None = None
        self.statuses: dict[int, array[int]] = {}
        self._view = view
        self._filling: Fill | None = None
        self._edges: list[int] = []  # where what has come begins and ends, in turn
        self._errors = 0

    def discard(self) -> None:
        """From now on nothing is written to its buffer."""
        self._view = None
        if self._filling is not None:
            self._filling.view = None

    def cover(self, start: int, length: int) -> memoryview | None:
        """That part of the buffer; each can be had once."""
        stop = start + length
        at = bisect_right(self._edges, start)
        if not length or start < self.offset or stop > self.offset + self.length:
            raise ProtocolBroken(
                f"it sends {length} bytes at {start}, where {self.length} at {self.offset} "
                "were asked for"
            )
        if at % 2 or at != bisect_left(self._edges, stop):
            raise ProtocolBroken(f"it sends what is at {start} a second time")
        # What touches its neighbour grows together with it.
        left = at - (at > 0 and self._edges[at - 1] == start)
        right = at + (at < len(self._edges) and self._edges[at] == stop)
        self._edges[left:right] = [start] * (left == at) + [stop] * (right == at)
        if len(self._edges) > 2 * (self.length // _SECTOR + _MORE_PARTS):
            raise ProtocolBroken("it sends crumbs, far apart")
        return self._part(start, stop)

    def _part(self, start: int, stop: int) -> memoryview | None:
        if self._view is None:
            return None
        return self._view[start - self.offset : stop - self.offset]

    def fill(self, start: int, length: int) -> Fill:
        """Where to put that many bytes that now come."""
        self._filling = Fill(self.cover(start, length), length)
        return self._filling

    def failed(self, failure: Failure) -> None:
        self._errors += 1
        if not failure.number or self._errors > self.length // _SECTOR + 2:
            raise ProtocolBroken("it reports an error that is none, or the same again and again")
        self.failure = self.failure or failure

    @property
    def is_whole(self) -> bool:
        return self._edges == [self.offset, self.offset + self.length]


class Replies:
    """What comes for the requests in *pending*, by cookie; *answered* is called for each."""

    def __init__(
        self, export: Export, pending: dict[int, Request], answered: Callable[[Answered], None]
    ) -> None:
        self._export, self._pending, self._answered = export, pending, answered
        self._names = {id: name for name, id in export.contexts.items()}

    def parse(self) -> Parser[None]:
        """Never ends; raises ProtocolBroken."""
        while True:
            magic = int.from_bytes((yield 4), "big")
            if magic == SIMPLE:
                yield from self._simple()
            elif magic == STRUCTURED and self._export.structured:
                yield from self._chunk()
            else:
                raise ProtocolBroken(f"it begins a reply with {magic:#010x}")

    def _simple(self) -> Parser[None]:
        number, cookie = _SIMPLE.unpack((yield _SIMPLE.size))
        request = self._request(cookie)
        if request.command is Command.READ and self._export.structured:
            raise ProtocolBroken("it answers a read with a simple reply")
        if number:
            request.failed(Failure(number))
        elif request.command is Command.READ:
            yield request.fill(request.offset, request.length)
        self._finish(cookie, request)

    def _chunk(self) -> Parser[None]:
        flags, kind, cookie, length = _CHUNK.unpack((yield _CHUNK.size))
        request = self._request(cookie)
        match kind, request.command:
            case (Chunk.DATA, Command.READ) if length > _OFFSET.size:
                (offset,) = _OFFSET.unpack((yield _OFFSET.size))
                yield request.fill(offset, length - _OFFSET.size)
            case (Chunk.HOLE, Command.READ) if length == _HOLE.size:
                _zero(request.cover(*_HOLE.unpack((yield _HOLE.size))))
            case (Chunk.STATUS, Command.BLOCK_STATUS) if length % 8 == 4:
                yield from self._statuses(request, length // 8)
            case (Chunk.NONE, _) if not length and flags & DONE:
                pass
            case _ if kind & ANY_ERROR and _ERROR.size <= length <= MAX_WORDS + 64:
                _read_error(request, kind, (yield length))
            case _:
                raise ProtocolBroken(f"it sends a chunk of type {kind} with {length} bytes")
        if flags & DONE:
            self._finish(cookie, request)

    def _request(self, cookie: int) -> Request:
        if cookie not in self._pending:
            raise ProtocolBroken(f"it answers request {cookie}, which was not asked")
        return self._pending[cookie]

    def _statuses(self, request: Request, count: int) -> Parser[None]:
        if not 1 <= count <= (1 if request.one else min(request.length, MAX_EXTENTS)):
            raise ProtocolBroken(f"it gives {count} extents of {request.length} bytes")
        id = int.from_bytes((yield 4), "big")
        if id not in self._names or id in request.statuses:
            raise ProtocolBroken(f"it gives context {id}, unasked or a second time")
        extents = array("I", (0,)) * (2 * count)
        yield Fill(memoryview(extents).cast("B"), 8 * count)
        if sys.byteorder == "little":
            extents.byteswap()
        self._check_extents(request, extents[::2])
        request.statuses[id] = extents

    def _check_extents(self, request: Request, lengths: "array[int]") -> None:
        end = sum(lengths)
        limit = request.length if request.one else self._export.size - request.offset
        if not min(lengths) or end > limit or end - lengths[-1] >= request.length:
            raise ProtocolBroken(
                f"it gives extents of {end} bytes for {request.length} at {request.offset}"
            )

    def _finish(self, cookie: int, request: Request) -> None:
        if request.failure is None:
            if request.command is Command.READ and not request.is_whole:
                raise ProtocolBroken(f"it ends a read at {request.offset}, and not all is there")
            if request.command is Command.BLOCK_STATUS and len(request.statuses) < len(self._names):
                raise ProtocolBroken("it ends a block status without all contexts")
        named = {self._names[id]: extents for id, extents in request.statuses.items()}
        del self._pending[cookie]
        self._answered(Answered(cookie, request.failure, named))


def _zero(view: memoryview | None) -> None:
    while view:
        view[: len(_ZEROS)] = _ZEROS[: len(view)]
        view = view[len(_ZEROS) :]


def _read_error(request: Request, kind: int, body: bytes) -> None:
    number, length = _ERROR.unpack_from(body)
    fixed = _ERROR.size + (_OFFSET.size if kind == Chunk.ERROR_OFFSET else 0)
    if length > min(MAX_WORDS, len(body) - fixed):
        raise ProtocolBroken(f"it reports an error with {length} bytes of {len(body)}")
    if kind == Chunk.ERROR_OFFSET:
        (offset,) = _OFFSET.unpack_from(body, _ERROR.size + length)
        if not request.offset <= offset < request.offset + request.length:
            raise ProtocolBroken(f"it reports an error at {offset}, where nothing was asked")
    words = body[_ERROR.size : _ERROR.size + length].decode(errors="backslashreplace")
    request.failed(Failure(number, words))
