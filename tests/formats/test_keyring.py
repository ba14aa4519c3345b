"""The keyring codec: what comes back is what went in, and limits come before work."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.strategies import cuts, flipped
from transfer.errors import FormatError, NewerFormat
from transfer.formats import keyring
from transfer.formats.features import Features
from transfer.formats.keyring import Body, EpochName, Secrets, Wrap

SIGNATURE = b"s" * 64
EPOCHS = [EpochName(b"epoch-01", 1), EpochName(b"epoch-02", 1), EpochName(b"epoch-03", 2)]


def wrap(number=1, memory=65536, passes=3, **other):
    id = number.to_bytes(8, "big")
    first = Wrap(id, "passphrase", 1, memory, passes, 1, bytes(32), bytes(32), bytes(48))
    return msgspec.structs.replace(first, **other)


BODY = Body(b"d" * 16, 3, b"k" * 32, EPOCHS, [wrap()], bytes(32), bytes(99))
SECRETS = Secrets(
    b"s" * 32, {1: b"i" * 32, 2: b"j" * 32},
    {name.epoch.hex(): b"k" * 32 for name in EPOCHS}, b"epoch-03",
)  # fmt: skip


def changed(**fields):
    return msgspec.structs.replace(BODY, **fields)


def raw_of(body):
    """What an evil writer makes of *body*: no check holds it back."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return b"TKEY\x01\0\0\0" + len(raw).to_bytes(4, "little") + raw + SIGNATURE


names = st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=6, unique=True).flatmap(
    lambda ids: st.lists(st.integers(1, 2**32 - 1), min_size=len(ids), max_size=len(ids)).map(
        lambda numbers: list(map(EpochName, ids, sorted(numbers)))
    )
)
feature_names = st.lists(st.text(min_size=1, max_size=9), max_size=3)
features = st.builds(Features, feature_names, feature_names)
key32 = st.binary(min_size=32, max_size=32)
bodies = st.builds(
    Body, st.binary(min_size=16, max_size=16), st.integers(5, 2**32 - 1), key32, names,
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4, unique=True).map(
        lambda ids: [wrap(id, made_in=id % 5 + 1, lanes=id % 4 + 1) for id in ids]
    ),
    key32, st.binary(min_size=16, max_size=200), features,
)  # fmt: skip


@given(bodies)
def test_a_keyring_comes_back(body):
    signed = keyring.signed_part(body)
    found = keyring.decode(signed + SIGNATURE)
    assert found == keyring.Keyring(body, signed, SIGNATURE)
    assert keyring.encode(found) == signed + SIGNATURE


def test_what_a_keyring_says_in_the_clear():
    found = keyring.decode(raw_of(BODY))
    clear = (found.domain, found.version, found.public_key, found.epochs)
    assert clear == (BODY.domain, 3, BODY.public_key, EPOCHS)


@given(bodies, st.data())
def test_every_cut_and_every_byte_more_is_refused(body, data):
    whole = raw_of(body)
    for wrong in (data.draw(cuts(whole)), whole + b"\0"):
        with pytest.raises(FormatError):
            keyring.decode(wrong)


@given(bodies, st.data())
def test_a_flipped_bit_is_an_error_or_stands_in_the_signed_part(body, data):
    """The signature covers all; the head has a fixed value besides."""
    whole = raw_of(body)
    damaged = data.draw(flipped(whole))
    try:
        found = keyring.decode(damaged)
    except (FormatError, NewerFormat):
        return
    assert damaged[:12] == whole[:12]
    assert keyring.encode(found) == damaged
    assert (found.signed_part, found.signature) != (whole[:-64], SIGNATURE)


@given(st.binary(max_size=300), st.binary(max_size=200))
def test_anything_else_is_a_format_error(raw, body):
    for wrong in (raw, raw_of(body)):
        with pytest.raises(FormatError):
            keyring.decode(wrong)
    with pytest.raises(FormatError):
        keyring.decode_secrets(raw, EPOCHS)


BEYOND = [
    changed(domain=b"d" * 15),
    changed(version=0),
    changed(version=2**32),
    changed(public_key=b"k" * 33),
    changed(epochs=[]),
    changed(epochs=[EpochName(b"short", 1)]),
    changed(epochs=[EpochName(b"epoch-01", 0)]),
    changed(epochs=[EpochName(n.to_bytes(8, "big"), 1) for n in range(4097)]),
    changed(salt=bytes(31)),
    changed(secrets=bytes(15)),
    changed(wraps=[]),
    changed(wraps=[wrap(number, 19456, 1) for number in range(65)]),
    changed(wraps=[wrap(id=bytes(7))]),
    changed(wraps=[wrap(kind="")]),
    changed(wraps=[wrap(kind="k" * 257)]),
    changed(wraps=[wrap(made_in=0)]),
    changed(wraps=[wrap(made_in=4)]),
    changed(wraps=[wrap(memory=19455)]),
    changed(wraps=[wrap(memory=1024 * 1024 + 1, passes=1)]),
    changed(wraps=[wrap(passes=0)]),
    changed(wraps=[wrap(memory=19456, passes=17)]),
    changed(wraps=[wrap(lanes=0)]),
    changed(wraps=[wrap(lanes=5)]),
    changed(wraps=[wrap(salt=bytes(31))]),
    changed(wraps=[wrap(commitment=bytes(33))]),
    changed(wraps=[wrap(wrapped=bytes(47))]),
    changed(wraps=[wrap(wrapped=bytes(49))]),
    changed(features=Features([""])),
    changed(features=Features(["x"] * 65)),
    changed(epochs=[EPOCHS[0], EPOCHS[0]]),
    changed(epochs=[EPOCHS[0], EpochName(EPOCHS[0].epoch, 2)]),
    changed(epochs=[EPOCHS[2], EPOCHS[0]]),
    changed(wraps=[wrap(1), wrap(2), wrap(1, memory=19456)]),
]


