"""The first half of NBD: what client and server agree on. See nbd_protocol.py for the messages."""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from transfer.errors import (
    NotAuthorised,
    NotFound,
    ProtocolBroken,
    SourceFailed,
    SourceUnavailable,
    TransferError,
    Untrusted,
    UsageError,
)
from transfer.sources.nbd_address import MAX_NAME
from transfer.sources.nbd_input import IN_CLEAR_NO_MORE, ROOM, Parser

NBDMAGIC, IHAVEOPT, OLDSTYLE = 0x4E42444D41474943, 0x49484156454F5054, 0x00420281861253
OPTION_REPLY = 0x0003E889045565A9
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
ABORT, STARTTLS, GO, STRUCTURED_REPLY, LIST_META_CONTEXT, SET_META_CONTEXT = 2, 5, 7, 8, 9, 10
ACK, INFO, META_CONTEXT, ERROR = 1, 3, 4, 1 << 31
UNSUPPORTED, POLICY, TLS_REQUIRED, UNKNOWN, SHUTDOWN = 1, 2, 5, 6, 7  # with ERROR
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
HAS_FLAGS, SEND_FLUSH = 1, 4
MAX_MIN_BLOCK = 2**16
MAX_SIZE = 2**63 - 1
MAX_INFOS, MAX_OFFERS = 64, 1024  # replies to one option
DEFAULT_PAYLOAD = 2**25
_OPENING = struct.Struct(">QQH")
_OPTION = struct.Struct(">QII")
_REPLY = struct.Struct(">QIII")
_EXPORT = struct.Struct(">QH")
_SIZES = struct.Struct(">III")
_OLD = "it speaks a form of NBD that is too old"
_REFUSALS: dict[int, tuple[type[TransferError], str, str]] = {
    UNSUPPORTED: (UsageError, _OLD, ""),
    POLICY: (NotAuthorised, "it does not give this export", "ask who runs the server"),
    TLS_REQUIRED: (UsageError, "it wants TLS", "write nbds:// or nbds+unix:// instead"),
    UNKNOWN: (NotFound, "it has no export '{}'", "`nbdinfo --list` names those that it has"),
    SHUTDOWN: (SourceUnavailable, "it is about to end", ""),
}
Say = Callable[[bytes], None]


class Terms(NamedTuple):
    """What the client wants: an export, and metadata contexts of it.

    *offers* are queries for names of contexts (`qemu:` asks for all of that kind), () asks for all
    that there are, None for none. With *tls* nothing is said in the clear but that.
    """

    export: bytes
    contexts: Sequence[str] = ()
    offers: Sequence[str] | None = None
    tls: bool = False


class Export(NamedTuple):
    """What the server gives. Sizes are in bytes.

    *min_block*: requests begin and end at its multiples, or at the end of the export. No request
    reads more than *max_payload*. *contexts* are those of the wanted ones that the server has, by
    name, with their IDs in this connection; *offers* names those that it could have.
    """

    size: int
    flags: int
    contexts: Mapping[str, int]
    structured: bool = True
    min_block: int = 1
    max_payload: int = DEFAULT_PAYLOAD
    offers: tuple[str, ...] = ()


class _Refusal(NamedTuple):
    """Why a server did not take an option."""

    code: int
    words: str


class _Answer(NamedTuple):
    replies: list[bytes]
    refusal: _Refusal | None


def shake_hands(terms: Terms, say: Say) -> Parser[Export]:
    """Raises ProtocolBroken; and for what the server refuses NotFound, NotAuthorised, Untrusted,
    SourceUnavailable, SourceFailed, UsageError."""
    yield from _open(say)
    if terms.tls:
        yield from _start_tls(say)
    structured = yield from _structured_replies(terms, say)
    offers: tuple[str, ...] = ()
    contexts: dict[str, int] = {}
    if structured and terms.offers is not None:
        asked = _meta_query(terms.export, terms.offers)
        answer = yield from _option(say, LIST_META_CONTEXT, asked, META_CONTEXT, MAX_OFFERS)
        offers = tuple(_context(reply)[1] for reply in answer.replies)
    if structured and terms.contexts:
        contexts = yield from _set_contexts(terms, say)
    export = yield from _go(terms, say)
    return export._replace(structured=structured, contexts=contexts, offers=offers)


