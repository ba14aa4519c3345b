"""What a restore does about what stands in its target already.

    --overwrite   a file that is there
    never         stays, and is named
    changed       stays if type, size and mtime are the point's; else it gets the point's content,
                  of which only the blocks that it lacks are fetched
    always        is written anew

A restore that goes on from an interrupted one compares what it finds with the point's IDs, whatever
size and mtime say, if it is from after the first one's beginning. What differs then is somebody
else's and treated as above; unless the machine crashed meanwhile, which may have lost content that
had got its name already.
"""

import os
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from transfer.files.metadata import Stat
from transfer.formats.entry import Entry, FileType


class Fate(Enum):
    WRITE = auto()
    STAY = auto()
    COMPARE = auto()
    REFUSE = auto()


class Wanted(NamedTuple):
    """An entry that is to be *path*'s, whatever is there if *replace*.

    *there* may be it already. It *stays*, unless other names of its inode ask for more.
    """

    entry: Entry
    path: bytes
    there: Stat | None
    replace: bool
    stays: bool = False

    def is_there_as(self, identity: tuple[int, int]) -> bool:
        return self.there is not None and self.there.identity == identity


@dataclass(frozen=True)
class Overwrite:
    """*begun*, ns of the clock: when the restore began that goes on; None for a new one."""

    mode: str = "never"
    begun: int | None = None
    crashed: bool = False

    @property
    def resumes(self) -> bool:
        return self.begun is not None

    @property
    def replaces_new(self) -> bool:
        """Whether what somebody puts there meanwhile may be replaced."""
        return self.mode != "never"

    def fate(self, entry: Entry, there: Stat | None, leads_to: bytes = b"") -> Fate:
        """*leads_to* is what is there if it is a symlink."""
        if there is None:
            return Fate.WRITE
        alike = _alike(entry, there, leads_to)
        files = entry.type is there.type is FileType.FILE
        if self._is_ours(there):
            if files:
                return Fate.COMPARE
            if alike:
                return Fate.STAY
        if self.mode == "changed":
            return Fate.STAY if alike else Fate.COMPARE if files else Fate.WRITE
        return Fate.WRITE if self.mode == "always" else Fate.REFUSE

    def replaces(self, entry: Entry, there: Stat | None) -> bool:
        """Whether what is there and differs may be replaced.

        After a crash a file that lost its content still has the mtime that it was given before its
        name; one that somebody has written since has not.
        """
        if self.mode != "never" or there is None:
            return self.replaces_new
        return self.crashed and self._is_ours(there) and there.mtime == entry.mtime

    def _is_ours(self, there: Stat) -> bool:
        """Whether the interrupted restore may have made it."""
        return self.begun is not None and there.ctime >= self.begun


def _alike(entry: Entry, there: Stat, leads_to: bytes) -> bool:
    if (there.type, there.mtime) != (entry.type, entry.mtime):
        return False
    match entry.type:
        case FileType.FILE:
            return there.size == entry.size
        case FileType.SYMLINK:
            return leads_to == entry.target
        case FileType.CHARACTER | FileType.BLOCK:
            return (os.major(there.rdev), os.minor(there.rdev)) == entry.device
    return True
