"""What runs in workers: read, identify, seal, open, write. Plain functions of a lane.

Content goes from a file to a sealed frame inside one worker: `read_*` keep the plaintext in the
lane, and `seal_kept` seals of it what the vault lacks, into the lane's slot.
"""

import os
import stat as modes
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import accumulate
from typing import NamedTuple

import msgspec

from transfer.crypto import keys
from transfer.errors import IntegrityError
from transfer.files.directories import OpenDirectories, Place
from transfer.files.system import is_pseudo, stamps_mapped_writes, sync_filesystem
from transfer.formats.directory import cut_level
from transfer.formats.entry import INLINE_MAX, FileType
from transfer.formats.point import Point, PointDetails, encode_body
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import Descriptor
from transfer.pipeline.sealing import Opener, Sealer, SealKeys
from transfer.pipeline.worker_process import Lane
from transfer.sources.base import Scanned, SkippedEntry
from transfer.sources.changes import Content, Extent
from transfer.sources.exports import NbdContent, OpenExports
from transfer.sources.handles import file_handle, inode_handle
from transfer.sources.reading import (
    SourceChanged,
    SourceFile,
    data_extents,
    open_file,
    read_into,
    unchanged,
)
from transfer.sources.scan import list_names, scan

BATCH = 4 * 2**20  # bytes of plaintext that one lane keeps
DATA = tag_of(Kind.DATA)
LISTED = 2 * 2**20  # bytes of memory that a directory's names may take at a time
SCANNED = 512  # names that are scanned together
CACHE_NAME = b"CACHEDIR.TAG"
CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55"


class Tools:
    """One worker's: nothing here is shared with another thread or process."""

    def __init__(self, secrets: SealKeys, compression: str = "auto", check: str = "all") -> None:
        self.secrets = secrets
        self.sealer = Sealer(secrets, compression, check)
        self.opener = Opener(secrets)
        self.directories = OpenDirectories()
        self.exports = OpenExports()

    def close(self) -> None:
        self.directories.close()
        self.exports.close()


class Listing(NamedTuple):
    """Names of a directory, sorted; with *more*, others follow after the last one.

    *is_stamped*: times of its files tell whether they were written since a sync.
    """

    names: list[bytes]
    more: bool
    pseudo: bool
    filesystem: bytes
    is_stamped: bool
    is_cache: bool


Scan = tuple[list[Scanned], list[SkippedEntry], int]
"""What was found, what was skipped, and how many sockets there were."""


class SmallFile(NamedTuple):
    """*before* is the ID, or its beginning, of the content that the parent point has of it; empty
    if that could not stay.
    """

    file: SourceFile
    before: bytes = b""


class FileRead(NamedTuple):
    """One small file: inline data, or IDs of its blocks (None: zeros); or why it was not read.

    With an *offset* it stands there in its block, which others share; *own* is the ID of its
    content then. One that *is_kept* is as the parent point has it.
    """

    inline: bytes | None = None
    ids: tuple[bytes | None, ...] = ()
    code: str = ""
    message: str = ""
    offset: int | None = None
    own: bytes = b""
    is_kept: bool = False


class FilesRead(NamedTuple):
    """Files in order; *ids* are those of the blocks that are kept."""

    files: list[FileRead]
    ids: list[bytes | None]


def list_directory(lane: Lane[Tools], place: Place, after: bytes = b"") -> Listing:
    fd = lane.tools.directories.fd(place)
    filesystem = os.fstatvfs(fd).f_fsid.to_bytes(8, "little")
    if is_pseudo(fd):
        return Listing([], False, True, filesystem, False, False)
    names, more = list_names(lane.tools.directories, place, after, LISTED)
    return Listing(names, more, False, filesystem, stamps_mapped_writes(fd), _is_cache(fd))


def look_into(lane: Lane[Tools], place: Place) -> tuple[Listing, Scan]:
    """The first names of a directory, and the scan of the first SCANNED of them: in one trip."""
    listing = list_directory(lane, place)
    return listing, scan_names(lane, place, listing.names[:SCANNED], listing.filesystem)


