"""The record envelope and its bodies: what comes back is what went in, or an error."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import DATA, cuts, flipped, ids, tags
from transfer.errors import FormatError, NewerFormat
from transfer.formats import record
from transfer.formats.record import BadCopy, CopyState, PointRecord, RecordKind, Tombstone

bodies = st.binary(max_size=200)
kinds = st.sampled_from(RecordKind)
names = st.binary(min_size=16, max_size=16)
numbers = st.integers(1, 2**63 - 1)
points = st.builds(
    PointRecord, st.binary(min_size=1, max_size=99), numbers, st.integers(-(2**63), 2**63 - 1),
    numbers,
)  # fmt: skip
tombstones = st.builds(Tombstone, names, ids, numbers)
copies = st.builds(BadCopy, tags, ids, names, numbers, st.sampled_from(CopyState))
damages = st.builds(record.damage_of, names, st.lists(copies, min_size=1, max_size=9))
CODECS = {
    PointRecord: (record.encode_point, record.decode_point),
    Tombstone: (record.encode_tombstone, record.decode_tombstone),
    record.Damage: (record.encode_damage, record.decode_damage),
}
KINDS = {
    PointRecord: RecordKind.POINT,
    Tombstone: RecordKind.TOMBSTONE,
    record.Damage: RecordKind.DAMAGE,
}
COPY = BadCopy(DATA, b"i" * 32, b"p" * 16, 44, CopyState.SUSPECT)


@given(kinds, bodies)
def test_bodies_come_back(kind, body):
    assert record.decode(record.encode(kind, body), kind) == body


@given(kinds, bodies, st.data())
def test_every_flipped_bit_and_every_cut_is_noticed(kind, body, data):
    whole = record.encode(kind, body)
    for damaged in (data.draw(cuts(whole)), data.draw(flipped(whole)), whole + b"\0"):
        with pytest.raises(FormatError):
            record.decode(damaged, kind)


@given(points | tombstones | damages)
def test_points_tombstones_and_damage_come_back(value):
    encode, decode = CODECS[type(value)]
    assert decode(encode(value)) == value


@given(kinds, bodies | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps))
def test_a_body_that_is_none_is_damage(kind, body):
    raw = record.encode(kind, body if isinstance(body, bytes) else body.encode())
    for _, decode in CODECS.values():
        with pytest.raises(FormatError):
            decode(raw)


def test_a_record_is_not_taken_for_another_kind():
    with pytest.raises(FormatError, match="kind tombstone"):
        record.decode(record.encode(RecordKind.POINT, b"{}"), RecordKind.TOMBSTONE)


def test_the_limit_of_a_record_is_exact():
    kind = RecordKind.KEYRING
    assert len(record.decode(record.encode(kind, bytes(record.MAX_BODY)), kind)) == record.MAX_BODY
    with pytest.raises(ValueError, match="beyond the limit"):
        record.encode(kind, bytes(record.MAX_BODY + 1))
    with pytest.raises(FormatError, match="no record has"):
        record.decode(bytes(record.HEADER_SIZE + record.MAX_BODY + 1), kind)


def resealed(raw, at, value):
    """The record *raw* with another byte, and the check that belongs to it."""
    changed = bytearray(raw)
    changed[at] = value
    changed[12:28] = record.check_of(changed[:12], changed[28:])
    return bytes(changed)


def test_a_later_version_says_so_and_reserved_bytes_are_zero():
    raw = record.encode(RecordKind.POINT, b"{}")
    with pytest.raises(NewerFormat, match="version 2"):
        record.decode(resealed(raw, 4, 2), RecordKind.POINT)
    with pytest.raises(FormatError, match="check failed"):
        record.decode(resealed(raw, 0, 0), RecordKind.POINT)
    for at, value in ((6, 1), (7, 1), (8, 3)):
        with pytest.raises(FormatError, match="not a whole record"):
            record.decode(resealed(raw, at, value), RecordKind.POINT)


def test_a_deeply_nested_body_is_damage_and_no_crash():
    body = b'{"point":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(FormatError):
        record.decode_point(record.encode(RecordKind.POINT, body))


def test_a_later_version_may_add_fields_that_are_ignored():
    value = Tombstone(b"d" * 16, b"p" * 32, 5)
    raw = record.decode(record.encode_tombstone(value), RecordKind.TOMBSTONE)
    added = record.encode(RecordKind.TOMBSTONE, raw[:-1] + b',"reason":"moved"}')
    assert record.decode_tombstone(added) == value


@given(st.lists(copies, min_size=1, max_size=5))
def test_of_two_marks_of_a_copy_the_worse_counts(drawn):
    both = [one for copy in drawn for one in (worse(copy), copy)]
    found = record.damage_of(b"d" * 16, both)
    assert list(found.copies) == sorted({worse(copy) for copy in drawn})


def worse(copy):
    return BadCopy(copy.tag, copy.id, copy.pack, copy.offset, CopyState.DAMAGED)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ((COPY, COPY), "out of order"),
        ((worse(COPY), COPY), "out of order"),
        ((BadCopy(DATA, b"j" * 32, b"p" * 16, 44, CopyState.SUSPECT), COPY), "out of order"),
        ((BadCopy(DATA, bytes(32), b"p" * 16, 44, CopyState.SUSPECT),), "null ID"),
        ((BadCopy(0x60, b"i" * 32, b"p" * 16, 44, CopyState.SUSPECT),), "kind 6"),
    ],
)
def test_a_damage_record_in_disorder_is_neither_read_nor_written(bad, why):
    with pytest.raises(FormatError, match=why):
        record.encode_damage(record.Damage(b"d" * 16, bad))
    raw = record.encode(RecordKind.DAMAGE, msgspec.json.encode(record.Damage(b"d" * 16, bad)))
    with pytest.raises(FormatError, match=why):
        record.decode_damage(raw)


def test_a_damage_record_holds_4096_copies_and_not_one_more():
    many = [
        BadCopy(DATA, b"i" * 32, b"p" * 16, 2**62 + at, CopyState.SUSPECT) for at in range(4097)
    ]
    full = record.damage_of(b"d" * 16, many[:4096])
    assert record.decode_damage(record.encode_damage(full)) == full
    for wrong in (many, []):
        with pytest.raises(ValueError):
            record.encode_damage(record.damage_of(b"d" * 16, wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        PointRecord(b"", 1, 0, 0),
        PointRecord(bytes(64 * 1024 + 1), 1, 0, 0),
        PointRecord(b"p", 0, 0, 0),
        PointRecord(b"p", 2**63, 0, 0),
        PointRecord(b"p", 1, 0, -1),
        Tombstone(b"d" * 15, b"p" * 32, 0),
        Tombstone(b"d" * 16, b"p" * 33, 0),
        record.Damage(b"d" * 17, (COPY,)),
        record.Damage(b"d" * 16, (BadCopy(256, b"i" * 32, b"p" * 16, 44, CopyState.SUSPECT),)),
        record.Damage(b"d" * 16, (BadCopy(DATA, b"i" * 31, b"p" * 16, 44, CopyState.SUSPECT),)),
        record.Damage(b"d" * 16, (BadCopy(DATA, b"i" * 32, b"p" * 15, 44, CopyState.SUSPECT),)),
        record.Damage(b"d" * 16, (BadCopy(DATA, b"i" * 32, b"p" * 16, -1, CopyState.SUSPECT),)),
        record.Damage(b"d" * 16, (BadCopy(DATA, b"i" * 32, b"p" * 16, 44, 1),)),
    ],
)
def test_a_field_beyond_its_limit_is_neither_read_nor_written(wrong):
    encode, decode = CODECS[type(wrong)]
    with pytest.raises((ValueError, FormatError)):
        encode(wrong)
    with pytest.raises(FormatError):
        decode(record.encode(KINDS[type(wrong)], msgspec.json.encode(wrong)))
