"""What a restore or a check fetches at once: the blocks of a file, or one block of many files.

All slices of a shared block that are wanted together are one unit: its frame is fetched once, and
opened once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from transfer.formats.entry import Content, Entry, Slice
from transfer.formats.reference import Reference
from transfer.pipeline.grouping import SHARED_BLOCK
from transfer.pipeline.overwrite import Wanted
from transfer.pipeline.tasks import BATCH
from transfer.pipeline.write_tasks import Extents, FrameAt, Piece

T = TypeVar("T")
LIKELY = SHARED_BLOCK  # bytes of a shared block; at most it has MAX_BLOCK


class Planned(NamedTuple):
    """A small file, and what it is made of."""

    wanted: Wanted
    pieces: list[Piece]
    zeros: Extents

    @property
    def entry(self) -> Entry:
        return self.wanted.entry

    @property
    def path(self) -> bytes:
        return self.wanted.path

    def needs_block(self) -> bool:
        """Whether only the block can tell if what is there has the content."""
        there = self.wanted.there
        is_slice = isinstance(self.entry.content, Slice)
        return is_slice and there is not None and there.size == self.entry.size


class Unit(NamedTuple):
    """One file, or slices of one block."""

    files: list[Planned]

    @property
    def pieces(self) -> list[Piece]:
        """That are to be fetched; one slice brings the block of all."""
        return self.files[0].pieces

    @property
    def weight(self) -> int:
        """Bytes that its frames may need of a slot."""
        first = self.files[0]
        if shared_block(first.entry.content) is None:
            return first.entry.size
        return block_weight([piece for each in self.files for piece in each.pieces])


def shared_block(content: Content) -> Reference | None:
    return content.block if isinstance(content, Slice) else None


def block_weight(slices: Iterable[Piece]) -> int:
    """Bytes that the block has at least, or is taken to have: its slices do not tell its end."""
    return max(LIKELY, *((each.start or 0) + each.size for each in slices))


def by_block(all: Iterable[T], block: Callable[[T], Reference | None]) -> list[list[T]]:
    """Those of one block together, where the first of them stands; all others alone."""
    found: dict[object, list[T]] = {}
    for number, each in enumerate(all):
        found.setdefault(block(each) or number, []).append(each)
    return list(found.values())


def frames_of(file: Planned, frames: Sequence[FrameAt]) -> tuple[FrameAt, ...]:
    """The *frames* of its unit with the pieces of this one."""
    return tuple(
        frame._replace(piece=piece) for frame, piece in zip(frames, file.pieces, strict=True)
    )


class Weighed(Protocol):
    @property
    def weight(self) -> int: ...


W = TypeVar("W", bound=Weighed)


def batched(units: Iterable[W]) -> list[list[W]]:
    """Runs of units, together at most BATCH bytes."""
    batches: list[list[W]] = []
    size = 0
    for unit in units:
        if not batches or size + unit.weight > BATCH:
            batches.append([])
            size = 0
        batches[-1].append(unit)
        size += unit.weight
    return batches
