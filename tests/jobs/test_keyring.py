"""Keyrings as values: what opens them, what never does, and what each change leaves as it was."""

import base64
import unicodedata

import msgspec
import pytest

from transfer.crypto import recovery_key, signing, wrap
from transfer.errors import (
    FormatError,
    IntegrityError,
    NewerFormat,
    TransferError,
    UsageError,
    WrongPassphrase,
)
from transfer.formats import keyring as codec
from transfer.formats.features import Features
from transfer.formats.reference import Kind, tag_of
from transfer.jobs import keyring as keyrings
from transfer.jobs.keyring import PASSPHRASE, RECOVERY, Secret
from transfer.pipeline.sealing import Opener, Sealer

pytestmark = pytest.mark.usefixtures("quick_keyrings")

OLD, NEW = "Größe, Mühe und Öl", "a completely different sentence"
DATA = tag_of(Kind.DATA)


def typed(passphrase):
    return Secret(lambda new: passphrase)


def printed(key):
    return Secret(lambda new: pytest.fail("a recovery key needs no passphrase"), key)


def never(new):
    pytest.fail("the passphrase was asked for before the keyring was checked")


@pytest.fixture
def opened():
    return keyrings.open_keyring(keyrings.create(OLD), typed(OLD))


def raw_of(opened):
    return opened.keyring.signed_part + opened.keyring.signature


def resigned(opened, **changes):
    """A keyring with other fields, signed by somebody who has the signing key."""
    signed = codec.signed_part(msgspec.structs.replace(opened.keyring.body, **changes))
    return signed + signing.sign(opened.secrets.signing_key, signed)


def next_of(opened, raw, secret):
    return keyrings.open_keyring(raw, secret, opened.domain)


# What opens a keyring.


@pytest.mark.parametrize(
    "passphrase", [OLD, unicodedata.normalize("NFD", OLD), "\ufeff" + OLD, OLD + "\r\n", OLD + "\n"]
)
def test_a_keyring_opens_however_its_passphrase_was_typed(opened, passphrase):
    again = keyrings.open_keyring(raw_of(opened), typed(passphrase), opened.domain)
    assert again == opened


def test_a_new_keyring_costs_what_the_design_says(monkeypatch, quick_keyrings):
    for name, cost in quick_keyrings.items():
        monkeypatch.setattr(wrap, name, cost)
    opened = keyrings.open_keyring(keyrings.create(OLD), typed(OLD))
    (only,) = opened.keyring.body.wraps
    assert (only.memory, only.passes, only.lanes) == (64 * 1024, 3, 1)


def test_a_new_domain_is_named_by_its_signing_key_and_shares_nothing(opened):
    other = keyrings.open_keyring(keyrings.create(OLD), typed(OLD))
    assert opened.domain == signing.domain_id(signing.public_key_of(opened.secrets.signing_key))
    assert (opened.keyring.version, opened.generation) == (1, 1)
    assert [name.epoch for name in opened.keyring.epochs] == [opened.secrets.current_epoch]
    for each in ("domain", "key", "first_key"):
        assert getattr(opened, each) != getattr(other, each)
    assert opened.secrets.signing_key != other.secrets.signing_key
    assert opened.seal_keys().seal_keys.keys() != other.seal_keys().seal_keys.keys()
    (one,), (two,) = opened.keyring.body.wraps, other.keyring.body.wraps
    assert one.salt != two.salt and one.id != two.id


def test_a_wrong_passphrase_says_of_which_keyring(opened):
    with pytest.raises(WrongPassphrase, match="wrong passphrase") as caught:
        keyrings.open_keyring(raw_of(opened), typed(NEW))
    assert f"version 1 of the keyring of domain {opened.domain.hex()[:8]}" in str(caught.value)
    assert "never made anew" in caught.value.hint
    assert NEW not in repr(caught.value)


