"""The journal codec: what was journalled comes back, and a bad tail costs itself only."""

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import DATA, cuts, flipped, id_of, ids, references
from transfer.errors import NewerFormat
from transfer.formats import journal
from transfer.formats.journal import Begin, End, PointPosted, Read, Stored
from transfer.formats.reference import Reference

names = st.binary(min_size=16, max_size=16)
numbers = st.integers(0, 2**63 - 1)
begins = st.builds(
    Begin, names, numbers, numbers, names, ids, st.integers(1, 2**32 - 1),
    st.integers(16, 22).map(lambda exponent: 2**exponent), st.binary(max_size=256),
)  # fmt: skip
stored = st.sets(references, min_size=1, max_size=5).map(lambda drawn: Stored(tuple(sorted(drawn))))
extents = st.tuples(names, st.lists(ids | st.none(), min_size=1, max_size=4).map(tuple))
reads = st.lists(extents, min_size=1, max_size=3).map(lambda drawn: Read(tuple(drawn)))
inner = st.lists(stored | reads | st.builds(PointPosted, ids), max_size=4)
runs = st.tuples(begins, inner, st.builds(End, st.booleans())).map(lambda r: [r[0], *r[1], r[2]])
journals = st.tuples(st.lists(runs, max_size=3), begins, inner).map(
    lambda parts: [*(record for run in parts[0] for record in run), parts[1], *parts[2]]
)
BEGIN = Begin(b"v" * 16, 1, 2, b"i" * 16, bytes(32), 1, 2**20, b"view")


def whole(records):
    return b"".join(map(journal.encode, records))


@given(journals)
def test_records_come_back_in_order(records):
    raw = whole(records)
    assert journal.decode_all(raw) == (records, len(raw))
    assert whole(journal.decode_all(memoryview(raw)).records) == raw


def test_an_empty_journal_says_nothing():
    assert journal.decode_all(b"") == ([], 0)


@given(journals, st.data())
def test_a_torn_tail_ends_the_reading_after_the_last_whole_record(records, data):
    torn = data.draw(cuts(whole(records)))
    found, good = journal.decode_all(torn)
    assert found == records[: len(found)]
    assert good == len(whole(found)) <= len(torn) < good + len(journal.encode(records[len(found)]))


@given(journals, st.data())
def test_every_flipped_bit_ends_the_reading_before_it(records, data):
    raw = whole(records)
    damaged = data.draw(flipped(raw))
    at = next(at for at in range(len(raw)) if raw[at] != damaged[at])
    found, good = journal.decode_all(damaged)
    assert found == records[: len(found)]
    assert good == len(whole(found)) <= at < good + len(journal.encode(records[len(found)]))


@given(st.binary(max_size=300), journals)
def test_a_tail_of_anything_costs_itself_only(tail, records):
    found, good = journal.decode_all(whole(records) + tail)
    assert found[: len(records)] == records
    assert good >= len(whole(records))


def test_a_tail_of_zeros_is_a_torn_one():
    raw = journal.encode(BEGIN)
    assert journal.decode_all(raw + bytes(4096)) == ([BEGIN], len(raw))


@pytest.mark.parametrize(
    ("records", "good"),
    [
        ([End(True)], 0),
        ([PointPosted(id_of(1)), BEGIN], 0),
        ([BEGIN, BEGIN], 1),
        ([BEGIN, End(False), End(False)], 2),
        ([BEGIN, End(True), PointPosted(id_of(1))], 2),
    ],
)
def test_reading_ends_before_a_record_out_of_place(records, good):
    assert journal.decode_all(whole(records)) == (records[:good], len(whole(records[:good])))


def raw_record(kind, body, version=1, reserved=b"\0\0", length=None, magic=b"TJRN"):
    length = (len(body) if length is None else length).to_bytes(4, "little")
    head = magic + bytes((version, kind)) + reserved + length
    return head + xxhash.xxh3_64_digest(head + body) + body


