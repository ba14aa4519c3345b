"""What restore runs in workers: open frames from the slot and write them to their target."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from transfer.errors import IntegrityError, TargetRefused
from transfer.files.directories import Place
from transfer.formats.entry import Entry, FileType
from transfer.formats.reference import Reference
from transfer.pipeline.sealing import Opener, SealKeys
from transfer.pipeline.tasks import open_slot
from transfer.pipeline.worker_process import Lane
from transfer.targets import image
from transfer.targets.tree import TreeTarget


class WriteTools:
    """One worker's opener and targets."""

    def __init__(self, secrets: SealKeys, root: bytes, owner: str) -> None:
        self.opener = Opener(secrets)
        self.target = TreeTarget(root, owner)
        self.images: dict[bytes, int] = {}


class FrameAt(NamedTuple):
    """A frame in the slot: its length, what it must be, and where its content goes."""

    length: int
    reference: Reference
    offset: int
    size: int


class Small(NamedTuple):
    """A file that is written in one task: inline content, or frames that follow in the slot."""

    entry: Entry
    size: int
    inline: bytes | None
    frames: tuple[FrameAt, ...]
    holes: tuple[tuple[int, int], ...]
    replace: bool


class Written(NamedTuple):
    identity: tuple[int, int] = (0, 0)
    failed: tuple[str, ...] = ()
    damaged: tuple[Reference, ...] = ()
    error: str = ""


def make_directory(lane: Lane[WriteTools], place: Place, name: bytes) -> bool:
    return lane.tools.target.make_directory(place, name)


def finish_directory(lane: Lane[WriteTools], place: Place, entry: Entry) -> list[str]:
    return lane.tools.target.finish_directory(place, entry)


def existing(lane: Lane[WriteTools], place: Place, names: Sequence[bytes]) -> list[Any]:
    return [lane.tools.target.exists(place, name) for name in names]


def write_small(lane: Lane[WriteTools], place: Place, files: Sequence[Small]) -> list[Written]:
    """Write whole files; the frames of all of them lie back to back in the slot."""
    written, at = [], 0
    for file in files:
        end = at + sum(each.length for each in file.frames)
        try:
            written.append(_write_one(lane, place, file, at))
        except (OSError, TargetRefused) as error:
            written.append(Written(error=_reason(error)))
        at = end
    return written


def _write_one(lane: Lane[WriteTools], place: Place, file: Small, at: int) -> Written:
    target, name = lane.tools.target, file.entry.name
    pieces, damaged = _opened(lane, file, at)
    if damaged:
        return Written(damaged=tuple(damaged))
    temporary = target.create_file(place, name, file.size)
    try:
        for offset, content in pieces:
            target.write(place, temporary, offset, content, file.entry.sparse)
        if not file.entry.sparse:
            for offset, length in file.holes:
                target.allocate(place, temporary, offset, length)
        failed = target.finish_file(place, temporary, name, file.entry, file.replace)
    except BaseException:
        target.discard(place, temporary)
        raise
    stat = target.exists(place, name)
    return Written(stat.identity if stat else (0, 0), tuple(failed))


def _opened(
    lane: Lane[WriteTools], file: Small, at: int
) -> tuple[list[tuple[int, bytes]], list[Reference]]:
    if file.inline is not None:
        return ([(0, file.inline)] if file.inline else []), []
    pieces, damaged = [], []
    for frame in file.frames:
        content = _content(lane, frame, at)
        at += frame.length
        if content is None:
            damaged.append(frame.reference)
        else:
            pieces.append((frame.offset, content))
    return pieces, damaged


def _content(lane: Lane[WriteTools], frame: FrameAt, at: int) -> bytes | None:
    view = lane.slot[at : at + frame.length]
    plain = _opened_one(lane, view, frame.reference)
    return plain if plain is not None and len(plain) == frame.size else None


def _opened_one(lane: Lane[WriteTools], view: memoryview, reference: Reference) -> bytes | None:
    try:
        return lane.tools.opener.open(view, reference)[2]
    except IntegrityError:
        return None


def create_large(lane: Lane[WriteTools], place: Place, name: bytes, size: int) -> bytes:
    return lane.tools.target.create_file(place, name, size)


def write_blocks(
    lane: Lane[WriteTools], place: Place, temporary: bytes, frames: Sequence[FrameAt],
    holes: Sequence[tuple[int, int]], sparse: bool,
) -> list[Reference]:  # fmt: skip
    """Write blocks of a large file; the references of those that do not open."""
    damaged, at = [], 0
    for frame in frames:
        content = _content(lane, frame, at)
        at += frame.length
        if content is None:
            damaged.append(frame.reference)
        else:
            lane.tools.target.write(place, temporary, frame.offset, content, sparse)
    if not sparse:
        for offset, length in holes:
            lane.tools.target.allocate(place, temporary, offset, length)
    return damaged


def finish_large(
    lane: Lane[WriteTools], place: Place, temporary: bytes, entry: Entry, replace: bool
) -> Written:
    target = lane.tools.target
    try:
        failed = target.finish_file(place, temporary, entry.name, entry, replace)
    except (OSError, TargetRefused) as error:
        target.discard(place, temporary)
        return Written(error=_reason(error))
    stat = target.exists(place, entry.name)
    return Written(stat.identity if stat else (0, 0), tuple(failed))


def discard(lane: Lane[WriteTools], place: Place, temporary: bytes) -> None:
    lane.tools.target.discard(place, temporary)


def make_special(lane: Lane[WriteTools], place: Place, entry: Entry, replace: bool) -> Written:
    target = lane.tools.target
    try:
        if entry.type is FileType.SYMLINK:
            failed = target.make_symlink(place, entry, replace)
        else:
            failed = target.make_special(place, entry, replace)
    except (OSError, TargetRefused) as error:
        return Written(error=_reason(error))
    stat = target.exists(place, entry.name)
    return Written(stat.identity if stat else (0, 0), tuple(failed))


def make_link(
    lane: Lane[WriteTools], place: Place, name: bytes, first: tuple[Place, bytes],
    identity: tuple[int, int], replace: bool,
) -> Written:  # fmt: skip
    try:
        lane.tools.target.make_hard_link(place, name, *first, identity, replace)
    except (OSError, TargetRefused) as error:
        return Written(error=_reason(error))
    return Written(identity)


def sync_target(lane: Lane[WriteTools]) -> None:
    lane.tools.target.sync()


def write_image(
    lane: Lane[WriteTools], fd: int, frames: Sequence[FrameAt], holes: Sequence[tuple[int, int]]
) -> list[Reference]:
    """Write blocks of an image into the descriptor *fd* of this process."""
    damaged, at = [], 0
    for frame in frames:
        content = _content(lane, frame, at)
        at += frame.length
        if content is None:
            damaged.append(frame.reference)
        else:
            image.write_block(fd, frame.offset, content)
    for offset, length in holes:
        image.zero(fd, offset, length)
    return damaged


def open_image_again(lane: Lane[WriteTools], path: bytes) -> int:
    """This worker's own descriptor of the image that the parent holds; the same for each call."""
    if path not in lane.tools.images:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY
        lane.tools.images[path] = os.open(path, flags)
    return lane.tools.images[path]


def check_frames(lane: Lane[WriteTools], frames: Sequence[FrameAt]) -> list[Reference]:
    """Which of the frames in the slot do not open to what they must be."""
    opened = open_slot(lane, [(each.length, each.reference) for each in frames])  # type: ignore[arg-type]
    return [
        each.reference
        for each, content in zip(frames, opened, strict=True)
        if not isinstance(content, bytes) or len(content) != each.size
    ]


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
