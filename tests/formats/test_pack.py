"""The pack codec: what was written whole comes back, and damage is seen or costs itself only."""

import zlib

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.suites.vault import made_frame
from transfer.errors import FormatError, NewerFormat
from transfer.formats import pack

HEADER = pack.PackHeader(b"d" * 16, pack.PackClass.DATA, b"p" * 16)
numbers = st.lists(st.integers(1, 2**64 - 1), max_size=6, unique=True)


def opened(frames):
    return pack.encode_header(HEADER) + b"".join(frames)


def closed(frames):
    raw = opened(frames)
    entries = [pack.entry_of(one.frame.header, one.offset) for one in pack.walk(raw)]
    return raw + pack.encode_trailer(entries, len(raw), blake3(raw))


@given(numbers)
def test_a_closed_pack_tells_its_frames(drawn):
    made = [made_frame(number) for number in drawn]
    raw = closed([frame for _, frame in made])
    trailer = pack.decode_trailer(raw)
    assert pack.decode_header(raw) == HEADER
    assert pack.digest_holds(raw, trailer)
    assert list(trailer.entries) == sorted(trailer.entries)
    for reference, frame in made:
        (entry,) = [one for one in trailer.entries if one.reference == reference]
        assert raw[entry.offset : entry.offset + entry.frame_length] == frame


@given(st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True), st.data())
def test_a_cut_pack_keeps_its_whole_frames(drawn, data):
    frames = [made_frame(number)[1] for number in drawn]
    raw = closed(frames)
    cut = data.draw(st.integers(pack.HEADER_SIZE, len(raw) - 1))
    assert pack.decode_trailer(raw[:cut]) is None
    whole = [sum(map(len, frames[: n + 1])) + pack.HEADER_SIZE for n in range(len(frames))]
    assert [one.end for one in pack.walk(raw[:cut])] == [end for end in whole if end <= cut]


@given(st.data())
def test_a_flipped_bit_costs_one_frame(data):
    frames = [made_frame(number)[1] for number in (1, 2, 3)]
    raw = bytearray(opened(frames))
    at = data.draw(st.integers(pack.HEADER_SIZE, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    hit = (at - pack.HEADER_SIZE) // len(frames[0])
    expected = [number for number in range(3) if number != hit]
    found = [(one.offset - pack.HEADER_SIZE) // len(frames[0]) for one in pack.walk(raw)]
    assert found == expected


@given(st.data())
def test_every_flipped_bit_of_a_closed_pack_is_noticed(data):
    raw = bytearray(closed([made_frame(1)[1]]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        trailer = pack.decode_trailer(raw)
    except FormatError:
        return
    assert trailer is None or not pack.digest_holds(raw, trailer)


def test_damaged_and_newer_headers_are_refused():
    raw = bytearray(pack.encode_header(HEADER))
    raw[9] ^= 1
    with pytest.raises(FormatError):
        pack.decode_header(raw)
    with pytest.raises(FormatError):
        pack.decode_header(raw[:20])


def test_a_newer_version_says_so():
    raw = bytearray(pack.encode_header(HEADER))
    raw[4] = 2
    raw[-4:] = zlib.crc32(raw[:-4]).to_bytes(4, "little")
    with pytest.raises(NewerFormat):
        pack.decode_header(raw)


def test_golden_header():
    """Bytes written by version 1 stay readable for ever; never update this value."""
    golden = bytes.fromhex("5450434b01010000" + "64" * 16 + "70" * 16 + "98b2081c")
    assert pack.decode_header(golden) == HEADER
