"""The point codec: what is signed stays what it was, and everything else is refused."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import (
    DATA,
    INDEX,
    LEAF,
    PAGE,
    POINT,
    cuts,
    flip,
    flipped,
    frames,
    id_of,
    ids,
    mangled,
    names16,
)
from transfer.crypto import signing
from transfer.errors import FormatError, NewerFormat, UsageError
from transfer.formats import frame, point
from transfer.formats.features import FeatureBits
from transfer.formats.point import Consistency, Counts, Mark, Point, PointDetails
from transfer.formats.reference import NULL_ID, Reference

KEY = bytes(range(32))
PUBLIC = signing.public_key_of(KEY)
SEALED_AT = 185
bits = st.integers(0, 2**64 - 1)


def sealed_of(tag=POINT, generation=1, payload=bytes(16), plain=0):
    header = frame.Header(
        tag >> 4, tag & 15, 0, 0, plain, len(payload), b"epoch-01", generation,
        b"c" * 16, 5, id_of(9),
    )  # fmt: skip
    return frame.encode(header, b"", payload)


def signed(made):
    return made._replace(signature=signing.sign(KEY, made.signed_part))


def bare(**fields):
    first = Point(
        b"d" * 16, b"i" * 16, 2, id_of(1), Reference(PAGE, id_of(3)), 1, 5, Consistency.CRASH,
        id_of(2), sealed_of(),
    )  # fmt: skip
    return first._replace(**fields)


@st.composite
def points(draw):
    header, _, payload = draw(frames(st.just(POINT)))
    generation = draw(st.integers(1, 2**32 - 1))
    number = draw(st.integers(1, 2**63 - 1))
    root = draw(st.none() | st.builds(Reference, st.sampled_from([PAGE, INDEX]), ids))
    return signed(Point(
        draw(names16), draw(names16), number, NULL_ID if number == 1 else draw(ids), root,
        generation, draw(st.integers(-(2**63), 2**63 - 1)), draw(st.sampled_from(Consistency)),
        draw(ids), frame.encode(header._replace(generation=generation), b"", payload),
        features=FeatureBits(draw(bits), draw(bits)),
    ))  # fmt: skip


@given(points())
def test_a_point_comes_back_under_the_same_signature(made):
    raw = point.encode(made)
    found = point.decode(raw)
    assert found == made
    assert point.encode(found) == raw
    assert signing.verify(PUBLIC, found.signature, found.signed_part)


@given(points(), st.data())
def test_every_cut_and_every_byte_more_is_refused(made, data):
    raw = point.encode(made)
    for wrong in (data.draw(cuts(raw)), raw + b"\0"):
        with pytest.raises(FormatError):
            point.decode(wrong)


@given(points(), st.data())
def test_every_flipped_bit_is_noticed_at_the_latest_by_the_signature(made, data):
    raw = data.draw(flipped(point.encode(made)))
    try:
        found = point.decode(raw)
    except (FormatError, NewerFormat):
        return
    assert not signing.verify(PUBLIC, found.signature, found.signed_part)


@given(points().map(point.encode).flatmap(mangled) | st.binary(max_size=500))
def test_what_decodes_as_a_point_is_its_encoding(raw):
    try:
        found = point.decode(raw)
    except (FormatError, NewerFormat):
        return
    assert point.encode(found) == raw


def with_byte(at, value):
    raw = bytearray(point.encode(signed(bare())))
    raw[at] = value
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (with_byte(0, 0), "not a recovery point"),
        (with_byte(5, 4), "beyond the limits"),
        (with_byte(7, 1), "beyond the limits"),
        (point.encode(signed(bare(number=0))), "beyond the limits"),
        (point.encode(signed(bare(number=2**63))), "beyond the limits"),
        (point.encode(signed(bare(number=1))), "beyond the limits"),  # the first has no parent
        (point.encode(signed(bare(generation=0))), "beyond the limits"),
        (point.encode(signed(bare(point_id=NULL_ID))), "beyond the limits"),
        (point.encode(signed(bare(root=Reference(0, id_of(3))))), "kind 0"),
        (point.encode(signed(bare(root=Reference(0x60, id_of(3))))), "kind 6"),
        (point.encode(signed(bare(root=Reference(PAGE, NULL_ID)))), "no directory page"),
        (point.encode(signed(bare(root=Reference(DATA, id_of(3))))), "no directory page"),
        (point.encode(signed(bare(root=Reference(LEAF, id_of(3))))), "no directory page"),
        (point.encode(signed(bare(root=Reference(POINT, id_of(3))))), "no directory page"),
        (point.encode(signed(bare(sealed=b""))), "one whole frame"),
        (point.encode(signed(bare(sealed=sealed_of()[:-1]))), "one whole frame"),
        (point.encode(signed(bare(sealed=sealed_of() + b"\0"))), "one whole frame"),
        (point.encode(signed(bare(sealed=sealed_of() * 2))), "one whole frame"),
        (point.encode(signed(bare(sealed=flip(sealed_of(), 900)))), "checksum"),
        (point.encode(signed(bare(sealed=sealed_of(DATA)))), "another kind or generation"),
        (point.encode(signed(bare(sealed=sealed_of(PAGE)))), "another kind or generation"),
        (point.encode(signed(bare(sealed=sealed_of(generation=2)))), "another kind or generation"),
        (bytes(64 * 1024 + 1), "no recovery point has 65537 bytes"),
        (b"TPNT", "no recovery point has 4 bytes"),
    ],
)
def test_a_point_that_no_writer_made_is_refused_however_well_signed(raw, why):
    with pytest.raises(FormatError, match=why):
        point.decode(raw)


@pytest.mark.parametrize("made", [
    bare(number=2**63 - 1), bare(number=1, parent=NULL_ID), bare(root=None), bare(parent=NULL_ID),
    bare(root=Reference(0x4A, id_of(3))),
])  # fmt: skip
def test_a_point_at_the_limits_comes_back(made):
    assert point.decode(point.encode(signed(made))) == signed(made)


@pytest.mark.parametrize(
    ("at", "value", "named"),
    [(4, 2, "version 2"), (6, 1, "kind 1"), (24, 1, "read bit 0"), (31, 128, "read bit 63")],
)
def test_what_a_later_version_needs_is_refused_by_name(at, value, named):
    with pytest.raises(NewerFormat, match=named):
        point.decode(with_byte(at, value))


def test_a_point_that_must_not_be_followed_is_read_and_is_no_parent():
    found = point.decode(point.encode(signed(bare(features=FeatureBits(2, 4)))))
    with pytest.raises(NewerFormat, match=f"point {id_of(2).hex()[:16]} needs write bit 2"):
        found.check_parent()
    point.decode(point.encode(signed(bare(features=FeatureBits(2))))).check_parent()


@pytest.mark.parametrize("wrong", [{"domain": b"d" * 15}, {"item": b"i" * 17}, {"parent": b"p"}])
def test_a_point_of_other_sizes_is_not_written(wrong):
    with pytest.raises(ValueError, match="a point needs"):
        point.encode(bare(**wrong))


def test_the_latest_point_is_the_one_with_the_highest_number():
    made = [bare(number=n, view_time=t) for n, t in ((1, 9), (3, 5), (3, 7), (2, 99))]
    assert max(made, key=lambda each: each.order) == made[2]


DETAILS = PointDetails(
    "item", "machine", b"m" * 16, [b"/home/\xff"], "transfer 1", Counts(1, 2, 3, 4, 5),
    [Mark("tree", "epoch", b"token", 6)],
)  # fmt: skip
labels = st.text(min_size=1, max_size=9)
details = st.builds(
    PointDetails, st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True), labels, names16,
    st.lists(st.binary(max_size=20), max_size=3), labels,
    st.builds(Counts, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    st.lists(st.builds(Mark, labels, labels, st.binary(max_size=9)), max_size=3),
)  # fmt: skip


@given(details)
def test_details_come_back(drawn):
    assert point.decode_details(point.encode_details(drawn)) == drawn


@given(details.map(msgspec.json.encode).flatmap(mangled) | st.binary(max_size=99))
def test_details_of_anything_are_read_or_refused(raw):
    try:
        found = point.decode_details(raw)
    except FormatError:
        return
    assert point.decode_details(point.encode_details(found)) == found


@pytest.mark.parametrize("wrong", [
    {"item": ""}, {"item": "i" * 65}, {"item": "a/b"}, {"item": "a\n"}, {"item": "ä"},
    {"machine_id": b"m" * 15}, {"counts": Counts(-1)}, {"counts": Counts(files=2**63)},
    {"marks": [Mark("", "e", b"t")]}, {"marks": [Mark("s", "e", b"t", -1)]},
])  # fmt: skip
def test_details_beyond_the_limits_are_neither_read_nor_written(wrong):
    beyond = msgspec.structs.replace(DETAILS, **wrong)
    with pytest.raises(FormatError, match="sealed part does not parse"):
        point.decode_details(msgspec.json.encode(beyond))
    with pytest.raises(ValueError):
        point.encode_details(beyond)


def test_the_largest_details_fit_into_a_point():
    room = point.MAX_DETAILS - len(point.encode_details(DETAILS))
    largest = msgspec.structs.replace(DETAILS, tool=DETAILS.tool + "x" * room)
    raw = point.encode_details(largest)
    assert len(raw) == point.MAX_DETAILS == 60 * 1024
    made = signed(bare(sealed=sealed_of(payload=raw + bytes(1024), plain=len(raw))))
    assert point.decode(point.encode(made)) == made
    with pytest.raises(UsageError, match="may take 61440"):
        point.encode_details(msgspec.structs.replace(largest, tool=largest.tool + "x"))


def test_consistency_has_an_order():
    assert [each.name for each in sorted(Consistency)] == [
        "NONE", "CRASH", "FILE_SYSTEM", "APPLICATION",
    ]  # fmt: skip
    assert list(map(int, Consistency)) == [0, 1, 2, 3]


def test_the_fields_of_a_point_stand_where_the_format_says():
    raw = point.encode(signed(bare(features=FeatureBits(7, 8))))
    assert raw[:8] == b"TPNT\x01\x01\0\0"
    assert struct.unpack_from("<QQQ", raw, 8) == (7, 8, 0)
    assert raw[32:64] == b"d" * 16 + b"i" * 16
    assert struct.unpack_from("<Q", raw, 64) == (2,)
    assert raw[72:137] == id_of(1) + b"\x30" + id_of(3)
    assert struct.unpack_from("<Iq", raw, 137) == (1, 5)
    assert raw[149:185] == id_of(2) + len(sealed_of()).to_bytes(4, "little")
    assert raw[SEALED_AT:-64] == sealed_of()
    assert point.encode_body(bare(features=FeatureBits(7, 8))) == raw[:149]
