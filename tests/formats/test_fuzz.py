"""Whatever bytes a parser is given, it says what is wrong with them, soon and in little memory.

The corpus are the golden bytes, those that are damaged too. They are cut, spliced, filled with
extremes; and where a check stands in front of what is inside, it is made to hold again.
"""

import random
import string
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
import xxhash

from tests.formats.test_golden import DECODERS, golden, read, unhexed
from transfer.errors import CredentialRefused, FormatError, NewerFormat
from transfer.formats import (
    documents,
    entry,
    frame,
    journal,
    keyring,
    messages,
    pack,
    point,
    record,
    reference,
    stream,
)
from transfer.formats.record import RecordKind

DECLARED = (FormatError, NewerFormat, CredentialRefused)
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF]
MEMORY = 48 * 2**20  # bytes; a pack's trailer may have an index of megabytes
PATIENCE = 2.0  # seconds


def _frame(raw: bytearray) -> None:
    if len(raw) >= frame.HEADER_SIZE:
        raw[frame.HEADER_SIZE - 20 : frame.HEADER_SIZE - 4] = xxhash.xxh3_128_digest(
            raw[frame.HEADER_SIZE :]
        )
        check = zlib.crc32(raw[: frame.HEADER_SIZE - 4])
        raw[frame.HEADER_SIZE - 4 : frame.HEADER_SIZE] = check.to_bytes(4, "little")


def _record(raw: bytearray) -> None:
    if len(raw) >= record.HEADER_SIZE:
        at = record.HEADER_SIZE - 16
        raw[at : at + 16] = record.check_of(bytes(raw[:at]), bytes(raw[record.HEADER_SIZE :]))


def _journal(raw: bytearray) -> None:
    """Of each record, as far as they can be told apart."""
    at = 0
    while at + journal.HEADER_SIZE <= len(raw):
        end = at + journal.HEADER_SIZE + int.from_bytes(raw[at + 8 : at + 12], "little")
        body = raw[at + journal.HEADER_SIZE : end]
        raw[at + 12 : at + 20] = xxhash.xxh3_64_digest(bytes(raw[at : at + 12]) + bytes(body))
        at = end


class Parser(NamedTuple):
    parse: Callable[[bytes], Any]
    corpus: list[bytes]
    mend: Callable[[bytearray], None] | None = None


def _raws(name: str, field: str = "raw") -> list[bytes]:
    """All golden bytes of that name, good and bad; of `raw` those that have names of their own."""
    found, good = read(name), read(name)["good"]
    tables = [*found.get("bad", []), good]
    tables += [each for each in good.values() if isinstance(each, dict)]
    raws = [table[field] for table in tables if isinstance(table.get(field), str)]
    if field == "raw":
        raws += [value for value in good.values() if isinstance(value, str)]
    hexadecimal = set(string.hexdigits + string.whitespace)
    return [bytes.fromhex(raw) for raw in raws if set(raw) <= hexadecimal]


def _whole_frame(raw: bytes) -> None:
    found = frame.decode(raw)
    if found is not None:
        assert found[0].references is not None
    list(frame.walk(raw))


def _any_record(raw: bytes) -> None:
    kind = RecordKind(raw[5]) if len(raw) > 5 and raw[5] in list(RecordKind) else RecordKind.POINT
    DECODERS["record"](kind.value, raw)


