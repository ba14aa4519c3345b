"""Features: unknown ones that are needed are refused by name, all others are not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import FormatError, NewerFormat
from transfer.formats import documents
from transfer.formats.features import FeatureBits, Features, refuse

HINT = "use a newer version of transfer"
names = st.sets(st.sampled_from("abcde"), max_size=3)
bits = st.integers(0, 2**64 - 1)


def refused(check, what, **how):
    try:
        check(what, **how)
    except NewerFormat as error:
        return f"{error}; {error.hint}"
    return None


@given(names, names, names, names, st.booleans())
def test_names_that_are_needed_and_unknown_are_refused(ignored, write, read, known, writing):
    features = Features(list(ignored), list(write), list(read))
    unknown = sorted((read | (write if writing else set())) - known)
    expected = f"the vault needs {', '.join(unknown)}; {HINT}" if unknown else None
    how = {"known": frozenset(known), "writing": writing}
    assert refused(features.require, "the vault", **how) == expected


@given(bits, bits, bits, st.booleans())
def test_bits_that_are_needed_are_refused_by_number(ignored, write, read, writing):
    needed = [f"read bit {bit}" for bit in range(64) if read >> bit & 1]
    needed += [f"write bit {bit}" for bit in range(64) if writing and write >> bit & 1]
    expected = f"a point needs {', '.join(needed)}; {HINT}" if needed else None
    features = FeatureBits(ignored, write, read)
    assert refused(features.require, "a point", writing=writing) == expected


def test_nothing_unknown_is_refused_by_nobody():
    refuse("a vault", [])
    assert FeatureBits() == (0, 0, 0)
    assert Features() == Features([], [], [])


@pytest.mark.parametrize(
    "wrong", [Features([""]), Features(["n" * 257]), Features(read=["n"] * 65)]
)
def test_names_have_limits(wrong):
    with pytest.raises(FormatError):
        documents.decode(msgspec.json.encode(wrong), Features, "features")
    with pytest.raises(ValueError):
        documents.encode(wrong)
