"""The signing key: one domain, one ID, and no signature but its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.crypto import signing

KEY = bytes(range(32))
PUBLIC = signing.public_key_of(KEY)


def test_golden_domain():
    """The domain's ID is the same in every vault, for ever; never update these values."""
    assert PUBLIC.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert signing.domain_id(PUBLIC).hex() == "7a7c920539255631bde2753ac904daac"
    assert signing.sign(KEY, b"message").hex() == (
        "7bc0ea578290c8dcf6fc8a6e134a7f3e794ddd7e8922108bccd6202f95de532b"
        "92c2298dc8e161ac2b5e3653f92c5b0e12adf26b3d46e7bd2057715f25d3e205"
    )


@given(st.binary(max_size=100), st.data())
def test_a_signature_holds_for_its_message_and_key_only(message, data):
    signature = signing.sign(KEY, message)
    assert signing.verify(PUBLIC, signature, message)
    assert not signing.verify(PUBLIC, signature, message + b"x")
    assert not signing.verify(signing.public_key_of(bytes(32)), signature, message)
    flipped = bytearray(signature)
    flipped[data.draw(st.integers(0, 63))] ^= 1 << data.draw(st.integers(0, 7))
    assert not signing.verify(PUBLIC, bytes(flipped), message)


@pytest.mark.parametrize(
    ("public", "signature"),
    [
        (b"", bytes(64)),
        (bytes(31), bytes(64)),
        (PUBLIC, b""),
        (PUBLIC, bytes(63)),
        (PUBLIC, bytes(65)),
    ],
)
def test_what_is_no_key_or_no_signature_never_holds(public, signature):
    assert not signing.verify(public, signature, b"message")


def test_each_key_has_a_domain_of_its_own():
    domains = {signing.domain_id(signing.public_key_of(bytes([n]) * 32)) for n in range(20)}
    assert len(domains) == 20 and {len(each) for each in domains} == {16}