@pytest.mark.parametrize("passphrase", ["", "too short", "x" * 15, "half a character \udc80"])
def test_what_cannot_be_a_passphrase_makes_no_keyring_and_opens_none(opened, passphrase):
    for use in (
        lambda: keyrings.create(passphrase),
        lambda: keyrings.open_keyring(raw_of(opened), typed(passphrase)),
        lambda: keyrings.with_passphrase(opened, passphrase),
        lambda: keyrings.hard_rotated(opened, passphrase),
    ):
        with pytest.raises(UsageError) as caught:
            use()
        assert not passphrase or passphrase not in repr(caught.value)


GOLDEN_RECOVERY_KEY = "F34KI-KBO7F-QDRUG-YNHFP-VDFRG-AUDW2-L7D73-WNB6V"
GOLDEN = base64.b64decode(
    "VEtFWQEAAAAcBQAAeyJkb21haW4iOiJNT3ZjWGNGcEcwL0x6T3JaM0dYcW1RPT0iLCJ2ZXJzaW9uIjozLCJwdWJsaW"
    "Nfa2V5IjoiMlZ6VU5aS3BHNzNFVGJ5Sm9nZzQwUXg3ZDlUc01seTZQNUJkcmgrTUFJVT0iLCJlcG9jaHMiOlt7ImVw"
    "b2NoIjoiRVhGejRkUVdXU2s9IiwiZ2VuZXJhdGlvbiI6MX0seyJlcG9jaCI6InRnS2xaYU02TFdZPSIsImdlbmVyYX"
    "Rpb24iOjF9XSwid3JhcHMiOlt7ImlkIjoiT0VDZXhYTk81Y3c9Iiwia2luZCI6InBhc3NwaHJhc2UiLCJtYWRlX2lu"
    "IjoxLCJtZW1vcnkiOjY1NTM2LCJwYXNzZXMiOjMsImxhbmVzIjoxLCJzYWx0IjoiandqTGROM0hHZHI3em41TEp1VE"
    "5rcVFFamhNVWYxZ1VDakY4cHg2WnpRQT0iLCJjb21taXRtZW50Ijoid2IxVC8zczlSK1FOSDJ6VHZNSmhQMHV5c3pM"
    "eVk2MWtwUXRJZkJXRWR3MD0iLCJ3cmFwcGVkIjoiZnpXRHNYenFPWHQvMnFRc3FMSUhLVElVMXRuMGc5UWZrVm9QcE"
    "82YkNtcGxqSXNoaVl4VjdsaEJNay96RXlHMSJ9LHsiaWQiOiI0d3NnMGVMWC85TT0iLCJraW5kIjoicmVjb3Zlcnki"
    "LCJtYWRlX2luIjoyLCJtZW1vcnkiOjY1NTM2LCJwYXNzZXMiOjMsImxhbmVzIjoxLCJzYWx0Ijoia1VIV1FhMEZYUk"
    "NKOHpsMzhlR0N1ZmdEWXVwSnNGcTBJNk13L3dXeUZlOD0iLCJjb21taXRtZW50IjoieTZhSjFjbFBMRDc0SGtUdEpS"
    "VFRIazVOUURCblBTVEpWYk5hSUl3R0kvND0iLCJ3cmFwcGVkIjoiNCtYSDRueG5qLytjRW9DaFhXTkdHUGRFaHRTcE"
    "V1SHRBeGpaa0ZBcXJIaUxibWN0T1l5dVJSOXZHVFEwclpXLyJ9XSwic2FsdCI6IlFOOUZjUjFhSWxyMkZhVGpPNzNv"
    "MFZCdDdnQUJsQjlKL1AyVFIrU2ZLUTg9Iiwic2VjcmV0cyI6IkpMWHRwMXBLb2dqWEpkMzljaEN6a0lBWVowcGl1Rn"
    "dnSmNIdDdCOHR1SGtqZW9SQzNza29PRkE0MlJxK2c5eEo4ZkErdU9NMHZXaCtVU3AwS3pIT2lrcWdNK0xwelNlYVhT"
    "VnY2eFRpakgzdnZQdlMrSjRJcUJLMWhXUUJHczJtSEFKOGk2SG5qT0hZSXVTcG92REQ0bklXcjVwTDdlWkVueVR1ak"
    "ljaDhYSUpIcXFOczQ4bHA2dUJaaUxwSk1wWTQ2UzFaYk5rWlJWMHlJT3NRUmVFR3BBL0g3S1dldDJ1MEg2Q1owYVUr"
    "b0JBT0o5VG1tTDlSRUdmSnprQ3FXOFpSU0ZGUzVZcHFOYm50NWVjWGNCeEM4UXVxWFN5a2ZVZHR3OXNYM0tXRjNWeE"
    "NnaUhNSURBN1Z3eXl5UVE5dDR2OG91Y25zQTQwNHEvQndPeVJ1U2VjOEdSVmpPZEMzTDB0UFdRQWtneFhMc3ZaMmtO"
    "ampvR3M1c3QrWGRScTdrWUZlMVE4aEdLa1dCR3JEbjlvWFFNdGdpTFNUYXRqVGVNWjh1OEZ0d04iLCJmZWF0dXJlcy"
    "I6eyJpZ25vcmVkIjpbXSwid3JpdGUiOltdLCJyZWFkIjpbXX19+5SNgPFUwgkNn48jkP6soEGRph4gBoTML9DWijto"
    "D2uRBxPQQcb6+yH82Mc9jMwESqXIbgGJQlAPsNuwbjLaDg=="
)


