"""A recovery key is printed, kept for years, and typed by somebody in a hurry."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.crypto import recovery_key
from transfer.errors import UsageError

ALPHABET = string.ascii_uppercase + "234567"
KEY = bytes(range(100, 120))
PRINTED = recovery_key.printed(KEY)
keys = st.binary(min_size=20, max_size=20)


def test_golden_print():
    """Keys that were printed stay good for ever; never update these values."""
    assert PRINTED == "MRSWM-Z3INF-VGW3D-NNZXX-A4LSO-N2HK5-TXWER-4SQSM"
    assert recovery_key.parsed(PRINTED) == KEY


def test_it_has_160_bits_and_a_check_of_40():
    assert recovery_key.SIZE * 8 == 160
    assert len(PRINTED.replace("-", "")) * 5 == 200
    assert {len(group) for group in PRINTED.split("-")} == {5}


@given(keys)
def test_every_key_comes_back(key):
    assert recovery_key.parsed(recovery_key.printed(key)) == key


@given(keys, st.data())
def test_case_blanks_and_dashes_do_not_matter(key, data):
    fillers = st.sampled_from(["", " ", "-", "\t", "\n", "\r\n", "\u2013", "\u2014", "\u00a0"])
    typed = "".join(
        data.draw(fillers) + (character.lower() if data.draw(st.booleans()) else character)
        for character in recovery_key.printed(key).replace("-", "")
    )
    assert recovery_key.parsed(typed + "\n") == key


@given(keys)
def test_digits_that_are_not_in_the_alphabet_are_read_as_the_letters_they_look_like(key):
    typed = recovery_key.printed(key).translate(str.maketrans("OIB", "018"))
    assert recovery_key.parsed(typed) == key


def test_no_printed_character_is_one_of_a_pair_that_is_read_as_the_other():
    assert not set(recovery_key.printed(KEY)) & set("0189")


def test_every_wrong_character_is_noticed():
    for place, right in enumerate(PRINTED):
        if right == "-":
            continue
        for wrong in set(ALPHABET) - {right}:
            with pytest.raises(UsageError, match="a character is wrong"):
                recovery_key.parsed(PRINTED[:place] + wrong + PRINTED[place + 1 :])


def test_every_missing_doubled_or_swapped_character_is_noticed():
    typed = PRINTED.replace("-", "")
    for at in range(len(typed)):
        with pytest.raises(UsageError, match="it has 39 characters, and needs 40"):
            recovery_key.parsed(typed[:at] + typed[at + 1 :])
        with pytest.raises(UsageError, match="it has 41 characters, and needs 40"):
            recovery_key.parsed(typed[:at] + typed[at] + typed[at:])
    for one in range(len(typed)):
        for other in range(one):
            if typed[one] != typed[other]:
                swapped = list(typed)
                swapped[one], swapped[other] = swapped[other], swapped[one]
                with pytest.raises(UsageError, match="two are swapped"):
                    recovery_key.parsed("".join(swapped))


@pytest.mark.parametrize("strange", ["9", "!", "=", "\u00e9", "\u0410", "\u200b", "\udc80", "\0"])
def test_a_character_that_no_key_has_is_named_by_its_place(strange):
    typed = PRINTED[:7] + strange + PRINTED[8:]
    with pytest.raises(UsageError, match="character 7 is none of A-Z and 2-7"):
        recovery_key.parsed(typed)


@given(st.text(max_size=60))
def test_no_text_raises_anything_else(text):
    with pytest.raises(UsageError):
        recovery_key.parsed(text)


def test_what_was_typed_is_never_shown():
    with pytest.raises(UsageError) as caught:
        recovery_key.parsed(PRINTED[:-1])
    shown = f"{caught.value.message} {caught.value.hint}"
    assert not any(group in shown for group in PRINTED.split("-"))