def _open(say: Say) -> Parser[None]:
    magic, kind, flags = _OPENING.unpack((yield _OPENING.size))
    if magic != NBDMAGIC or kind not in (IHAVEOPT, OLDSTYLE):
        raise ProtocolBroken("it is no NBD server", "is this its address?")
    if kind == OLDSTYLE or not flags & FIXED_NEWSTYLE:
        raise UsageError(_OLD, "a server of the last ten years speaks a better one")
    say((flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_bytes(4, "big"))


def _start_tls(say: Say) -> Parser[None]:
    answer = yield from _option(say, STARTTLS)
    if answer.refusal is not None:
        say(encode_option(ABORT))
        raise Untrusted(
            f"it does not speak TLS{_quoted(answer.refusal)}", "without TLS the address is nbd://"
        )
    yield IN_CLEAR_NO_MORE


def _structured_replies(terms: Terms, say: Say) -> Parser[bool]:
    """Whether there are; without them a server can neither report holes nor give contexts."""
    answer = yield from _option(say, STRUCTURED_REPLY)
    if answer.refusal is not None and answer.refusal.code in (TLS_REQUIRED, SHUTDOWN):
        _refused(answer.refusal, terms.export, say)
    return answer.refusal is None


def _set_contexts(terms: Terms, say: Say) -> Parser[dict[str, int]]:
    """Those that the server has: it leaves the others out, without a word."""
    asked = _meta_query(terms.export, terms.contexts)
    limit = len(terms.contexts)
    answer = yield from _option(say, SET_META_CONTEXT, asked, META_CONTEXT, limit)
    if answer.refusal is not None:
        return {}  # whatever it is, GO says it again, unless it is about contexts alone
    found = {name: id for id, name in map(_context, answer.replies)}
    strange = set(found) - set(terms.contexts)
    if strange or len(set(found.values())) < len(answer.replies):
        raise ProtocolBroken(f"it gives contexts that nobody asked for, or one twice: {found}")
    return found


def _go(terms: Terms, say: Say) -> Parser[Export]:
    asked = struct.pack(">HH", 1, INFO_BLOCK_SIZE)
    answer = yield from _option(say, GO, _string(terms.export) + asked, INFO, MAX_INFOS)
    if answer.refusal is not None:
        _refused(answer.refusal, terms.export, say)
    infos: dict[int, bytes] = {}
    for reply in answer.replies:
        kind = int.from_bytes(reply[:2], "big")
        if len(reply) < 2 or (kind in infos and kind in (INFO_EXPORT, INFO_BLOCK_SIZE)):
            raise ProtocolBroken("it describes the export in a way that is cut short, or twice")
        infos[kind] = reply[2:]
    return _with_sizes(_described(infos.get(INFO_EXPORT, b"")), infos.get(INFO_BLOCK_SIZE))


def _described(raw: bytes) -> Export:
    if len(raw) != _EXPORT.size:
        raise ProtocolBroken("it does not say how large the export is")
    size, flags = _EXPORT.unpack(raw)
    if size > MAX_SIZE or not flags & HAS_FLAGS:
        raise ProtocolBroken(f"it gives an export of {size} bytes with flags {flags:#x}")
    return Export(size, flags, {})


def _with_sizes(export: Export, raw: bytes | None) -> Export:
    if raw is None:
        return export
    if len(raw) != _SIZES.size:
        raise ProtocolBroken("it gives block sizes that are cut short")
    least, _, most = _SIZES.unpack(raw)
    if not 0 < least <= MAX_MIN_BLOCK or least & least - 1 or most < least:
        raise ProtocolBroken(f"it wants requests of {least} to {most} bytes")
    return export._replace(min_block=least, max_payload=most)


# Options and their replies.


def encode_option(number: int, data: bytes = b"") -> bytes:
    return _OPTION.pack(IHAVEOPT, number, len(data)) + data


def _option(
    say: Say, number: int, data: bytes = b"", expected: int = ACK, limit: int = 0
) -> Parser[_Answer]:
    """Say an option; its replies, all of the *expected* kind, are at most *limit*."""
    say(encode_option(number, data))
    replies: list[bytes] = []
    while True:
        magic, about, kind, length = _REPLY.unpack((yield _REPLY.size))
        if magic != OPTION_REPLY or about != number:
            raise ProtocolBroken(f"it answers option {about} where {number} was asked")
        if length > ROOM:
            raise ProtocolBroken(f"it answers option {number} with {length} bytes")
        body = yield length
        if kind & ERROR:
            return _Answer([], _Refusal(kind & ~ERROR, body.decode(errors="backslashreplace")))
        if kind == ACK and not body:
            return _Answer(replies, None)
        if kind != expected or len(replies) == limit:
            raise ProtocolBroken(f"it answers option {number} with reply {kind}, or too often")
        replies.append(body)


def _string(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


def _meta_query(export: bytes, queries: Sequence[str]) -> bytes:
    body = _string(export) + len(queries).to_bytes(4, "big")
    return body + b"".join(_string(query.encode()) for query in queries)


def _context(reply: bytes) -> tuple[int, str]:
    try:
        name = reply[4:].decode()
    except UnicodeDecodeError as error:
        raise ProtocolBroken("it names a context in something else than UTF-8") from error
    if not name or len(reply) > 4 + MAX_NAME:
        raise ProtocolBroken(f"it names a context with {len(reply)} bytes")
    return int.from_bytes(reply[:4], "big"), name


def _refused(refusal: _Refusal, export: bytes, say: Say) -> NoReturn:
    say(encode_option(ABORT))
    default = SourceFailed, f"it does not open the export: error {refusal.code}", ""
    kind, what, hint = _REFUSALS.get(refusal.code, default)
    raise kind(what.format(export.decode(errors="backslashreplace")) + _quoted(refusal), hint)


def _quoted(refusal: _Refusal) -> str:
    return f" ({refusal.words})" if refusal.words else ""