def test_a_golden_keyring_opens():
    """Version 1, two wraps, two epochs. What opens it is printed somewhere; never update it."""
    for secret in (typed(OLD), printed(GOLDEN_RECOVERY_KEY)):
        opened = keyrings.open_keyring(
            GOLDEN, secret, bytes.fromhex("30ebdc5dc1691b4fcbccead9dc65ea99")
        )
        assert (opened.keyring.version, opened.generation) == (3, 1)
        assert opened.first_key.hex() == (
            "b296dd511fb8230dd2b0f3b5d931c502f1710389f9ced3868c27527192cd670b"
        )
        assert len(opened.seal_keys().seal_keys) == 2


# What never does: damaged, another's, put together from true parts.


def test_a_damaged_keyring_is_told_from_a_wrong_passphrase_before_any_work(opened):
    raw = raw_of(opened)
    for at in range(len(raw)):
        for change in (1 << at % 8, 0xFF):
            damaged = bytearray(raw)
            damaged[at] ^= change
            with pytest.raises((IntegrityError, NewerFormat)):
                keyrings.open_keyring(bytes(damaged), Secret(never))


def test_a_keyring_cut_short_or_with_more_behind_it_is_damaged(opened):
    raw = raw_of(opened)
    for end in range(len(raw)):
        with pytest.raises(FormatError, match="damaged"):
            keyrings.open_keyring(raw[:end], Secret(never))
    with pytest.raises(FormatError, match="damaged"):
        keyrings.open_keyring(raw + b"x", Secret(never))


def test_damage_says_what_to_do(opened):
    with pytest.raises(FormatError) as caught:
        keyrings.open_keyring(b"no keyring at all", Secret(never))
    assert "another copy" in caught.value.hint and "never made anew" in caught.value.hint


def test_the_keyring_of_another_domain_is_told_from_a_wrong_passphrase(opened):
    other = keyrings.create(OLD)
    with pytest.raises(IntegrityError) as caught:
        keyrings.open_keyring(other, Secret(never), opened.domain)
    assert f"not of {opened.domain.hex()[:8]}" in caught.value.message


def test_a_signature_of_another_key_holds_for_no_domain(opened):
    signed = opened.keyring.signed_part
    for signature in (signing.sign(bytes(32), signed), bytes(64)):
        with pytest.raises(IntegrityError, match="signature"):
            keyrings.open_keyring(signed + signature, Secret(never))


def test_another_public_key_makes_another_domain(opened):
    """Somebody who signs with a key of their own cannot claim this domain."""
    body = msgspec.structs.replace(opened.keyring.body, public_key=signing.public_key_of(bytes(32)))
    signed = codec.signed_part(body)
    with pytest.raises(IntegrityError, match="signature"):
        keyrings.open_keyring(signed + signing.sign(bytes(32), signed), Secret(never))


