"""What the tests of the formats draw: damage, IDs, references."""

from hypothesis import strategies as st

from transfer.formats.reference import MAX_LEVEL, Kind, Reference, tag_of

DATA, PAGE, POINT = tag_of(Kind.DATA), tag_of(Kind.PAGE), tag_of(Kind.POINT)
LEAF, INDEX = tag_of(Kind.STREAM, 1), tag_of(Kind.INDEX, 1)
TAGS = [DATA, PAGE, POINT, *(tag_of(kind, level) for kind in (Kind.STREAM, Kind.INDEX)
                             for level in range(1, MAX_LEVEL + 1))]  # fmt: skip
tags = st.sampled_from(TAGS)
ids = st.integers(1, 2**256 - 1).map(lambda number: number.to_bytes(32, "big"))
references = st.builds(Reference, tags, ids)


def id_of(number):
    return number.to_bytes(32, "big")


def cuts(whole, start=0):
    """*whole*, ending too early."""
    return st.integers(start, len(whole) - 1).map(lambda end: whole[:end])


def flipped(whole, start=0, end=None):
    """*whole* with one other bit between *start* and *end*."""
    last = (len(whole) if end is None else end) * 8 - 1
    return st.integers(start * 8, last).map(lambda bit: flip(whole, bit))


def flip(whole, bit):
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)
