"""What an NBD server must not say in a reply, each of which ends the connection."""

import struct

import pytest

from tests.sources.nbd_script import (
    AT,
    DATA,
    DONE,
    FAILED,
    FAILED_AT,
    HOLE,
    NONE,
    SIZE,
    STATUS,
    A,
    asking,
    chunk,
    data,
    described,
    failed,
    failed_at,
    hear,
    hole,
    opened,
    reading,
    simple,
    status,
)
from transfer.errors import ProtocolBroken

READS = {
    "a wrong magic": b"\x66\x8e\x33\xee" + bytes(16),
    "a request that was not made": data(2, AT, b"x"),
    "a simple reply": simple(1, bytes(2048)),
    "a simple error": simple(1, number=5),
    "bytes before": data(1, AT - 1, b"x"),
    "bytes after": data(1, AT + 2047, b"xx"),
    "bytes beyond any number": data(1, 2**64 - 1, b"xx"),
    "a hole after": hole(1, AT + 2048, 1),
    "a hole of nothing": hole(1, AT, 0),
    "data of nothing": data(1, AT, b""),
    "data without a place": chunk(1, DATA, bytes(7)),
    "a hole cut short": chunk(1, HOLE, bytes(11)),
    "more than was asked for": chunk(1, DATA, struct.pack(">Q", AT))[:16]
    + struct.pack(">IQ", 8 + 2049, AT),
    "the same again": data(1, AT, b"abcd") + data(1, AT, b"abcd"),
    "the same from before": data(1, AT + 4, b"abcd") + data(1, AT, b"abcde"),
    "the same from behind": data(1, AT, b"abcd") + data(1, AT + 3, b"a"),
    "the same around": data(1, AT + 1, b"a") + data(1, AT, b"abcd"),
    "the same within": data(1, AT, b"abcd") + data(1, AT + 1, b"a"),
    "a hole over data": data(1, AT, b"abcd") + hole(1, AT, 4),
    "an end before all is there": data(1, AT, bytes(2047), DONE),
    "an end with a gap": data(1, AT, b"a") + data(1, AT + 2, bytes(2046), DONE),
    "an end without anything": chunk(1, NONE, flags=DONE),
    "an end twice": data(1, AT, bytes(2048), DONE) + chunk(1, NONE, flags=DONE),
    "no end": chunk(1, NONE),
    "an end with content": data(1, AT, bytes(2048)) + chunk(1, NONE, b"x", DONE),
    "a status": status(1, 7, (2048, 0)),
    "a type that nobody knows": chunk(1, 6, bytes(12)),
    "an error that is none": failed(1, 0),
    "an error cut short": chunk(1, FAILED, bytes(5)),
    "an error with more words than bytes": chunk(1, FAILED, struct.pack(">IH", 5, 2) + b"x"),
    "an error in a novel": chunk(1, FAILED, struct.pack(">IH", 5, 4097) + bytes(4097)),
    "an error that is too long": chunk(1, FAILED, struct.pack(">IH", 5, 0) + bytes(4200)),
    "an error without its place": chunk(1, FAILED_AT, struct.pack(">IH", 5, 8) + bytes(8)),
    "an error before": failed_at(1, 5, AT - 1),
    "an error after": failed_at(1, 5, AT + 2048),
    "errors without end": failed(1, 5, flags=0) * 7,
}
STATUSES = {
    "data": data(1, AT, bytes(2048)),
    "a simple reply": simple(1),
    "no extent": status(1, 7),
    "half an extent": chunk(1, STATUS, struct.pack(">III", 7, 2048, 0)[:-4]),
    "an extent of nothing": status(1, 7, (0, 0)),
    "an extent of nothing within": status(1, 7, (512, 0), (0, 1), (512, 0)),
    "extents beyond what was asked for": status(1, 7, (2048, 0), (1, 1)),
    "an extent beyond the export": status(1, 7, (SIZE - AT + 1, 0)),
    "extents of more bytes than any export": status(1, 7, *[(2**32 - 1, 0)] * 600),
    "more extents than bytes": chunk(1, STATUS, struct.pack(">I", 7) + bytes(8 * 2049))[:20],
    "a context that was not agreed on": status(1, 8, (2048, 0)),
    "a context twice": status(1, 7, (2048, 0)) * 2,
    "an end without a context": status(1, 7, (2048, 0), flags=DONE),
}
ONES = {
    "more than one extent": status(1, 7, (512, 0), (512, 1)),
    "an extent beyond what was asked for": status(1, 7, (2049, 0)),
}


@pytest.mark.parametrize("lie", READS)
def test_no_lie_about_a_read_is_believed(lie):
    core, _ = reading(2048, contexts=[(7, A)])
    with pytest.raises(ProtocolBroken):
        hear(core, READS[lie])


@pytest.mark.parametrize("lie", STATUSES)
def test_no_lie_about_a_status_is_believed(lie):
    with pytest.raises(ProtocolBroken):
        hear(asking(2048), STATUSES[lie])


@pytest.mark.parametrize("lie", ONES)
def test_no_lie_about_one_extent_is_believed(lie):
    with pytest.raises(ProtocolBroken):
        hear(asking(2048, one=True), ONES[lie])


def test_chunks_are_for_those_who_agreed_on_them():
    core, _ = reading(4, structured=False)
    with pytest.raises(ProtocolBroken, match="0x668e33ef"):
        hear(core, data(1, AT, b"abcd", DONE))


def test_no_more_extents_than_the_protocol_allows():
    """Nor is memory taken for them: this is said before any is there."""
    core = opened(described(2**40), contexts=[(7, A)])
    core.block_status(0, 2**31)
    with pytest.raises(ProtocolBroken, match="1048577 extents"):
        hear(core, struct.pack(">IHHQII", 0x668E33EF, 0, STATUS, 1, 4 + 8 * (2**20 + 1), 7))


def test_crumbs_far_apart_end_before_they_fill_the_memory():
    core, _ = reading(2**20)
    with pytest.raises(ProtocolBroken, match="crumbs"):
        hear(core, b"".join(hole(1, AT + 2 * n, 1) for n in range(2048 + 64 + 1)))
