"""What a target holds already is not fetched: workers compare it with the IDs in the point."""

import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

from transfer.errors import TargetRefused
from transfer.files.directories import Place
from transfer.files.metadata import Stat
from transfer.files.system import read_from_disk
from transfer.formats.entry import Entry
from transfer.formats.reference import Reference
from transfer.formats.stream import MAX_BLOCK
from transfer.pipeline.worker_process import Lane
from transfer.pipeline.write_tasks import HeldImage, Piece, WriteTools, Written
from transfer.sources.reading import data_extents, read_into

_ZEROS = 2**20  # bytes that are looked at together
Flags = list[bool]
"""Of pieces, in their order."""


class Existing(NamedTuple):
    """A file under the name of *entry*, as *stat* says it is, and what its content should be."""

    entry: Entry
    stat: Stat
    inline: bytes | None
    pieces: tuple[Piece, ...]
    zeros: tuple[tuple[int, int], ...]


def present_in_image(lane: Lane[WriteTools], held: HeldImage, pieces: Sequence[Piece]) -> Flags:
    fd = lane.tools.image(held).descriptor
    return [_stands(lane, fd, piece) for piece in pieces]


def present_in_temporary(
    lane: Lane[WriteTools], place: Place, temporary: bytes, pieces: Sequence[Piece]
) -> Flags:
    fd = lane.tools.target.descriptor(place, temporary)
    return [_stands(lane, fd, piece) for piece in pieces]


def copy_present(
    lane: Lane[WriteTools], place: Place, name: bytes, stat: Stat, temporary: bytes,
    pieces: Sequence[Piece], sparse: bool,
) -> Flags:  # fmt: skip
    """Which pieces the file that is to be replaced has; those are in *temporary* as well then."""
    target, found = lane.tools.target, Flags()
    with suppress(OSError, TargetRefused), target.existing_file(place, name, stat) as fd:
        for piece in pieces:
            content = _content(lane, fd, piece)
            if content is not None:
                target.write(place, temporary, piece.offset, content, sparse)
            found.append(content is not None)
    # Of one that is gone or being written the rest is fetched.
    return found + [False] * (len(pieces) - len(found))


def keep_files(
    lane: Lane[WriteTools], place: Place, files: Sequence[Existing]
) -> list[Written | None]:
    """Those that are whole stay, and get the metadata of their entries; None: it differs.

    A slice has no ID. It is seen to be whole together with all others of its block, else not.
    """
    whole = _whole_blocks(lane, place, files)
    return [_kept(lane, place, file, whole) for file in files]


def _whole_blocks(
    lane: Lane[WriteTools], place: Place, files: Sequence[Existing]
) -> set[Reference]:
    """Shared blocks, each made up by those of *files* that are its slices."""
    parts: dict[Reference, list[tuple[int, Existing]]] = {}
    for file in files:
        for piece in file.pieces:
            if piece.start is not None and file.stat.size == piece.size:
                parts.setdefault(piece.reference, []).append((piece.start, file))
    whole: set[Reference] = set()
    for reference, slices in parts.items():
        block = _joined(lane, place, slices)
        if block is not None and lane.tools.identify(block) == reference.id:
            whole.add(reference)
    return whole


def _joined(
    lane: Lane[WriteTools], place: Place, slices: list[tuple[int, Existing]]
) -> bytearray | None:
    """What stands in the files; None if there are gaps between the slices, or it is no block."""
    slices.sort(key=itemgetter(0))
    ends = [0, *accumulate(file.stat.size for _, file in slices)]
    if [start for start, _ in slices] != ends[:-1] or ends[-1] > MAX_BLOCK:
        return None
    block = bytearray(ends[-1])
    try:
        for start, file in slices:
            with lane.tools.target.existing_file(place, file.entry.name, file.stat) as fd:
                read_from_disk(fd)
                read_into(fd, 0, memoryview(block)[start : start + file.stat.size])
    except (OSError, TargetRefused):
        return None
    return block


def is_whole(
    lane: Lane[WriteTools], place: Place, name: bytes, stat: Stat, pieces: Sequence[Piece],
    zeros: Sequence[tuple[int, int]],
) -> bool:  # fmt: skip
    """Whether this part of the file is as it should be."""
    try:
        with lane.tools.target.existing_file(place, name, stat) as fd:
            read_from_disk(fd)
            return _has(lane, fd, pieces, zeros)
    except (OSError, TargetRefused):
        return False


def keep_special(lane: Lane[WriteTools], place: Place, entry: Entry, stat: Stat) -> Written | None:
    """As `keep_files`, of what is like *entry*, and has no content."""
    target = lane.tools.target
    if not target.may_keep(entry, stat):
        return None
    try:
        return Written(stat.identity, tuple(target.keep(place, entry, stat)))
    except (OSError, TargetRefused):
        return None


def keep_large(lane: Lane[WriteTools], place: Place, entry: Entry, stat: Stat) -> Written | None:
    """As `keep_files`, of a file all of whose parts were seen to be whole."""
    return _kept(lane, place, Existing(entry, stat, None, (), ()), set())


def _kept(
    lane: Lane[WriteTools], place: Place, file: Existing, whole: AbstractSet[Reference]
) -> Written | None:
    """*whole* blocks are known to stand there."""
    target, name = lane.tools.target, file.entry.name
    if file.stat.size != file.entry.size or not target.may_keep(file.entry, file.stat):
        return None
    try:
        with target.existing_file(place, name, file.stat) as fd:
            read_from_disk(fd)
            inline = file.inline or b""
            same = os.pread(fd, len(inline), 0) == inline
            left = [
                each for each in file.pieces if each.start is None or each.reference not in whole
            ]
            if not same or not _has(lane, fd, left, file.zeros):
                return None
        failed = target.keep(place, file.entry, file.stat)
    except (OSError, TargetRefused):
        return None
    return Written(file.stat.identity, tuple(failed), kept=True)


def _has(
    lane: Lane[WriteTools], fd: int, pieces: Sequence[Piece], zeros: Sequence[tuple[int, int]]
) -> bool:
    return all(_stands(lane, fd, piece) for piece in pieces) and all(
        _are_zeros(fd, offset, length) for offset, length in zeros
    )


def _stands(lane: Lane[WriteTools], fd: int, piece: Piece) -> bool:
    return _content(lane, fd, piece) is not None


def _content(lane: Lane[WriteTools], fd: int, piece: Piece) -> bytearray | None:
    """What stands in the piece's place, if it is what should; a part of a block has no ID."""
    offset, end = piece.offset, piece.offset + piece.size
    if piece.start is not None or not any(data_extents(fd, offset, end)):
        return None
    room = bytearray(piece.size)
    if read_into(fd, offset, memoryview(room)) < piece.size:
        return None
    return room if lane.tools.identify(room) == piece.reference.id else None


def _are_zeros(fd: int, offset: int, length: int) -> bool:
    room = bytearray(min(_ZEROS, length))
    for start, size in data_extents(fd, offset, offset + length):
        for at in range(start, start + size, len(room)):
            view = memoryview(room)[: min(len(room), start + size - at)]
            if read_into(fd, at, view) < len(view) or view.tobytes().count(0) < len(view):
                return False
    return True
