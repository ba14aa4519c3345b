"""What restore runs in workers: open frames from the slot and write them to their target."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, ParamSpec

from transfer.errors import IntegrityError, TargetRefused
from transfer.files.directories import Place, identity
from transfer.files.metadata import Stat
from transfer.files.system import read_from_disk
from transfer.formats.entry import Entry, FileType
from transfer.formats.reference import Reference
from transfer.pipeline.sealing import Identifier, Opener, SealKeys
from transfer.pipeline.tasks import DATA
from transfer.pipeline.worker_process import Lane
from transfer.targets import image, may_pass
from transfer.targets.block_file import BlockFile
from transfer.targets.tree import TreeTarget

P = ParamSpec("P")
Extents = list[tuple[int, int]]
"""(offset, length) of each."""


class WriteTools:
    """One worker's opener and targets."""

    def __init__(self, secrets: SealKeys, root: bytes, owner: str, generation: int) -> None:
        self.opener = Opener(secrets)
        self.identify = partial(Identifier(secrets.id_keys).id_of, generation, DATA, b"")
        """The ID of a block in the point that is restored."""
        self.target = TreeTarget(root, owner)
        self._image: tuple[HeldImage, BlockFile] | None = None

    def image(self, held: "HeldImage") -> BlockFile:
        """This worker's own opening of the image; the one before is closed."""
        if self._image is not None and self._image[0] == held:
            return self._image[1]
        self._close_image()
        fd = os.open(held.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        file = BlockFile(fd)
        self._image = held, file
        # The parent's descriptor may be another file's by now; nothing is to be written to that.
        if identity(fd) != held.identity:
            self._close_image()
            raise TargetRefused("an image was closed while it was written", "run again")
        return file

    def _close_image(self) -> None:
        if self._image is not None:
            self._image[1].close()
            self._image = None

    def close(self) -> None:
        self._close_image()
        self.target.close()


class HeldImage(NamedTuple):
    """An image that the parent has open: a path that leads to it, and its (device, inode)."""

    path: bytes
    identity: tuple[int, int]


class Piece(NamedTuple):
    """A block and where its content goes; with *start*, only *size* bytes of it from there."""

    reference: Reference
    offset: int
    size: int
    start: int | None = None


class FrameAt(NamedTuple):
    """The frame of a piece *at* its place in the slot, and its length; 0 if the vault has none.

    Slices of one block have the same frame.
    """

    length: int
    piece: Piece
    at: int


class Small(NamedTuple):
    """A file that is written in one task: inline content, or that of frames in the slot.

    What is *there* stays if it is that already. Of all else it is known not to be.
    """

    entry: Entry
    inline: bytes | None
    frames: tuple[FrameAt, ...]
    holes: tuple[tuple[int, int], ...]
    replace: bool
    there: Stat | None = None


class Written(NamedTuple):
    identity: tuple[int, int] = (0, 0)
    failed: tuple[str, ...] = ()
    damaged: tuple[Reference, ...] = ()
    error: str = ""
    passing: bool = False
    """Whether the error may be gone when the restore is run again."""
    kept: bool = False
    """It was there already."""
    stays: bool = False
    """Something else is there, and is not to be replaced."""


def write_small(
    lane: Lane[WriteTools], files: Sequence[tuple[Place, Small]], again: bool = False
) -> list[Written]:
    """Write whole files; frames that follow each other and are the same one are opened once.

    *again*: an earlier try may have written some of them.
    """
    written, opened = [], OpenedFrames(lane)
    for place, file in files:
        done = _done_before(lane, place, file.entry) if again else None
        written.append(done or _caught(_write_one, lane, place, file, opened))
    return written


def _caught(work: Callable[P, Written], *args: P.args, **kwargs: P.kwargs) -> Written:
    """What concerns one entry alone ends only that one."""
    try:
        return work(*args, **kwargs)
    except (OSError, TargetRefused) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return Written(error=reason, passing=may_pass(error))


def _done_before(lane: Lane[WriteTools], place: Place, entry: Entry) -> Written | None:
    """What an earlier try finished: metadata is complete before an entry gets its name.

    What that try did not finish goes.
    """
    lane.tools.target.sweep(place, keyed=False)
    stat = lane.tools.target.exists(place, entry.name)
    if stat is None or (stat.type, stat.mtime) != (entry.type, entry.mtime):
        return None
    if entry.type is FileType.FILE and stat.size != entry.size:
        return None
    return Written(stat.identity)


def _written(lane: Lane[WriteTools], place: Place, entry: Entry, failed: list[str]) -> Written:
    """Only what other names may become links to needs to be known by its inode."""
    stat = lane.tools.target.exists(place, entry.name) if entry.link_group else None
    return Written(stat.identity if stat else (0, 0), tuple(failed))


def _write_one(
    lane: Lane[WriteTools], place: Place, file: Small, opened: "OpenedFrames"
) -> Written:
    target = lane.tools.target
    pieces, damaged = _pieces(file, opened)
    if damaged:
        return Written(damaged=tuple(damaged))
    if file.there is not None:
        kept = _kept(lane, place, file.entry, file.there, pieces)
        if kept is not None or not file.replace:
            return kept or Written(stays=True)
    failed = target.write_file(place, file.entry, pieces, file.holes, file.replace)
    return _written(lane, place, file.entry, failed)


def _kept(
    lane: Lane[WriteTools], place: Place, entry: Entry, there: Stat,
    pieces: Sequence[tuple[int, bytes]],
) -> Written | None:  # fmt: skip
    """What was done if the file that is *there* has all of *pieces*; None: it differs."""
    target = lane.tools.target
    if there.size != entry.size or not target.may_keep(entry, there):
        return None
    try:
        with target.existing_file(place, entry.name, there) as fd:
            read_from_disk(fd)
            if any(os.pread(fd, len(content), offset) != content for offset, content in pieces):
                return None
        failed = target.keep(place, entry, there)
    except (OSError, TargetRefused):
        return None
    return Written(there.identity, tuple(failed), kept=True)


def _pieces(file: Small, opened: "OpenedFrames") -> tuple[list[tuple[int, bytes]], list[Reference]]:
    if file.inline is not None:
        return ([(0, file.inline)] if file.inline else []), []
    pieces, damaged = [], []
    for frame in file.frames:
        content = opened.content(frame)
        if content is None:
            damaged.append(frame.piece.reference)
        else:
            pieces.append((frame.piece.offset, content))
    return pieces, damaged


class OpenedFrames:
    """Frames in a lane's slot, opened as they are asked for. The last block stays open, no other:
    at most MAX_BLOCK bytes.
    """

    def __init__(self, lane: Lane[WriteTools]) -> None:
        self._lane = lane
        self._last: tuple[int, bytes | None] = -1, None

    def content(self, frame: FrameAt) -> bytes | None:
        """That of its piece; None for what is missing, does not open, or ends before the piece."""
        _, _, size, start = frame.piece
        if not frame.length:
            return None
        if self._last[0] != frame.at:
            self._last = frame.at, self._opened(frame)
        block = self._last[1]
        if block is not None and start is not None:
            block = block[start : start + size]
        return block if block is not None and len(block) == size else None

    def node(self, frame: FrameAt) -> tuple[bytes, bytes] | None:
        """(plaintext, child list) of a node; None for what is missing or does not open."""
        raw = self._lane.slot[frame.at : frame.at + frame.length]
        try:
            _, children, plain = self._lane.tools.opener.open(raw, frame.piece.reference)
        except IntegrityError:
            return None
        return plain, children

    def _opened(self, frame: FrameAt) -> bytes | None:
        node = self.node(frame)
        return node and node[0]


def create_large(
    lane: Lane[WriteTools], place: Place, name: bytes, size: int, key: bytes, leftover: bytes
) -> tuple[bytes, bool]:
    """The temporary name, and whether it is the *leftover* of another run, with what is in it."""
    target = lane.tools.target
    adopted = target.adopt(place, leftover, size) if leftover else None
    return adopted or target.create_file(place, name, size, key), adopted is not None


def write_blocks(
    lane: Lane[WriteTools], place: Place, temporary: bytes, frames: Sequence[FrameAt],
    holes: Sequence[tuple[int, int]], sparse: bool, used: bool,
) -> list[Reference]:  # fmt: skip
    """Write blocks of a large file; the references of those that do not open.

    One that is *used* may have content where zeros should be.
    """
    damaged, opened = [], OpenedFrames(lane)
    for frame in frames:
        if (content := opened.content(frame)) is None:
            damaged.append(frame.piece.reference)
        else:
            lane.tools.target.write(place, temporary, frame.piece.offset, content, sparse)
    for offset, length in holes:
        if used:
            lane.tools.target.clear(place, temporary, offset, length)
        if not sparse:
            lane.tools.target.allocate(place, temporary, offset, length)
    return damaged


def finish_large(
    lane: Lane[WriteTools], place: Place, entry: Entry, replace: bool, temporary: bytes,
    again: bool = False,
) -> Written:  # fmt: skip
    target = lane.tools.target

    def finish() -> Written:
        try:
            failed = target.finish_file(place, temporary, entry, replace)
        except BaseException as error:
            give_up = target.leave if may_pass(error) else target.discard
            give_up(place, temporary)
            raise
        return _written(lane, place, entry, failed)

    done = _done_before(lane, place, entry) if again else None
    return done or _caught(finish)


def leave(lane: Lane[WriteTools], place: Place, temporary: bytes) -> None:
    lane.tools.target.leave(place, temporary)


def discard(lane: Lane[WriteTools], place: Place, temporary: bytes) -> None:
    lane.tools.target.discard(place, temporary)


def make_special(
    lane: Lane[WriteTools], place: Place, entry: Entry, replace: bool, again: bool = False
) -> Written:
    target = lane.tools.target

    def make() -> Written:
        is_link = entry.type is FileType.SYMLINK
        made = target.make_symlink if is_link else target.make_special
        return _written(lane, place, entry, made(place, entry, replace))

    done = _done_before(lane, place, entry) if again else None
    return done or _caught(make)


def make_link(
    lane: Lane[WriteTools], place: Place, name: bytes, first: tuple[Place, bytes],
    identity: tuple[int, int], replace: bool, instead: tuple[int, int] | None,
) -> Written:  # fmt: skip
    """*instead* of that inode it goes there whether it may *replace* others or not."""

    def make() -> Written:
        there = lane.tools.target.exists(place, name)
        if there is None or there.identity != identity:
            may = replace or (there is not None and there.identity == instead)
            lane.tools.target.make_hard_link(place, name, *first, identity, may)
        return Written(identity)

    return _caught(make)


def sync_target(lane: Lane[WriteTools], place: Place) -> None:
    lane.tools.target.sync(place)


def write_image(
    lane: Lane[WriteTools], held: HeldImage, frames: Sequence[FrameAt],
    holes: Sequence[tuple[int, int]],
) -> list[Reference]:  # fmt: skip
    """Write blocks into the image; the references of those that don't open."""
    file, damaged, opened = lane.tools.image(held), [], OpenedFrames(lane)
    try:
        for frame in frames:
            if (content := opened.content(frame)) is None:
                damaged.append(frame.piece.reference)
            else:
                file.write(frame.piece.offset, content)
    finally:
        file.flush()
    for offset, length in holes:
        image.zero(file.descriptor, offset, length)
    return damaged


def check_frames(lane: Lane[WriteTools], frames: Sequence[FrameAt]) -> list[bool]:
    """Of each frame in the slot whether it opens to what it must be."""
    opened = OpenedFrames(lane)
    return [opened.content(frame) is not None for frame in frames]