def test_costs_beyond_the_bounds_are_refused_before_any_work(opened):
    (only,) = opened.keyring.body.wraps
    text = opened.keyring.signed_part[12:]
    for field, value in (("memory", codec.MIN_MEMORY - 1), ("memory", 2**21), ("passes", 17)):
        old = f'"{field}":{getattr(only, field)}'.encode()
        changed = text.replace(old, f'"{field}":{value}'.encode())
        signed = b"TKEY\x01\0\0\0" + len(changed).to_bytes(4, "little") + changed
        assert changed != text
        with pytest.raises(FormatError):
            keyrings.open_keyring(
                signed + signing.sign(opened.secrets.signing_key, signed), Secret(never)
            )


def test_a_wrap_opens_only_as_it_was_made(opened):
    """Domain, version, ID, kind and costs are bound: no wrap serves in another's place."""
    opened = next_of(opened, keyrings.with_passphrase(opened, NEW), typed(NEW))
    (only,) = opened.keyring.body.wraps
    changes = {
        "id": b"x" * 8, "made_in": 1, "memory": only.memory + 8, "passes": 2, "lanes": 2,
        "salt": b"x" * 32, "commitment": b"x" * 32,
    }  # fmt: skip
    for field, value in changes.items():
        changed = msgspec.structs.replace(only, **{field: value})
        with pytest.raises(WrongPassphrase, match="wrong passphrase"):
            keyrings.open_keyring(resigned(opened, wraps=[changed]), typed(NEW))
    other = keyrings.open_keyring(keyrings.create(NEW), typed(NEW))
    with pytest.raises(WrongPassphrase):
        keyrings.open_keyring(resigned(opened, wraps=other.keyring.body.wraps), typed(NEW))
    assert keyrings.open_keyring(resigned(opened, wraps=[only]), typed(NEW)) == opened


def test_a_wrap_of_one_kind_does_not_serve_as_the_other(opened):
    raw, key = keyrings.with_recovery_key(opened)
    opened = next_of(opened, raw, typed(OLD))
    swapped = [
        msgspec.structs.replace(each, kind=RECOVERY if each.kind == PASSPHRASE else PASSPHRASE)
        for each in opened.keyring.body.wraps
    ]
    for secret in (typed(OLD), printed(key)):
        with pytest.raises(WrongPassphrase):
            keyrings.open_keyring(resigned(opened, wraps=swapped), secret)


def test_a_passphrase_does_not_serve_as_a_recovery_key_of_the_same_bytes():
    same = "exactly 20 bytes, no"
    opened = keyrings.open_keyring(keyrings.create(same), typed(same))
    (only,) = opened.keyring.body.wraps
    relabelled = resigned(opened, wraps=[msgspec.structs.replace(only, kind=RECOVERY)])
    with pytest.raises(WrongPassphrase, match="wrong recovery key"):
        keyrings.open_keyring(relabelled, printed(recovery_key.printed(same.encode())))


def test_the_commitment_is_compared_before_anything_is_decrypted(opened):
    """AES-GCM alone would let one ciphertext open under many passphrases."""
    (only,) = opened.keyring.body.wraps
    flipped = bytes([only.wrapped[0] ^ 1]) + only.wrapped[1:]
    with pytest.raises(FormatError, match="damaged"):  # the passphrase is right
        keyrings.open_keyring(
            resigned(opened, wraps=[msgspec.structs.replace(only, wrapped=flipped)]), typed(OLD)
        )
    with pytest.raises(WrongPassphrase):
        keyrings.open_keyring(
            resigned(opened, wraps=[msgspec.structs.replace(only, wrapped=flipped)]), typed(NEW)
        )


