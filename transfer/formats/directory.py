"""Directory pages and indexes: a search tree over a directory's entries, sorted by name.

    size  field of a page's plaintext
       2  count    1 to 512
       .  entries  see entry_codec.py

    size  field of an index's plaintext
       2  count    1 to 512; then for each child:
       1  name length, then the first name below this child
       2  place    in the clear child list, from 1

Names ascend strictly; decoders refuse disorder and duplicates. Each reference of the clear child
list is named: in a page at least once, in an index once. No plaintext is larger than 256 KiB.

**Where pages end depends on names alone.** A name's cut level is the number of lowest 6-bit groups
of its keyed hash that are zero. A page ends after a name of cut level 1 or more, an index of level
n after a child whose last name has cut level n + 1 or more; or else at 512 entries, at 512
references, or before 256 KiB. So one entry added to a million costs two pages at most, and the
indexes above. The hard limits end 3 runs in 10,000: (63/64)^512.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from transfer.errors import FormatError
from transfer.formats import entry_codec
from transfer.formats.entry import Entry, check_name, references_of
from transfer.formats.frame import MAX_PLAIN_OF, decode_children
from transfer.formats.reference import (
    Buffer,
    Kind,
    Reference,
    encode_references,
    tag_of,
)

CUT_BITS = 6
MAX_ENTRIES = 512
MAX_PAGE = MAX_PLAIN_OF[Kind.PAGE]


class IndexEntry(NamedTuple):
    first_name: bytes
    child: Reference


def cut_level(name_hash: int) -> int:
    """How many lowest 6-bit groups of this 64-bit *name_hash* are zero, at most 9."""
    level = 0
    while level < 9 and not name_hash >> CUT_BITS * level & (1 << CUT_BITS) - 1:
        level += 1
    return level


def encode_page(page: Sequence[Entry]) -> tuple[bytes, bytes]:
    """(plaintext, child list). Raises FormatError for a page that no reader would take."""
    children = encode_references(reference for entry in page for reference in references_of(entry))
    listed = decode_children(tag_of(Kind.PAGE), children)
    place = {child: number for number, child in enumerate(listed, 1)}
    parts = [entry_codec.encode(entry, place.__getitem__) for entry in page]
    _check_order([entry.name for entry in page])
    return _joined(parts), children


def decode_page(plain: Buffer, children: bytes) -> list[Entry]:
    raw, references = bytes(plain), decode_children(tag_of(Kind.PAGE), children)
    count, at = _count(raw), 2
    page: list[Entry] = []
    for _ in range(count):
        entry, at = entry_codec.decode(raw, at, references)
        page.append(entry)
    _check_end(raw, at)
    _check_order([entry.name for entry in page])
    named = {reference for entry in page for reference in references_of(entry)}
    if len(named) != len(references):
        raise FormatError("a directory page has children that no entry names")
    return page


def encode_index(level: int, index: Sequence[IndexEntry]) -> tuple[bytes, bytes]:
    """(plaintext, child list). Raises FormatError for an index that no reader would take."""
    children = encode_references(entry.child for entry in index)
    listed = decode_children(tag_of(Kind.INDEX, level), children)
    place = {child: number for number, child in enumerate(listed, 1)}
    parts = [
        bytes((len(name),)) + name + place[child].to_bytes(2, "little") for name, child in index
    ]
    _check_index(index, listed)
    return _joined(parts), children


def _joined(parts: Sequence[bytes]) -> bytes:
    plain = len(parts).to_bytes(2, "little") + b"".join(parts)
    _count(plain)
    return plain


def decode_index(level: int, plain: Buffer, children: bytes) -> list[IndexEntry]:
    raw, references = bytes(plain), decode_children(tag_of(Kind.INDEX, level), children)
    index: list[IndexEntry] = []
    at = 2
    for _ in range(_count(raw)):
        name_end = at + 1 + (raw[at] if at < len(raw) else 0)
        number = int.from_bytes(raw[name_end : name_end + 2], "little")
        if not 1 <= number <= len(references):
            raise FormatError("a directory index is cut short or names no child of its own")
        index.append(IndexEntry(raw[at + 1 : name_end], references[number - 1]))
        at = name_end + 2
    _check_end(raw, at)
    _check_index(index, references)
    return index


def _check_index(index: Sequence[IndexEntry], children: Sequence[Reference]) -> None:
    for entry in index:
        check_name(entry.first_name)
    _check_order([entry.first_name for entry in index])
    if not len({entry.child for entry in index}) == len(children) == len(index):
        raise FormatError("a directory index does not name each of its children once")


def _count(raw: bytes) -> int:
    count = int.from_bytes(raw[:2], "little")
    if not 1 <= count <= MAX_ENTRIES or len(raw) > MAX_PAGE:
        raise FormatError("a directory page beyond the limits")
    return count


def _check_end(raw: bytes, at: int) -> None:
    if at != len(raw):
        raise FormatError("a directory page has bytes behind its end")


def _check_order(names: Sequence[bytes]) -> None:
    if any(left >= right for left, right in itertools.pairwise(names)):
        raise FormatError("a directory page is out of order, or has a duplicate")