@pytest.mark.parametrize(
    "later",
    [raw_record(3, b"?", 2), raw_record(5, b"?"), raw_record(7, b"?"), raw_record(0, b"")],
)
def test_an_intact_record_of_a_later_version_is_refused_by_name(later):
    with pytest.raises(NewerFormat, match=r"version \d, kind \d"):
        journal.decode_all(journal.encode(BEGIN) + later)


BAD_BODIES = [
    (1, msgspec.json.encode(msgspec.structs.replace(BEGIN, vault=b"v" * 15))),
    (1, msgspec.json.encode(msgspec.structs.replace(BEGIN, item=b"v" * 17))),
    (1, msgspec.json.encode(msgspec.structs.replace(BEGIN, parent=b"v" * 31))),
    (1, msgspec.json.encode(msgspec.structs.replace(BEGIN, session=-1))),
    (1, msgspec.json.encode(msgspec.structs.replace(BEGIN, incarnation=2**63))),
    (1, msgspec.json.encode(msgspec.structs.replace(BEGIN, generation=0))),
    (1, msgspec.json.encode(msgspec.structs.replace(BEGIN, block_size=2**15))),
    (1, msgspec.json.encode(msgspec.structs.replace(BEGIN, block_size=2**23))),
    (1, msgspec.json.encode(msgspec.structs.replace(BEGIN, view=bytes(257)))),
    (1, msgspec.json.encode(BEGIN).replace(b"1048576", b"1048577")),
    (1, b'{"vault":' + b"[" * 100_000),
    (2, b"\x10" + bytes(32)),
    (2, b"\x10" + id_of(1)[:31]),
    (2, b"\x10" + id_of(2) + b"\x10" + id_of(1)),
    (2, (b"\x10" + id_of(1)) * 2),
    (2, b"\x60" + id_of(1)),
    (2, b""),
    (3, msgspec.json.encode(PointPosted(b"p" * 31))),
    (4, b'{"committed":1}'),
    (4, b"\xff"),
    (6, b""),
    (6, b"k" * 19),
    (6, b"k" * 16 + bytes(4)),
    (6, b"k" * 16 + b"\2\0\0\0" + id_of(1)),
    (6, b"k" * 16 + b"\1\0\0\0" + id_of(1) + b"k"),
    (6, b"k" * 16 + b"\xff\xff\xff\xff" + id_of(1)),
]


@pytest.mark.parametrize(("kind", "body"), BAD_BODIES)
def test_reading_ends_before_a_body_that_no_version_wrote(kind, body):
    before = [] if kind == 1 else [BEGIN]
    raw = whole(before)
    assert journal.decode_all(raw + raw_record(kind, body)) == (before, len(raw))


def test_reading_ends_before_a_head_that_no_version_wrote():
    body = msgspec.json.encode(BEGIN)
    assert journal.decode_all(raw_record(1, body, magic=b"TREC")) == ([], 0)
    assert journal.decode_all(raw_record(1, body, length=len(body) + 1)) == ([], 0)
    assert journal.decode_all(raw_record(1, body, length=2**32 - 1)) == ([], 0)
    assert journal.decode_all(raw_record(1, body, reserved=b"\0\1")) == ([], 0)
    assert journal.decode_all(raw_record(1, body)) == ([BEGIN], len(body) + journal.HEADER_SIZE)


def test_a_record_stores_8192_references_and_not_one_more():
    many = [Reference(DATA, id_of(number)) for number in range(1, 8194)]
    full = Stored(tuple(many[:8192]))
    raw = whole([BEGIN, full])
    assert journal.decode_all(raw) == ([BEGIN, full], len(raw))
    for wrong in (many, []):
        with pytest.raises(ValueError):
            journal.encode(Stored(tuple(wrong)))
    beyond = raw_record(2, b"".join(bytes((tag,)) + id for tag, id in many))
    assert journal.decode_all(whole([BEGIN]) + beyond).records == [BEGIN]


@pytest.mark.parametrize("wrong", [{"vault": b"v"}, {"generation": 0}, {"view": bytes(257)}])
def test_what_no_reader_would_take_is_not_written(wrong):
    with pytest.raises(ValueError):
        journal.encode(msgspec.structs.replace(BEGIN, **wrong))