def test_secrets_belong_to_their_version_of_their_domain(opened):
    later = next_of(opened, keyrings.soft_rotated(opened), typed(OLD))
    first, body = opened.keyring.body, later.keyring.body
    flipped = bytes([body.secrets[0] ^ 1]) + body.secrets[1:]
    for changes in (
        {"version": 3},
        {"salt": first.salt},
        {"secrets": first.secrets},
        {"secrets": first.secrets, "salt": first.salt},
        {"secrets": first.secrets, "salt": first.salt, "epochs": first.epochs},
        {"secrets": flipped},
        {"secrets": body.secrets[:-1]},
        {"epochs": first.epochs},
    ):
        with pytest.raises(FormatError):
            keyrings.open_keyring(resigned(later, **changes), typed(OLD))


def test_secrets_with_another_domains_signing_key_are_refused(opened):
    secrets = msgspec.structs.replace(opened.secrets, signing_key=bytes(32))
    body = opened.keyring.body
    sealed = wrap.encrypt_once(
        wrap.secrets_key(opened.key, body.salt),
        codec.encode_secrets(secrets, body.epochs),
        b"transfer keyring secrets" + body.domain + body.version.to_bytes(4, "little"),
    )
    with pytest.raises(FormatError, match="signing key"):
        keyrings.open_keyring(resigned(opened, secrets=sealed), typed(OLD))


# Passphrases and recovery keys.


def test_a_new_passphrase_replaces_the_old_one_in_the_new_version_only(opened):
    raw = keyrings.with_passphrase(opened, NEW)
    later = next_of(opened, raw, typed(NEW))
    assert (later.keyring.version, later.secrets, later.key) == (2, opened.secrets, opened.key)
    assert later.seal_keys() == opened.seal_keys()
    with pytest.raises(WrongPassphrase, match="version 2"):
        keyrings.open_keyring(raw, typed(OLD))
    # Who kept the old version and the old passphrase can still read it; the documents say so.
    assert keyrings.open_keyring(raw_of(opened), typed(OLD)).secrets == opened.secrets


def test_a_recovery_key_opens_beside_the_passphrase_and_survives_its_change(opened):
    raw, key = keyrings.with_recovery_key(opened)
    assert next_of(opened, raw, printed(key)) == next_of(opened, raw, typed(OLD))
    changed = keyrings.with_passphrase(next_of(opened, raw, typed(OLD)), NEW)
    for secret in (printed(key), printed(key.lower().replace("-", " ") + "\n"), typed(NEW)):
        assert next_of(opened, changed, secret).secrets == opened.secrets


def test_a_lost_passphrase_is_replaced_with_the_recovery_key(opened):
    raw, key = keyrings.with_recovery_key(opened)
    recovered = next_of(opened, raw, printed(key))
    again = next_of(opened, keyrings.with_passphrase(recovered, NEW), typed(NEW))
    assert again.secrets == opened.secrets


def test_a_new_recovery_key_replaces_the_old_one(opened):
    raw, first = keyrings.with_recovery_key(opened)
    raw, second = keyrings.with_recovery_key(next_of(opened, raw, typed(OLD)))
    assert first != second
    with pytest.raises(WrongPassphrase, match="wrong recovery key"):
        keyrings.open_keyring(raw, printed(first))
    assert next_of(opened, raw, printed(second)).secrets == opened.secrets


def test_no_recovery_key_a_wrong_one_and_none_at_all_are_told_apart(opened):
    with pytest.raises(WrongPassphrase, match="there is no recovery key"):
        keyrings.open_keyring(raw_of(opened), printed(recovery_key.printed(bytes(20))))
    raw, key = keyrings.with_recovery_key(opened)
    with pytest.raises(WrongPassphrase, match="wrong recovery key"):
        keyrings.open_keyring(raw, printed(recovery_key.printed(bytes(20))))
    with pytest.raises(UsageError, match="39 characters"):
        keyrings.open_keyring(raw, printed(key[:-1]))


