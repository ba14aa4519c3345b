"""The record envelope: what comes back is what went in, or an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import FormatError
from transfer.formats import record
from transfer.formats.record import PointRecord, RecordKind, Tombstone

bodies = st.binary(max_size=200)
kinds = st.sampled_from(RecordKind)


@given(kinds, bodies)
def test_bodies_come_back(kind, body):
    assert record.decode(record.encode(kind, body), kind) == body


@given(kinds, bodies, st.data())
def test_every_flipped_bit_and_every_cut_is_noticed(kind, body, data):
    whole = bytearray(record.encode(kind, body))
    at = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FormatError):
        record.decode(bytes(whole[:at]), kind)
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FormatError):
        record.decode(bytes(whole), kind)


def test_a_record_is_not_taken_for_another_kind():
    with pytest.raises(FormatError):
        record.decode(record.encode(RecordKind.POINT, b"{}"), RecordKind.TOMBSTONE)


@given(st.binary(max_size=99), st.integers(0, 2**62))
def test_points_and_tombstones_come_back(raw, number):
    point = PointRecord(raw, number, number + 1, number + 2)
    assert record.decode_point(record.encode_point(point)) == point
    tombstone = Tombstone(raw, raw, number)
    assert record.decode_tombstone(record.encode_tombstone(tombstone)) == tombstone


def test_a_body_that_does_not_parse_is_damage():
    with pytest.raises(FormatError):
        record.decode_point(record.encode(RecordKind.POINT, b"{}"))
    with pytest.raises(ValueError, match="beyond the limit"):
        record.encode(RecordKind.KEYRING, bytes(record.MAX_BODY + 1))
