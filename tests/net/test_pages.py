"""Pages are used again, never by two at a time, and few of them wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.net.pages import Pages

MIB = 2**20


def lend(pages, size):
    with pages.lent(size) as buffer:
        buffer[:1] = b"x"
        return len(buffer)


def test_what_was_lent_is_lent_again():
    pages = Pages()
    lend(pages, MIB)
    assert pages.idle == MIB
    with pages.lent(MIB // 2) as buffer:
        assert pages.idle == 0 and len(buffer) == MIB // 2
    assert pages.idle == MIB


def test_two_at_a_time_have_different_memory():
    pages = Pages()
    with pages.lent(10) as first, pages.lent(10) as second:
        first[:], second[:] = b"a" * 10, b"b" * 10
        assert bytes(first) == b"a" * 10
    assert pages.idle


@given(st.lists(st.integers(1, 300_000), max_size=30))
def test_not_more_than_agreed_waits(sizes):
    pages = Pages(kept=500_000)
    for size in sizes:
        assert lend(pages, size) == size
        assert pages.idle <= 500_000


def test_of_a_view_that_was_kept_the_memory_is_not_lent_again():
    pages = Pages()
    with pages.lent(100) as buffer:
        kept = buffer[:50]
    assert pages.idle == 0
    with pages.lent(100) as buffer:
        buffer[:] = b"z" * 100
    assert bytes(kept) == bytes(50)


def test_the_smallest_that_fits_is_taken():
    pages = Pages()
    with pages.lent(MIB), pages.lent(8 * MIB):
        pass
    with pages.lent(MIB):
        assert pages.idle == 8 * MIB


def test_an_error_gives_the_memory_back():
    pages = Pages()
    with pytest.raises(RuntimeError), pages.lent(MIB):
        raise RuntimeError
    assert pages.idle == MIB