def test_any_of_several_wraps_opens(opened):
    """This version writes one of each kind; another may write more."""
    raw = keyrings.with_passphrase(opened, NEW)
    wraps = [*opened.keyring.body.wraps, *codec.decode(raw).body.wraps]
    both = resigned(next_of(opened, raw, typed(NEW)), wraps=wraps)
    for passphrase in (OLD, NEW):
        assert keyrings.open_keyring(both, typed(passphrase)).secrets == opened.secrets
    with pytest.raises(WrongPassphrase):
        keyrings.open_keyring(both, typed("neither of the two sentences"))


def test_the_newest_wrap_is_tried_first(opened):
    """What is asked for again and again costs one derivation."""
    (old,) = opened.keyring.body.wraps
    later = next_of(opened, keyrings.with_passphrase(opened, OLD), typed(OLD))
    damaged = msgspec.structs.replace(old, wrapped=bytes(48))  # opening it would fail
    wraps = [damaged, *later.keyring.body.wraps]
    assert keyrings.open_keyring(resigned(later, wraps=wraps), typed(OLD)).key == opened.key


# Rotation.


def frame_of(opened, plain=b"the same content"):
    return Sealer(opened.seal_keys()).seal(DATA, plain)


def test_a_soft_rotation_keeps_ids_wraps_and_old_frames(opened):
    raw, key = keyrings.with_recovery_key(opened)
    opened = next_of(opened, raw, typed(OLD))
    raw = keyrings.soft_rotated(opened)
    later = next_of(opened, raw, typed(OLD))
    assert next_of(opened, raw, printed(key)) == later
    assert keyrings.open_with_key(raw, opened.key) == later
    assert (later.generation, later.keyring.version) == (1, 3)
    assert later.keyring.body.wraps == opened.keyring.body.wraps
    epochs = [name.epoch for name in later.keyring.epochs]
    assert epochs[:1] == [opened.secrets.current_epoch]
    assert epochs[1:] == [later.secrets.current_epoch]
    (old_id, old_frame), (new_id, new_frame) = frame_of(opened), frame_of(later)
    assert old_id == new_id and old_frame != new_frame
    for raw in (old_frame, new_frame):
        assert Opener(later.seal_keys()).open(raw)[2] == b"the same content"
    with pytest.raises(IntegrityError):  # what an old keyring does not know
        Opener(opened.seal_keys()).open(new_frame)


def test_a_hard_rotation_begins_anew_and_still_reads_the_old(opened):
    later = next_of(opened, keyrings.hard_rotated(opened, NEW), typed(NEW))
    assert (later.generation, later.keyring.version) == (2, 2)
    assert [name.generation for name in later.keyring.epochs] == [1, 2]
    assert later.domain == opened.domain
    assert later.first_key == opened.first_key  # items keep their IDs
    (old_id, old_frame), (new_id, new_frame) = frame_of(opened), frame_of(later)
    assert old_id != new_id
    assert Opener(later.seal_keys()).open(old_frame)[2] == b"the same content"
    assert Opener(later.seal_keys()).open(new_frame)[2] == b"the same content"
    assert later.secrets.id_keys[1] == opened.secrets.id_keys[1]


def test_nothing_that_opened_the_old_keyring_opens_a_hard_rotated_one(opened):
    raw, key = keyrings.with_recovery_key(opened)
    opened = next_of(opened, raw, typed(OLD))
    raw = keyrings.hard_rotated(opened, NEW)
    with pytest.raises(WrongPassphrase, match="wrong passphrase"):
        keyrings.open_keyring(raw, typed(OLD))
    with pytest.raises(WrongPassphrase, match="there is no recovery key") as caught:
        keyrings.open_keyring(raw, printed(key))
    assert "print a new one" in caught.value.hint
    with pytest.raises(FormatError, match="do not open"):
        keyrings.open_with_key(raw, opened.key)
    (only,) = codec.decode(raw).body.wraps
    assert only.made_in == 3 and only.kind == PASSPHRASE


@pytest.mark.parametrize("passphrase", [OLD, unicodedata.normalize("NFD", OLD) + "\n"])
def test_a_hard_rotation_needs_another_passphrase(opened, passphrase):
    with pytest.raises(UsageError, match="another passphrase"):
        keyrings.hard_rotated(opened, passphrase)
    later = next_of(opened, keyrings.hard_rotated(opened, NEW), typed(NEW))
    with pytest.raises(UsageError, match="another passphrase"):
        keyrings.hard_rotated(later, NEW)


