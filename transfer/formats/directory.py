"""Directory pages and indexes: a search tree over a directory's entries, sorted by name.

A page's plaintext: entry count 2, then the entries (see entry.py). An index's plaintext: child
count 2, then for each child the length 1 and bytes of its first name, and its place 2 in the clear
child list. Names ascend strictly; decoders refuse disorder and duplicates.

**Where pages end depends on names alone.** A name's cut level is the number of lowest 6-bit groups
of its keyed hash that are zero. A page ends after a name of cut level 1 or more, an index of level
n after a child whose last name has cut level n + 1 or more; or else at 512 entries, at 512
references, or before 256 KiB. So one entry added to a million costs two pages at most, and the
indexes above. The hard limits are met by 3 runs in 10,000: 1 - (63/64)^512.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from transfer.errors import FormatError
from transfer.formats import entry as entries
from transfer.formats.entry import Entry, check_name, references_of
from transfer.formats.reference import (
    Buffer,
    Kind,
    Reference,
    decode_references,
    encode_references,
    tag_of,
)

CUT_BITS = 6
MAX_ENTRIES = 512
MAX_PAGE = 256 * 1024


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
    """(plaintext, child list); entries are sorted already."""
    children = encode_references(reference for entry in page for reference in references_of(entry))
    place = {child: number for number, child in enumerate(decode_references(children), 1)}
    parts = [entries.encode(entry, place.__getitem__) for entry in page]
    return len(page).to_bytes(2, "little") + b"".join(parts), children


def decode_page(plain: Buffer, children: bytes) -> list[Entry]:
    raw, references = bytes(plain), decode_references(children)
    count, at = _count(raw), 2
    page: list[Entry] = []
    for _ in range(count):
        entry, at = entries.decode(raw, at, references)
        page.append(entry)
    _check_order([entry.name for entry in page], at == len(raw))
    named = {reference for entry in page for reference in references_of(entry)}
    if len(named) != len(references):
        raise FormatError("a directory page has children that no entry names")
    return page


def encode_index(level: int, index: Sequence[IndexEntry]) -> tuple[bytes, bytes]:
    children = encode_references(entry.child for entry in index)
    place = {child: number for number, child in enumerate(decode_references(children), 1)}
    parts = [
        bytes((len(name),)) + name + place[child].to_bytes(2, "little") for name, child in index
    ]
    return len(index).to_bytes(2, "little") + b"".join(parts), children


def decode_index(level: int, plain: Buffer, children: bytes) -> list[IndexEntry]:
    raw, references = bytes(plain), decode_references(children)
    expected = tag_of(Kind.INDEX, level - 1) if level > 1 else tag_of(Kind.PAGE)
    if any(reference.tag != expected for reference in references):
        raise FormatError(f"a directory index of level {level} names a frame of another kind")
    index: list[IndexEntry] = []
    at = 2
    for _ in range(_count(raw)):
        name_end = at + 1 + (raw[at] if at < len(raw) else 0)
        number = int.from_bytes(raw[name_end : name_end + 2], "little")
        if name_end + 2 > len(raw) or not 1 <= number <= len(references):
            raise FormatError("a directory index is cut short or names no child of its own")
        check_name(raw[at + 1 : name_end])
        index.append(IndexEntry(raw[at + 1 : name_end], references[number - 1]))
        at = name_end + 2
    _check_order([entry.first_name for entry in index], at == len(raw))
    if len({entry.child for entry in index}) != len(references):
        raise FormatError("a directory index has children that it does not name")
    return index


def _count(raw: bytes) -> int:
    count = int.from_bytes(raw[:2], "little")
    if not 1 <= count <= MAX_ENTRIES or len(raw) > MAX_PAGE:
        raise FormatError("a directory page beyond the limits")
    return count


def _check_order(names: Sequence[bytes], whole: bool) -> None:
    if not whole or any(a >= b for a, b in itertools.pairwise(names)):
        raise FormatError("a directory page is out of order, has a duplicate, or does not end")
