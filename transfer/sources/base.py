"""What a scan of a tree gives."""

from typing import NamedTuple

from transfer.files.directories import OpenDirectories, Place
from transfer.files.metadata import Stat
from transfer.formats.entry import Entry

__all__ = ["OpenDirectories", "Place", "Scanned", "SkippedEntry", "Stat"]


class Scanned(NamedTuple):
    """One name of a directory: all of its entry but the content, and where a page may end.

    *is_mounted*: it is of another file system than the directory.
    """

    entry: Entry
    stat: Stat
    cut: int
    is_mounted: bool


class SkippedEntry(NamedTuple):
    """A name of which something is not in the point; *code* is stable, *message* for people."""

    name: bytes
    code: str
    message: str
