"""Passphrases are the same on every keyboard; a wrap opens with what it was made of, or not."""

import hmac
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transfer.crypto import wrap
from transfer.errors import UsageError

SENTENCE = "Größe, Mühe und Öl"  # 18 code points composed, 22 decomposed
NFD = unicodedata.normalize("NFD", SENTENCE)


@pytest.mark.parametrize(
    "raw",
    [
        SENTENCE,
        NFD,
        SENTENCE.encode(),
        NFD.encode(),
        SENTENCE.encode() + b"\n",
        SENTENCE.encode() + b"\r\n",
        b"\xef\xbb\xbf" + SENTENCE.encode(),
        b"\xef\xbb\xbf" + NFD.encode() + b"\r\n",
        "\ufeff" + SENTENCE + "\n",
    ],
)
def test_one_passphrase_however_it_was_typed_and_saved(raw):
    """Golden: a keyring that exists opens with these bytes only; never update them."""
    golden = "4772c3b6c39f652c204dc3bc686520756e6420c3966c"
    assert wrap.normalise_passphrase(raw).encode().hex() == golden


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b"sixteen letters!\n\n", "sixteen letters!\n"),  # one line end, and no more
        (b"sixteen letters!\r", "sixteen letters!\r"),
        (b" sixteen letters! \n", " sixteen letters! "),  # blanks are part of it
        (b"\xef\xbb\xbf\xef\xbb\xbfsixteen letters!", "\ufeffsixteen letters!"),
        (b"two lines of a\npassphrase", "two lines of a\npassphrase"),
        ("\u212a" * 16, "K" * 16),  # the Kelvin sign is a K
        ("\ufb01" * 16, "\ufb01" * 16),  # a ligature is not its letters: NFC, not NFKC
    ],
)
def test_nothing_else_is_changed(raw, kept):
    assert wrap.normalise_passphrase(raw) == kept


@given(st.text(min_size=16))
def test_normalising_again_changes_nothing_of_a_typed_passphrase(text):
    assume(not text.startswith("\ufeff") and not text.endswith("\n"))
    try:
        once = wrap.normalise_passphrase(text)
    except UsageError:
        return
    assert unicodedata.is_normalized("NFC", once)
    assert wrap.normalise_passphrase(once) == once == wrap.normalise_passphrase(once.encode())


def test_code_points_are_counted_after_all_else():
    with pytest.raises(UsageError, match="15 characters"):
        wrap.normalise_passphrase("e\u0301" * 15)  # 30 code points as typed
    assert len(wrap.normalise_passphrase("e\u0301" * 16)) == 16
    with pytest.raises(UsageError, match="15 characters"):
        wrap.normalise_passphrase(b"\xef\xbb\xbf" + b"x" * 15 + b"\r\n")
    assert wrap.normalise_passphrase("\U0001f40e" * 16)  # four bytes each, one character each
    with pytest.raises(UsageError, match="0 characters"):
        wrap.normalise_passphrase(b"")


@pytest.mark.parametrize(
    "raw",
    [
        "a sentence of words".encode("utf-16"),
        "Größe, Mühe und Öl".encode("latin-1"),
        b"overlong \xc0\xaf is refused too",
        "typed on a terminal \udcff",  # a byte that the terminal's encoding does not have
        "\ud800 half a pair of them",
    ],
)
def test_what_is_not_utf8_is_refused_and_not_shown(raw):
    with pytest.raises(UsageError, match="not UTF-8") as caught:
        wrap.normalise_passphrase(raw)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


COSTS = (19 * 1024, 1, 1)  # the least that a reader accepts: tests are many


def keys_of(secret=b"secret", salt=b"s" * 32, costs=COSTS, bound=b"bound"):
    return wrap.wrap_keys(secret, salt, *costs, bound)


def test_golden_wrap():
    """A keyring's wrap opens for ever; never update these values."""
    wrap_key, commitment = wrap.wrap_keys(
        b"correct horse battery staple", bytes(range(32)), 64 * 1024, 3, 1, b"bound"
    )
    assert wrap_key.hex() == "2c2ccb589395c597f9becc29901c9370d28dbc04d7979cc01cab544df80b13f2"
    assert commitment.hex() == "fdb359d76f66235634275c5f069068a88a8f76b443d7ccb03fe5c2ffbb1d7ad5"
    sealed = wrap.encrypt_once(wrap_key, bytes(32), b"bound")
    assert sealed.hex() == (
        "26cb41337641e768d8da0c3954488c44be68664f22100436eae5c1460d7c12dc"
        "51d91e407b3c6d613504d1f31402c990"
    )


def test_what_new_wraps_cost_is_what_the_design_says():
    assert (wrap.MEMORY, wrap.PASSES, wrap.LANES) == (64 * 1024, 3, 1)


def test_each_input_gives_other_keys():
    made = [
        keys_of(),
        keys_of(secret=b"Secret"),
        keys_of(salt=b"t" * 32),
        keys_of(costs=(19 * 1024 + 8, 1, 1)),
        keys_of(costs=(19 * 1024, 2, 1)),
        keys_of(costs=(19 * 1024, 1, 2)),
        keys_of(bound=b"Bound"),
    ]
    assert len({key for pair in made for key in pair}) == 2 * len(made)
    assert all(len(key) == 32 for pair in made for key in pair)


def test_keyring_keys_give_other_secrets_keys_for_each_salt():
    assert (
        wrap.secrets_key(bytes(32), bytes(32)).hex()
        == "f129a0a412bf085c8f06a70d6d27c702458facc9716b81a0f7bbad07ad779821"
    )  # golden
    salts = [bytes(32), b"s" * 32]
    assert len({wrap.secrets_key(key, salt) for key in salts for salt in salts}) == 4


def test_commitments_are_compared_in_constant_time():
    assert wrap.commitments_match(b"c" * 32, b"c" * 32)
    assert not wrap.commitments_match(b"c" * 32, b"c" * 31 + b"d")
    assert not wrap.commitments_match(b"c" * 32, b"")
    assert "compare_digest" in wrap.commitments_match.__code__.co_names
    assert hmac.compare_digest.__module__ in ("_operator", "_hashlib")


@given(st.binary(max_size=100), st.binary(max_size=20), st.data())
def test_what_was_sealed_once_opens_with_its_key_and_bound_values_only(plain, bound, data):
    sealed = wrap.encrypt_once(b"k" * 32, plain, bound)
    assert wrap.decrypt_once(b"k" * 32, sealed, bound) == plain
    assert wrap.decrypt_once(b"l" * 32, sealed, bound) is None
    assert wrap.decrypt_once(b"k" * 32, sealed, bound + b"x") is None
    at, bit = data.draw(st.integers(0, len(sealed) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(sealed)
    flipped[at] ^= 1 << bit
    assert wrap.decrypt_once(b"k" * 32, bytes(flipped), bound) is None


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_sealed_secret_cut_short_does_not_open(length):
    assert wrap.decrypt_once(b"k" * 32, bytes(length), b"") is None