@pytest.mark.parametrize("body", BEYOND)
def test_what_is_beyond_the_limits_is_neither_read_nor_written(body):
    with pytest.raises(FormatError):
        keyring.decode(raw_of(body))
    with pytest.raises((ValueError, FormatError)):
        keyring.signed_part(body)


@pytest.mark.parametrize("limit", [
    changed(wraps=[wrap(memory=1024 * 1024, passes=16, lanes=4)]),
    changed(wraps=[wrap(memory=19456, passes=1)]),
    changed(wraps=[wrap(number) for number in range(64)]),
    changed(epochs=[EpochName(n.to_bytes(8, "big"), 1) for n in range(4096)]),
])  # fmt: skip
def test_what_is_at_the_limits_comes_back(limit):
    assert keyring.decode(keyring.signed_part(limit) + SIGNATURE).body == limit


def test_all_wraps_together_may_cost_what_the_dearest_single_one_may():
    dearest = wrap(1, 1024 * 1024, 8), wrap(2, 1024 * 1024, 8)
    assert keyring.decode(raw_of(changed(wraps=[*dearest])))
    with pytest.raises(FormatError, match="more work"):
        keyring.decode(raw_of(changed(wraps=[*dearest, wrap(3, 19456, 1)])))


def test_a_keyring_has_at_most_256_kib():
    room = 256 * 1024 - len(raw_of(changed(secrets=bytes(3))))
    secrets, left = bytes(3 + room // 4 * 3 - 30), 40 + room % 4  # in base64 3 bytes are 4
    full = changed(secrets=secrets, wraps=[wrap(kind="passphrase" + "x" * left)])
    assert len(raw_of(full)) == 256 * 1024
    assert keyring.decode(keyring.signed_part(full) + SIGNATURE).body == full
    larger = changed(secrets=secrets, wraps=[wrap(kind="passphrase" + "x" * (left + 1))])
    with pytest.raises(ValueError, match="beyond the limit"):
        keyring.signed_part(larger)
    with pytest.raises(FormatError, match="not a keyring"):
        keyring.decode(raw_of(larger))


@pytest.mark.parametrize(("at", "why"), [(0, "not a keyring"), (5, "cut short"), (8, "cut short")])
def test_a_head_that_version_1_did_not_write_is_refused(at, why):
    raw = bytearray(raw_of(BODY))
    raw[at] ^= 1
    with pytest.raises(FormatError, match=why):
        keyring.decode(bytes(raw))


def test_a_later_version_says_so():
    raw = bytearray(raw_of(BODY))
    raw[4] = 2
    with pytest.raises(NewerFormat, match="version 2"):
        keyring.decode(bytes(raw))


def test_features_that_are_needed_are_refused_by_name_whatever_else_is_new():
    later = b'{"features":{"read":["shamir","x509"]},"wraps":"of another form"}'
    with pytest.raises(NewerFormat, match="the keyring needs shamir, x509"):
        keyring.decode(raw_of(later))
    opened = keyring.decode(raw_of(changed(features=Features(["a"], ["b"])))).body.features
    opened.require("the keyring", writing=False)
    with pytest.raises(NewerFormat, match=r"needs b$"):
        opened.require("the keyring", writing=True)
    opened.require("the keyring", frozenset({"b"}), writing=True)


def test_a_deeply_nested_body_is_damage_and_no_crash():
    with pytest.raises(FormatError):
        keyring.decode(raw_of(b'{"wraps":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))


def test_secrets_come_back():
    raw = keyring.encode_secrets(SECRETS, EPOCHS)
    assert keyring.decode_secrets(raw, EPOCHS) == SECRETS


def secrets(**fields):
    return msgspec.structs.replace(SECRETS, **fields)


@pytest.mark.parametrize("wrong", [
    secrets(signing_key=b"s" * 31),
    secrets(id_keys={1: b"i" * 32}),
    secrets(id_keys={1: b"i" * 32, 2: b"j" * 31}),
    secrets(id_keys={1: b"i" * 32, 3: b"j" * 32}),
    secrets(id_keys=SECRETS.id_keys | {3: b"j" * 32}),
    secrets(seal_keys={}),
    secrets(seal_keys=SECRETS.seal_keys | {"00" * 8: b"k" * 32}),
    secrets(seal_keys=SECRETS.seal_keys | {b"epoch-01".hex(): b"k" * 33}),
    secrets(seal_keys=SECRETS.seal_keys | {"0": b"k" * 32}),
    secrets(current_epoch=b"epoch-0"),
    secrets(current_epoch=b"epoch-04"),
    secrets(current_epoch=b"epoch-01"),
])  # fmt: skip
def test_secrets_that_do_not_fit_the_clear_part_are_refused(wrong):
    with pytest.raises(FormatError):
        keyring.decode_secrets(msgspec.json.encode(wrong), EPOCHS)
    with pytest.raises((ValueError, FormatError)):
        keyring.encode_secrets(wrong, EPOCHS)


def test_an_error_about_secrets_does_not_print_them():
    with pytest.raises(FormatError) as caught:
        keyring.decode_secrets(msgspec.json.encode(secrets(signing_key=b"SECRET")), EPOCHS)
    assert "SECRET" not in str(caught.value) and "U0VDUkVU" not in str(caught.value)