def _is_cache(fd: int) -> bool:
    try:
        tag = os.open(CACHE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
    except OSError:
        return False
    try:
        return modes.S_ISREG(os.fstat(tag).st_mode) and os.read(tag, 43) == CACHE_TAG
    finally:
        os.close(tag)


def scan_names(lane: Lane[Tools], place: Place, names: Sequence[bytes], filesystem: bytes) -> Scan:
    """As `scan`, names of one inode in one link group."""
    master = lane.tools.secrets.id_keys[lane.tools.secrets.generation]
    hashed = partial(keys.name_hash, master)
    scanned, skipped, sockets = scan(
        lane.tools.directories, place, names, lambda name: cut_level(hashed(name))
    )
    return [_grouped(master, filesystem, each) for each in scanned], skipped, sockets


def _grouped(master: bytes, filesystem: bytes, each: Scanned) -> Scanned:
    if each.stat.nlink < 2 or each.stat.type is FileType.DIRECTORY:
        return each
    group = keys.link_group(master, filesystem, each.entry.handle)
    return each._replace(entry=each.entry._replace(link_group=group))


def sync_source(lane: Lane[Tools], place: Place) -> bytes:
    """Sync the file system of *place*, and say which directory of which file system it is.

    Dirty mapped pages change no ctime until they are written; after this they have.
    """
    fd = lane.tools.directories.fd(place)
    sync_filesystem(fd)
    handle = file_handle(fd, b"") or inode_handle(os.fstat(fd).st_ino)
    return os.fstatvfs(fd).f_fsid.to_bytes(8, "little") + handle


def read_files(
    lane: Lane[Tools], groups: Sequence[Sequence[SmallFile]], block_size: int, strict: bool
) -> FilesRead:
    """Read small files, together at most BATCH bytes; block n of the call is kept as number n.

    Those of a group share a block, but for files of zeros, those that are as the parent has them,
    and what changes or cannot be read.
    """
    room = memoryview(bytearray(sum(each.file.stat.size for group in groups for each in group)))
    found = FilesRead([], [])
    for group in groups:
        reads: list[FileRead] = []
        at = 0
        for file, before in group:
            content = room[at : at + file.stat.size]
            read = _read_small(lane, file, content, strict)
            if read is None and (before or len(group) > 1):
                read = _compared(lane, content, before)
            read = read or FileRead(offset=0)
            reads.append(read if read.offset is None else read._replace(offset=at))
            at += 0 if read.offset is None else len(content)
        found.files.extend(_identified(lane, reads, room[:at], block_size, found.ids))
        room = room[at:]
    return found


def _read_small(
    lane: Lane[Tools], file: SourceFile, content: memoryview, strict: bool
) -> FileRead | None:
    """Read all of it into *content*; or say why not."""
    try:
        with open_file(lane.tools.directories, file, strict) as fd:
            got = read_into(fd, 0, content)
            if strict and (got != len(content) or not unchanged(fd, file.stat)):
                raise SourceChanged("changed", file.name)
    except SourceChanged as change:
        return FileRead(code=change.code, message=str(change))
    except OSError as error:
        return FileRead(code="unreadable", message=error.strerror or str(error))
    return None


def _compared(lane: Lane[Tools], content: memoryview, before: bytes) -> FileRead:
    """Of a file of at most one block; if a block is to hold it, with an offset."""
    own = _id_of(lane, content)
    if own is None:
        return FileRead(ids=(None,))
    if before and own.startswith(before):
        return FileRead(is_kept=True)
    return FileRead(offset=0, own=own)


def _identified(
    lane: Lane[Tools], reads: list[FileRead], content: memoryview, block_size: int,
    ids: list[bytes | None],
) -> list[FileRead]:  # fmt: skip
    """Those with an offset have parts of *content*; its blocks are kept, their IDs put to *ids*."""
    parts = [read for read in reads if read.offset is not None]
    if not parts:
        return reads
    shares = len(parts) > 1
    if not shares and len(content) <= INLINE_MAX:
        whole = FileRead(inline=bytes(content))
    else:
        starts = range(0, len(content), block_size)
        blocks = [content[start : start + block_size] for start in starts]
        kept = lane.kept.setdefault("blocks", [])
        if shares:
            lane.kept.setdefault("shared", set()).add(len(kept))
        kept.extend(blocks)
        own = b"" if shares else parts[0].own
        whole = FileRead(ids=(own,) if own else tuple(_id_of(lane, block) for block in blocks))
        ids.extend(whole.ids)
    return [
        read if read.offset is None
        else whole._replace(offset=read.offset if shares else None, own=read.own)
        for read in reads
    ]  # fmt: skip


def _id_of(lane: Lane[Tools], block: memoryview) -> bytes | None:
    return None if _is_zeros(block) else lane.tools.sealer.id_of(DATA, b"", block)


def _is_zeros(block: memoryview) -> bool:
    return not block[0] and not block[-1] and block.tobytes() == _zeros(len(block))


@lru_cache(8)
def _zeros(length: int) -> bytes:
    """To compare with at once: a count looks at byte after byte."""
    return bytes(length)


def extents(
    lane: Lane[Tools], file: SourceFile, offset: int, end: int, strict: bool
) -> list[tuple[int, int]]:
    with open_file(lane.tools.directories, file, strict) as fd:
        return list(data_extents(fd, offset, end))


def read_blocks(
    lane: Lane[Tools], content: Content, extents: Sequence[Extent], block_size: int, strict: bool
) -> list[bytes | None]:
    """IDs of the extents' blocks, None for zeros. What is missing at the end reads as zeros.

    Each extent begins with a block, and together they have at most BATCH bytes, or are one block.
    """
    rooms = _rooms(lane, [length for _, length in extents])
    if isinstance(content, NbdContent):
        for (offset, _), room in zip(extents, rooms, strict=True):
            lane.tools.exports.read_into(content.address, offset, room)
    else:
        _read_file(lane, content, [offset for offset, _ in extents], rooms, strict)
    blocks = [
        room[at : at + block_size] for room in rooms for at in range(0, len(room), block_size)
    ]
    lane.kept.setdefault("blocks", []).extend(blocks)
    return [_id_of(lane, block) for block in blocks]


def _rooms(lane: Lane[Tools], lengths: Sequence[int]) -> list[memoryview]:
    """Memory for the lease, whatever it holds. That of the lease before is used again, for new
    pages cost more than reading into them.
    """
    room = lane.room(sum(lengths)) if "blocks" not in lane.kept else None
    view = memoryview(bytearray(sum(lengths))) if room is None else room
    ends = list(accumulate(lengths))
    return [view[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _read_file(
    lane: Lane[Tools], file: SourceFile, offsets: Sequence[int], rooms: Sequence[memoryview],
    strict: bool,
) -> None:  # fmt: skip
    with open_file(lane.tools.directories, file, strict) as fd:
        for offset, room in zip(offsets, rooms, strict=True):
            got = read_into(fd, offset, room)
            room[got:] = bytes(len(room) - got)
        if strict and not unchanged(fd, file.stat):
            raise SourceChanged("changed", file.name)


def seal_kept(
    lane: Lane[Tools], wanted: Sequence[tuple[int, bytes]], level: int | None = None
) -> list[int]:
    """Seal kept blocks (number, ID) back to back into the slot; the frames' lengths.

    From now on with that *level* of compression, if there is one.
    """
    if level is not None and level != lane.tools.sealer.level:
        lane.tools.sealer.set_level(level)
    blocks: list[memoryview] = lane.kept["blocks"]
    shared: set[int] = lane.kept.get("shared", set())
    lengths: list[int] = []
    at = 0
    for number, id in wanted:
        length = lane.tools.sealer.seal_into(
            lane.slot[at:], DATA, id, blocks[number], mixed=number in shared
        )
        lengths.append(length)
        at += length
    return lengths


def identify_nodes(lane: Lane[Tools], nodes: Sequence[tuple[int, bytes, bytes]]) -> list[Reference]:
    """Of (tag, plaintext, child list)."""
    return [
        Reference(tag, lane.tools.sealer.id_of(tag, children, plain))
        for tag, plain, children in nodes
    ]


def seal_nodes(
    lane: Lane[Tools], nodes: Sequence[tuple[int, bytes, bytes, frozenset[bytes]]]
) -> list[tuple[bytes, int]]:
    """Seal (tag, plaintext, child list, known) into the slot: (ID, frame length), 0 if known."""
    sealed: list[tuple[bytes, int]] = []
    at = 0
    for tag, plain, children, known in nodes:
        id = lane.tools.sealer.id_of(tag, children, plain)
        length = 0
        if id not in known:
            length = lane.tools.sealer.seal_into(lane.slot[at:], tag, id, plain, children)
        sealed.append((id, length))
        at += length
    return sealed


def seal_point(lane: Lane[Tools], bare: Point, details: PointDetails) -> Point:
    """*bare* with its sealed part and its ID; the signature is still to come."""
    sealer, tag = lane.tools.sealer, tag_of(Kind.POINT)
    _, sealed = sealer.seal(tag, msgspec.json.encode(details))
    point = bare._replace(sealed=sealed)
    return point._replace(point_id=sealer.id_of(tag, b"", encode_body(point) + sealed))


def open_point(lane: Lane[Tools], sealed: bytes) -> PointDetails | None:
    """A point's details; None where they do not open."""
    try:
        return msgspec.json.decode(lane.tools.opener.open(sealed)[2], type=PointDetails)
    except (IntegrityError, msgspec.MsgspecError):
        return None


def open_nodes(
    lane: Lane[Tools], frames: Sequence[bytes], expected: Sequence[Reference]
) -> list[tuple[bytes, bytes] | str]:
    """(plaintext, child list) of each frame, or what is wrong with it."""
    opened: list[tuple[bytes, bytes] | str] = []
    for raw, reference in zip(frames, expected, strict=True):
        try:
            _, children, plain = lane.tools.opener.open(raw, reference)
            opened.append((plain, children))
        except IntegrityError as error:
            opened.append(str(error))
    return opened


def block_extent(stream: Descriptor, number: int) -> tuple[int, int]:
    """(offset, length) of block *number*."""
    offset = number * stream.block_size
    return offset, min(stream.block_size, stream.length - offset)
