"""Frames, stream nodes and directory pages: encode and decode."""

import random
from collections.abc import Iterator
from pathlib import Path

from perf.micro_loop import Loop, often
from perf.sample import KEYS
from transfer.formats import directory, frame, stream
from transfer.formats.entry import Entry, FileType, Inline
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import FANOUT, Descriptor
from transfer.pipeline.sealing import Sealer
from transfer.pipeline.tasks import DATA

ENTRIES = 64  # of a page, on average


def loops(top: Path, quick: bool) -> Iterator[Loop]:
    count = 20 if quick else 2000
    yield from _frames(count)
    yield from _nodes(count)
    yield from _pages(count)


def _frames(count: int) -> Iterator[Loop]:
    _, raw = Sealer(KEYS).seal(DATA, random.Random(1).randbytes(4096))
    decoded = frame.decode(raw)
    assert decoded is not None
    header, children, payload = decoded[0]
    yield often("frame of 4 KiB, encode", "frames", count,
                lambda: frame.encode(header, children, payload))  # fmt: skip
    yield often("frame of 4 KiB, decode", "frames", count, lambda: frame.decode(raw))


def _nodes(count: int) -> Iterator[Loop]:
    chosen = random.Random(2)
    slots = tuple(chosen.randbytes(32) for _ in range(FANOUT))
    plain, children = stream.encode_node(1, slots)
    yield often("node of 256 blocks, encode", "nodes", count // 10,
                lambda: stream.encode_node(1, slots))  # fmt: skip
    yield often("node of 256 blocks, decode", "nodes", count // 10,
                lambda: stream.decode_node(1, plain, children, FANOUT))  # fmt: skip
    sealer, tag = Sealer(KEYS), tag_of(Kind.STREAM, 1)
    yield often("node of 256 blocks, seal", "nodes", count // 10,
                lambda: sealer.seal(tag, plain, children))  # fmt: skip


def _pages(count: int) -> Iterator[Loop]:
    page = [_entry(number, random.Random(number)) for number in range(ENTRIES)]
    plain, children = directory.encode_page(page)
    yield often(f"page of {ENTRIES} entries, encode", "pages", count // 10,
                lambda: directory.encode_page(page))  # fmt: skip
    yield often(f"page of {ENTRIES} entries, decode", "pages", count // 10,
                lambda: directory.decode_page(plain, children))  # fmt: skip
    sealer, tag = Sealer(KEYS), tag_of(Kind.PAGE)
    yield often(f"page of {ENTRIES} entries, seal", "pages", count // 10,
                lambda: sealer.seal(tag, plain, children))  # fmt: skip


def _entry(number: int, chosen: random.Random) -> Entry:
    """A file: two of three are streams of one block, the others inline."""
    content: Descriptor | Inline = Inline(chosen.randbytes(200))
    if number % 3:
        content = Descriptor(9000, 2**20, stream.FIXED, Reference(DATA, chosen.randbytes(32)))
    return Entry(
        b"file-%06d.txt" % number, FileType.FILE, 0o644, 1000, 1000, 10**18 + number, 10**18,
        content, user=b"user", group=b"group", handle=chosen.randbytes(12),
    )  # fmt: skip
