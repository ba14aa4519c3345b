"""Pages of new directories, given back in a worker, so that their entries stay there.

`open_pages` makes what needs no block, and keeps in the lane what does; `write_units` writes that
once its blocks are in the slot. What a worker cannot do by itself goes back to the parent process:
large files, and what has other names, or attributes in a stream of their own.
"""

from collections.abc import Sequence
from typing import NamedTuple

from transfer.errors import FormatError
from transfer.files.directories import Place
from transfer.formats.directory import decode_page
from transfer.formats.entry import Entry, FileType, Inline, Slice
from transfer.formats.reference import Kind, Reference
from transfer.formats.stream import Descriptor
from transfer.pipeline.directory_tasks import Entered, Refusal, enter_directories
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.units import block_weight, by_block
from transfer.pipeline.worker_process import Lane
from transfer.pipeline.write_tasks import (
    FrameAt,
    OpenedFrames,
    Piece,
    Small,
    WriteTools,
    Written,
    make_special,
    write_small,
)

FEW = 64  # directories on a page, which the parent process holds meanwhile
Told = list[tuple[bytes, Written]]


class How(NamedTuple):
    """*replace* what somebody puts there meanwhile; the others are of `enter_directory`."""

    replace: bool
    resume: bool
    everything: bool


class NewPage(NamedTuple):
    """A page of *place*, a new directory. Of a *narrow* one it has FEW directories at most."""

    place: Place
    reference: Reference
    narrow: bool


class Done(NamedTuple):
    """*sizes* of the files that were written, and by name what there is to tell."""

    sizes: list[int]
    told: Told

    def add(self, other: "Done") -> None:
        self.sizes.extend(other.sizes)
        self.told.extend(other.told)

    def has_no_block(self) -> bool:
        """Whether there is none for any of them; a slice beyond its end is no fault of a block."""
        return not self.sizes and all(written.damaged for _, written in self.told)


class Unit(NamedTuple):
    """The block that some files need, and bytes that its frame may take of a slot."""

    piece: Piece
    weight: int


class Given(NamedTuple):
    """A page with names from *first* to *last*. *below* are its directories; *others* are left to
    the parent process; *units* are kept.
    """

    first: bytes
    last: bytes
    below: list[tuple[Entry, Entered | Refusal]]
    others: list[Entry]
    units: list[Unit]
    done: Done


class Left(NamedTuple):
    """All of it is left to the parent process."""


class _Planned(NamedTuple):
    entry: Entry
    piece: Piece


_Kept = list[tuple[Place, list[_Planned]]]


def open_pages(
    lane: Lane[WriteTools], pages: Sequence[tuple[NewPage, FrameAt]], how: How, again: bool
) -> list[Given | Left | None]:
    """None for one that does not open. *again*: an earlier try may have written some of it."""
    opened = OpenedFrames(lane)
    return [_given(lane, page, opened.node(frame), how, again) for page, frame in pages]


def _given(
    lane: Lane[WriteTools], page: NewPage, node: tuple[bytes, bytes] | None, how: How, again: bool
) -> Given | Left | None:
    if node is None:
        return None
    try:
        entries = decode_page(*node)
    except FormatError:
        return Left()
    below, at_once, planned, others = _sorted_out(entries)
    if page.narrow and len(below) > FEW:
        return Left()
    units = by_block(planned, _shared_block)
    kept: _Kept = lane.kept.setdefault("units", [])
    kept += [(page.place, unit) for unit in units]
    wanted = [(page.place, each.name) for each in below]
    entered = enter_directories(lane, wanted, how.resume, how.everything)
    return Given(
        entries[0].name, entries[-1].name, list(zip(below, entered, strict=True)), others,
        [Unit(unit[0].piece, _weight(unit)) for unit in units],
        _made(lane, page.place, at_once, how.replace, again),
    )  # fmt: skip


def _sorted_out(
    entries: Sequence[Entry],
) -> tuple[list[Entry], list[Entry], list[_Planned], list[Entry]]:
    """Directories, what needs no block, files of one block, and others."""
    below, at_once, planned, others = [], [], [], []
    for entry in entries:
        if entry.type is FileType.DIRECTORY:
            below.append(entry)
        elif entry.link_group or entry.xattr_stream is not None or entry.size > BATCH:
            others.append(entry)
        elif _is_whole(entry):
            at_once.append(entry)
        elif (piece := _piece(entry)) is not None:
            planned.append(_Planned(entry, piece))
        else:
            others.append(entry)
    return below, at_once, planned, others


def _is_whole(entry: Entry) -> bool:
    """Whether the entry has all that is in it, if only zeros."""
    match entry.content:
        case Slice() | Descriptor(root=Reference()):
            return False
    return True


def _piece(entry: Entry) -> Piece | None:
    """Its block, if it is made of one."""
    match entry.content:
        case Slice(block, offset, length):
            return Piece(block, 0, length, offset)
        case Descriptor(length=length, root=Reference() as root) if root.kind is Kind.DATA:
            return Piece(root, 0, length)
    return None


def _shared_block(each: _Planned) -> Reference | None:
    return each.piece.reference if each.piece.start is not None else None


def _weight(unit: Sequence[_Planned]) -> int:
    first = unit[0].piece
    return first.size if first.start is None else block_weight([each.piece for each in unit])


def _made(
    lane: Lane[WriteTools], place: Place, entries: Sequence[Entry], replace: bool, again: bool
) -> Done:
    files = [each for each in entries if each.type is FileType.FILE]
    small = [
        Small(each, each.content.data if isinstance(each.content, Inline) else None, (),
              () if isinstance(each.content, Inline) else ((0, each.size),), replace)
        for each in files
    ]  # fmt: skip
    done = _done(files, write_small(lane, [(place, each) for each in small], again))
    for each in entries:
        if each.type is not FileType.FILE:
            _tell(done.told, each, make_special(lane, place, each, replace, again))
    return done


def write_units(
    lane: Lane[WriteTools], numbers: Sequence[int], frames: Sequence[FrameAt], replace: bool,
    again: bool,
) -> list[Done]:  # fmt: skip
    """Write the files of units that are kept, by their numbers over all pages; of each the frame
    is in the slot.
    """
    kept: _Kept = lane.kept["units"]
    done = []
    for number, frame in zip(numbers, frames, strict=True):
        place, unit = kept[number]
        files = [
            (place, Small(entry, None, (frame._replace(piece=piece),), (), replace))
            for entry, piece in unit
        ]
        done.append(_done([each.entry for each in unit], write_small(lane, files, again)))
    return done


def _done(files: Sequence[Entry], written: Sequence[Written]) -> Done:
    done = Done([], [])
    for entry, one in zip(files, written, strict=True):
        if not (one.error or one.damaged):
            done.sizes.append(entry.size)
        _tell(done.told, entry, one)
    return done


def _tell(told: Told, entry: Entry, written: Written) -> None:
    if written.error or written.damaged or written.failed:
        told.append((entry.name, written))