def test_a_version_forged_with_an_old_keyring_does_not_open_with_the_new_passphrase(opened):
    """The signing key stays, so its thief can sign; but has no wrap for the new passphrase."""
    later = next_of(opened, keyrings.hard_rotated(opened, NEW), typed(NEW))
    forged = keyrings.soft_rotated(opened)  # made with what the thief has: version 2, old wraps
    assert codec.decode(forged).version == later.keyring.version
    with pytest.raises(WrongPassphrase):
        keyrings.open_keyring(forged, typed(NEW), later.domain)
    mixed = resigned(
        keyrings.open_with_key(forged, opened.key), wraps=list(later.keyring.body.wraps)
    )
    with pytest.raises(FormatError, match="do not open"):  # the true wrap, and the thief's secrets
        keyrings.open_keyring(mixed, typed(NEW), later.domain)


def test_each_change_makes_all_of_its_parts_anew(opened):
    versions = [
        keyrings.with_passphrase(opened, NEW),
        keyrings.with_passphrase(opened, NEW),
        keyrings.with_recovery_key(opened)[0],
        keyrings.soft_rotated(opened),
        keyrings.hard_rotated(opened, NEW),
    ]
    bodies = [opened.keyring.body, *(codec.decode(raw).body for raw in versions)]
    assert len({body.salt for body in bodies}) == len(bodies)
    assert len({body.secrets for body in bodies}) == len(bodies)
    wraps = {each.salt: each for body in bodies for each in body.wraps}
    assert len({each.wrapped for each in wraps.values()}) == len(wraps) == 5


def test_many_rotations_lose_no_key(opened):
    known = dict(opened.seal_keys().seal_keys)
    for turn in range(6):
        if turn % 3 == 2:
            raw = keyrings.hard_rotated(opened, f"{NEW}, number {turn}")
            opened = next_of(opened, raw, typed(f"{NEW}, number {turn}"))
        else:
            opened = keyrings.open_with_key(keyrings.soft_rotated(opened), opened.key)
        assert known.items() <= opened.seal_keys().seal_keys.items()
        known = dict(opened.seal_keys().seal_keys)
    assert len(known) == len(opened.keyring.epochs) == 7
    assert opened.generation == 3


def test_a_keyring_that_needs_more_than_we_know_to_write_opens_and_stays_as_it_is(opened):
    newer = resigned(opened, features=Features(write=["threshold"]))
    reopened = keyrings.open_keyring(newer, typed(OLD))
    assert reopened.secrets == opened.secrets
    for change in (
        lambda: keyrings.with_passphrase(reopened, NEW),
        lambda: keyrings.with_recovery_key(reopened),
        lambda: keyrings.soft_rotated(reopened),
        lambda: keyrings.hard_rotated(reopened, NEW),
    ):
        with pytest.raises(NewerFormat, match="threshold"):
            change()
    with pytest.raises(NewerFormat, match="threshold"):
        keyrings.open_keyring(
            resigned(opened, features=Features(read=["threshold"])), Secret(never)
        )


def test_keys_are_in_no_repr_and_in_no_error(opened):
    raw, key = keyrings.with_recovery_key(opened)
    opened = next_of(opened, raw, printed(key))
    secrets = [opened.key, opened.secrets.signing_key, *opened.secrets.id_keys.values()]
    secrets += opened.secrets.seal_keys.values()
    shown = f"{opened!r} {printed(key)!r} {opened.seal_keys()!r}"
    assert key not in shown
    assert not any(str(each)[2:-1] in shown or each.hex() in shown for each in secrets)
    for wrong in (key[:-1], "9" + key[1:], recovery_key.printed(bytes(20))):
        with pytest.raises(TransferError) as caught:
            keyrings.open_keyring(raw, printed(wrong))
        assert not any(group in repr(caught.value) for group in wrong.split("-"))