def _document(kind: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    return lambda raw: documents.decode(raw, kind, "a message")


_CHILDREN = golden("directory")["first_page"]["children"]
_MESSAGES = [
    kind for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
]  # fmt: skip
_JSON = [
    b'{"number":1,"fence":1,"keyring_version":1,"incarnation":1}', b'{"outcomes":[1,2,3]}',
    b'{"domain":"AAAAAAAAAAAAAAAAAAAAAA==","item":null,"owner":"","resume":1}', b"[" * 50_000,
    b'{"a":' * 20_000, b'"' + b"x" * 70_000 + b'"', b"1" * 5000, b"-0.0e-999999",
]  # fmt: skip
PARSERS = {
    "frame": Parser(_whole_frame, _raws("frame"), _frame),
    "stream node": Parser(
        lambda raw: stream.decode_node(1, raw, bytes(33 * (len(raw) % 5)), len(raw) % 257),
        _raws("stream", "plain"),
    ),
    "page": Parser(
        lambda raw: DECODERS["directory"](raw, _CHILDREN),
        [*_raws("directory", "plain"), *_raws("directory_content_id", "plain")],
    ),
    "index": Parser(
        lambda raw: DECODERS["directory"](raw, _CHILDREN, 1), _raws("directory", "plain")
    ),
    "references": Parser(reference.decode_references, _raws("directory", "children")),
    "xattrs": Parser(entry.decode_xattrs, [b"\1\0a\1\0\0\0b", b"\4\0user\0\0\0\0"]),
    "point": Parser(point.decode, _raws("point")),
    "keyring": Parser(keyring.decode, _raws("keyring")),
    "record": Parser(_any_record, _raws("record"), _record),
    "journal": Parser(journal.decode_all, [*_raws("journal"), *_raws("journal_read")], _journal),
    "pack header": Parser(pack.decode_header, _raws("pack")),
    "pack trailer": Parser(pack.decode_trailer, _raws("pack")),
    "pack": Parser(lambda raw: list(pack.walk(raw)), _raws("pack")),
    "credential": Parser(DECODERS["credential"], _raws("credential")),
    "asked": Parser(messages.decode_asked, _raws("directory", "children")),
    "ids": Parser(messages.decode_ids, [bytes(range(64)), b"x" * 32]),
    "bitmap": Parser(lambda raw: messages.decode_bitmap(raw, len(raw) * 8), [b"\1\2\3"]),
    **{f"message {kind.__name__}": Parser(_document(kind), _JSON) for kind in _MESSAGES},
}  # fmt: skip


def mutated(choice: random.Random, corpus: list[bytes]) -> bytearray:
    raw = bytearray(choice.choice(corpus))
    for _ in range(choice.randrange(1, 5)):
        at = choice.randrange(len(raw) + 1)
        match choice.randrange(7):
            case 0:
                del raw[at:]
            case 1:
                del raw[at : at + choice.randrange(1, 40)]
            case 2:
                raw[at:at] = choice.randbytes(choice.randrange(1, 40))
            case 3:  # a number that is too large, or too small
                width = choice.choice([1, 2, 4, 8])
                raw[at : at + width] = bytes([choice.choice(EXTREMES)]) * width
            case 4:
                other = choice.choice(corpus)
                start = choice.randrange(len(other) + 1)
                raw[at:at] = other[start : start + choice.randrange(1, 200)]
            case 5:
                raw += raw[: choice.randrange(len(raw) + 1)]
            case _:
                for _ in range(choice.randrange(1, 4)):
                    if raw:
                        raw[choice.randrange(len(raw))] ^= 1 << choice.randrange(8)
    return raw


def fuzz(name: str, seed: int, count: int) -> int:
    """How many were taken for good."""
    parser, choice = PARSERS[name], random.Random(f"{name} {seed}")
    good, slowest = 0, 0.0
    tracemalloc.start()
    try:
        for _ in range(count):
            raw = mutated(choice, parser.corpus)
            if parser.mend is not None and choice.random() < 0.7:
                parser.mend(raw)
            began = time.perf_counter()
            try:
                parser.parse(bytes(raw))
                good += 1
            except DECLARED:
                pass
            slowest = max(slowest, time.perf_counter() - began)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert slowest < PATIENCE
    return good


@pytest.mark.parametrize("name", PARSERS)
def test_only_declared_errors(name):
    fuzz(name, 0, 300)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("seed", range(1, 3))
def test_only_declared_errors_for_long(name, seed):
    fuzz(name, seed, 6000)


@pytest.mark.parametrize("name", ["frame", "record", "journal"])
def test_what_is_inside_is_reached(name):
    """Else the checks in front would be all that is tried."""
    parser = PARSERS[name]
    raw = bytearray(parser.corpus[-1])
    before = bytes(raw)
    parser.mend(raw)
    assert bytes(raw) == before
    assert fuzz(name, 0, 300) > 0


def test_there_is_a_corpus_for_each():
    assert all(parser.corpus for parser in PARSERS.values())
    assert len(_MESSAGES) > 10
    assert unhexed({"raw": "00"}) == {"raw": b"\0"}
