"""Choose: the best change source that there is for a PATH."""

from transfer.sources.changes import ChangeSource
from transfer.sources.plain import PlainSource


def source_of(path: bytes, name: bytes) -> ChangeSource:
    """Of a regular file or block device; its disk stands under *name*."""
    return PlainSource(path, name, "nothing tells what changes on it")


def named_source(path: str) -> ChangeSource | None:
    """The source that *path* names by its scheme; None for a path of the file system."""
    return None
