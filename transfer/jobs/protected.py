"""What a backup protects: its PATHs, resolved, and the marks that tie a tree to a point."""

import os
import stat as modes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from transfer.errors import NotFound, UsageError
from transfer.files.directories import Place
from transfer.files.system import is_pseudo
from transfer.formats.entry import Entry, FileType, Root
from transfer.formats.point import Mark
from transfer.formats.stream import Descriptor
from transfer.sources.changes import ChangeSource, ViewedDisk
from transfer.sources.choose import named_source, source_of

MAX_PATHS = 256  # a point's record has to hold them
MAX_MOUNTS = 256  # below others, everything is read each time
Mounts = dict[bytes, bytes]


class TreeMark(msgspec.Struct, frozen=True):
    """When stat proves that a file did not change: same boot, clock, root and rules.

    *root* is the file system and the handle of the tree's root, *mounts* the file systems that were
    crossed into, by path.
    """

    moment: int
    boot: str
    root: bytes
    rules: bytes
    mounts: list[tuple[bytes, bytes]] = []


@dataclass(frozen=True)
class Protected:
    """One PATH: a directory, or a file or block device that is an image."""

    name: bytes
    place: Place
    path: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return modes.S_ISDIR(self.status.st_mode)

    @property
    def is_device(self) -> bool:
        return modes.S_ISBLK(self.status.st_mode)

    @property
    def source(self) -> ChangeSource:
        return source_of(self.path, self.name)

    def disk_entry(self, disk: ViewedDisk, content: Descriptor) -> Entry:
        entry = self.bare_entry(FileType.DISK, content)
        sparse = not self.is_device and self.status.st_blocks * 512 < disk.size
        return entry._replace(name=disk.name, sparse=sparse)

    def bare_entry(self, kind: FileType, content: Root | Descriptor) -> Entry:
        status = self.status
        return Entry(
            self.name, kind, modes.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
            status.st_mtime_ns, status.st_ctime_ns, content,
        )  # fmt: skip


@dataclass(frozen=True)
class ProtectedSource:
    """One PATH that names a source of disks by itself."""

    path: bytes
    source: ChangeSource

    @property
    def name(self) -> bytes:
        """What its disks are called is known once it is open."""
        return self.path

    def disk_entry(self, disk: ViewedDisk, content: Descriptor) -> Entry:
        moment = time.time_ns()
        return Entry(
            disk.name, FileType.DISK, 0o600, os.geteuid(), os.getegid(), moment, moment, content,
            sparse=True,
        )  # fmt: skip


def resolve(paths: Sequence[Path | str]) -> list[Protected | ProtectedSource]:
    """The PATHs in order of their names; raises NotFound or UsageError for what is none."""
    protected = sorted(map(_resolve, paths), key=lambda each: each.name)
    check_names([each.name for each in protected])
    if len(protected) > MAX_PATHS:
        raise UsageError(f"{len(protected)} PATHs", f"an item has at most {MAX_PATHS}")
    return protected


def check_names(names: Sequence[bytes]) -> None:
    """Raises UsageError if two of an item's directories and disks would be one."""
    if twice := {name for name in names if names.count(name) > 1}:
        shown = os.fsdecode(min(twice))
        raise UsageError(f"two PATHs end in {shown!r}", "they would be one when restored")


def _resolve(path: Path | str) -> Protected | ProtectedSource:
    if (source := named_source(os.fspath(path))) is not None:
        return ProtectedSource(os.fsencode(path), source)
    try:
        real = os.path.realpath(os.fsencode(path), strict=True)
        status = os.stat(real)
    except OSError as error:
        hint = "name a directory, a file or a device"
        raise NotFound(f"{path}: {error.strerror}", hint) from error
    name = os.path.basename(os.path.abspath(os.fsencode(path))) or b"root"
    if not modes.S_ISBLK(status.st_mode) and _is_made_up(real):
        hint = "of proc, sysfs and their like nothing is backed up"
        raise UsageError(f"{path} is of a file system that the kernel makes up", hint)
    if modes.S_ISDIR(status.st_mode):
        return Protected(name, Place(real), real, status)
    if not (modes.S_ISREG(status.st_mode) or modes.S_ISBLK(status.st_mode)):
        raise UsageError(f"{path} is neither a directory, a regular file nor a block device")
    return Protected(name, Place(os.path.dirname(real)), real, status)


def _is_made_up(path: bytes) -> bool:
    try:
        return is_pseudo(path)
    except OSError:
        return False


def rules_of(*rules: object) -> bytes:
    """A hash: a point's record is too small for thousands of patterns."""
    return blake3(msgspec.json.encode(rules)).digest(16)


def encode_mark(name: bytes, mark: TreeMark) -> Mark:
    return Mark("tree", name.hex(), msgspec.json.encode(mark))


def with_mounts(mark: TreeMark, mounts: Mounts) -> TreeMark:
    return msgspec.structs.replace(mark, mounts=sorted(mounts.items())[:MAX_MOUNTS])


def trusted(marks: list[Mark], name: bytes, now: TreeMark) -> tuple[int, Mounts]:
    """(moment, mounts) of the parent's mark, if it is of this very tree and time went on; else 0.

    A file whose ctime is older than that moment, and whose stat is the parent's, did not change.
    """
    for old in marks:
        if (old.source, old.epoch) == ("tree", name.hex()):
            try:
                then = msgspec.json.decode(old.token, type=TreeMark)
            except msgspec.MsgspecError:
                continue  # of a later version
            same = (then.boot, then.root, then.rules) == (now.boot, now.root, now.rules)
            if now.boot and same and then.moment <= now.moment:
                return then.moment, dict(then.mounts)
    return 0, {}
