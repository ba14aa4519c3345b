"""The uniqueness scan: did any two frames of a vault share a key and a nonce?

A frame's AES key is derived from its epoch's seal key and its header, and the nonce is the header's
counter. So headers tell it all, and nobody needs a key to look:

    sealing  the header without its checks: epoch, context, kind, level, ID, flags, lengths and
             counter. As long as no two frames share one, no key and nonce were used twice.
    place    epoch, context and counter: shared only if a sealer was copied or rewound together
             with its machine, which the sealing survives, or if contexts are not random.

A copy of a frame, byte for byte, shares both and harms nobody.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator

from transfer.formats import frame, pack, point
from transfer.formats.frame import Header
from transfer.formats.reference import Buffer

sealing_of = frame.unchecked_header  # the very bytes that the key is derived from


def place_of(header: Header) -> tuple[bytes, bytes, int]:
    return header.epoch, header.context, header.counter


def in_pack(raw: Buffer) -> Iterator[Header]:
    """Headers of the intact frames of a pack, open or closed."""
    return (placed.frame.header for placed in pack.walk(raw))


def in_point(record: bytes) -> Iterator[Header]:
    """The header of a point's sealed part. Raises FormatError, NewerFormat."""
    header = frame.decode_header(point.decode(record).sealed)
    return iter(() if header is None else (header,))


def clashes(
    headers: Iterable[Header], what: Callable[[Header], Hashable] = sealing_of
) -> Iterator[tuple[Header, Header]]:
    """Pairs of different frames that share *what*. Keeps about 1 KiB in memory for each frame."""
    first: dict[Hashable, Header] = {}
    for header in headers:
        before = first.setdefault(what(header), header)
        if before != header:
            yield before, header
