"""The record envelope and its bodies: what comes back is what went in, or an error."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import DATA, cuts, flipped, ids, tags
from transfer.crypto.certificates import Role
from transfer.errors import FormatError, NewerFormat, UsageError
from transfer.formats import record
from transfer.formats.credential import CredentialKind
from transfer.formats.record import (
    BadCopy,
    CertificateState,
    CopyState,
    CredentialRecord,
    IssuedCertificate,
    MachineRecord,
    PointRecord,
    RecordKind,
    Tombstone,
)

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
times = st.integers(-(2**63), 2**63 - 1)
machine_names = st.text(min_size=1, max_size=64).filter(
    lambda text: text.isprintable() and not set(text) & set("/@")
)
issued = st.builds(
    IssuedCertificate, st.binary(min_size=1, max_size=99), ids, numbers,
    st.sampled_from(CertificateState),
)  # fmt: skip
machines = st.builds(
    MachineRecord, names, machine_names, names,
    st.sampled_from(["machine", "reader", "copier", "operator"]), times, st.none() | times,
    st.none() | st.text(max_size=64), names,
    st.lists(issued, min_size=1, max_size=4).map(tuple), st.none() | times,
)  # fmt: skip
uses = st.sampled_from([(None, None), (b"k" * 32, b"m" * 16)])
scopes = st.sampled_from(CredentialKind).map(
    lambda kind: (kind, None if kind is CredentialKind.REGISTER else b"t" * 16)
)
credentials = st.builds(
    lambda scope, use, *rest: CredentialRecord(*rest[:2], *scope, *rest[2:], *use),
    scopes, uses, names, ids, numbers, times, times,
)  # fmt: skip
CODECS = {
    MachineRecord: (record.encode_machine, record.decode_machine),
    CredentialRecord: (record.encode_credential, record.decode_credential),
    PointRecord: (record.encode_point, record.decode_point),
    Tombstone: (record.encode_tombstone, record.decode_tombstone),
    record.Damage: (record.encode_damage, record.decode_damage),
}
KINDS = {
    MachineRecord: RecordKind.MACHINE,
    CredentialRecord: RecordKind.CREDENTIAL,
    PointRecord: RecordKind.POINT,
    Tombstone: RecordKind.TOMBSTONE,
    record.Damage: RecordKind.DAMAGE,
}
ISSUED = IssuedCertificate(b"der", b"k" * 32, 1, CertificateState.NEW)
MACHINE = MachineRecord(
    b"m" * 16, "db1", b"d" * 16, "machine", 5, None, None, b"c" * 16, (ISSUED,), None
)
CREDENTIAL = CredentialRecord(
    b"i" * 16, b"s" * 32, CredentialKind.FOR, b"t" * 16, 1, 5, 6, b"k" * 32, b"m" * 16
)
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


@given(points | tombstones | damages | machines | credentials)
def test_values_come_back(value):
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
        *(
            msgspec.structs.replace(MACHINE, **change)
            for change in (
                {"machine": b"m" * 15},
                {"name": ""},
                {"name": "x" * 65},
                {"name": "a/b"},
                {"name": "a\n"},
                {"domain": b"d" * 17},
                {"role": "root"},
                {"role": "machine\n"},
                {"last_address": "x" * 65},
                {"credential": b""},
                {"certificates": ()},
                {"certificates": (ISSUED,) * 17},
                {"revoked": 2**63},
                {"certificates": (msgspec.structs.replace(ISSUED, der=bytes(4097)),)},
                {"certificates": (msgspec.structs.replace(ISSUED, der=b""),)},
                {"certificates": (msgspec.structs.replace(ISSUED, key=bytes(31)),)},
                {"certificates": (msgspec.structs.replace(ISSUED, number=0),)},
                {"certificates": (msgspec.structs.replace(ISSUED, state="good"),)},
            )
        ),
        *(
            msgspec.structs.replace(CREDENTIAL, **change)
            for change in (
                {"id": b"i" * 15},
                {"secret_hash": b"s" * 31},
                {"kind": "all"},
                {"target": None},
                {"target": b"t"},
                {"kind": CredentialKind.REGISTER},
                {"number": 0},
                {"expires": 2**63},
                {"used_key": None},
                {"used_by": None},
                {"used_key": b"k"},
            )
        ),
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


def test_the_limits_of_a_machine_are_exact():
    most = (msgspec.structs.replace(ISSUED, der=bytes(4096)),) * 16
    for whole in (MACHINE, msgspec.structs.replace(MACHINE, name="x" * 64, certificates=most)):
        assert record.decode_machine(record.encode_machine(whole)) == whole
    assert record.decode_credential(record.encode_credential(CREDENTIAL)) == CREDENTIAL


def test_the_roles_of_records_are_those_of_certificates():
    for role in Role:
        record.encode_machine(msgspec.structs.replace(MACHINE, role=role.value))


@pytest.mark.parametrize("name", ["a", "x" * 64, "db 1", "é☃", "a.b-c_d"])
def test_a_machine_name_is_printable(name):
    assert record.checked_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a/b", "a@b", "\n", "a\0", "\x7f", "\udcff"])
def test_a_machine_name_that_is_none_is_refused(name):
    with pytest.raises(UsageError, match="no machine name"):
        record.checked_name(name)
