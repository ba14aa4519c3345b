"""Bitmaps of ours in qcow2 disks, idle or live: what a mark says of one, and what that is worth.

    transfer-CHAIN-TOKEN      a bitmap that records from a view's moment on; its mark names it

QEMU keeps them in the file, see `qcow2` for an idle disk and `qemu_live` for one of a machine.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from transfer.formats.point import Mark
from transfer.sources.changes import HistoryLost

PREFIX = "transfer-"
GRANULARITY = 65536
SeenFile = tuple[str, int, int, int, int]


class BitmapMark(msgspec.Struct, frozen=True):
    """What a point says: the bitmap that records since, and which files stood behind the disk."""

    bitmap: str
    behind: list[SeenFile]


class BitmapState(NamedTuple):
    """*is_recording*: all that is written, also after the disk was closed and opened again."""

    is_consistent: bool
    is_recording: bool


class Tracked(NamedTuple):
    """A disk as it is now: its *bitmaps* by name, and the files *behind* it.

    *untracked* is why it keeps no bitmaps; empty if it does. *where* is where they are, for people.
    """

    size: int
    bitmaps: Mapping[str, BitmapState]
    behind: Sequence[SeenFile]
    untracked: str
    where: str

    def since(self, mark: Mark | None, chain: str) -> str:
        """The bitmap of *chain* that has what changed since the mark. Raises HistoryLost."""
        if self.untracked:
            raise HistoryLost(self.untracked)
        if mark is None:
            raise HistoryLost("there is no mark of this disk yet")
        try:
            said = msgspec.json.decode(mark.token, type=BitmapMark)
        except msgspec.MsgspecError as error:
            raise HistoryLost("its mark is of another version") from error
        found = self.bitmaps.get(said.bitmap)
        if found is None or not said.bitmap.startswith(f"{PREFIX}{chain}-"):
            raise HistoryLost(f"the bitmap of its last point is not {self.where}")
        if not found.is_consistent:
            raise HistoryLost("its bitmap was not closed cleanly")
        if not found.is_recording:
            raise HistoryLost("its bitmap was disabled")
        if said.behind != self.behind or any(not each[2] for each in said.behind):
            raise HistoryLost("a file behind it was changed or replaced, or cannot be seen")
        if self.size < mark.size:
            raise HistoryLost("it is smaller than it was")
        return said.bitmap


def why_untracked(details: Mapping[str, Any]) -> str:
    """Why a qcow2 disk whose format has these *details* keeps no bitmaps; empty if it does."""
    if "data-file" in details:
        return "writes to its data file may go past QEMU"
    if details.get("compat") == "0.10":
        return "a qcow2 of version 2 keeps no bitmaps (qemu-img amend -o compat=1.1)"
    return ""


def seen_file(filename: str) -> SeenFile:
    """Of a file behind a disk what is another if it was written to; zeros if nothing tells that."""
    try:
        found = os.stat(filename)
    except OSError:
        return filename, 0, 0, 0, 0
    if not stat.S_ISREG(found.st_mode):
        return filename, 0, 0, 0, 0
    return filename, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
