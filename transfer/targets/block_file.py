"""Blocks of an image, written by one worker around the page cache where that is possible."""

import os

from transfer.files.direct import SECTOR, DirectWriter, aligned_room, write_all
from transfer.formats.reference import Buffer
from transfer.formats.stream import MAX_BLOCK
from transfer.targets import target_errors
from transfer.targets.image import UNUSABLE, name_of


class BlockFile:
    """The image that *descriptor* has open for writing; closing this closes that."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._direct = DirectWriter(descriptor)
        self._room = aligned_room(MAX_BLOCK)

    def write(self, offset: int, block: Buffer) -> None:
        """Raises what `target_errors` makes of an OSError."""
        view = memoryview(block)
        whole = 0 if offset % SECTOR else len(view) // SECTOR * SECTOR
        with target_errors(name_of(self.descriptor), *UNUSABLE):
            if whole:
                self._room[:whole] = view[:whole]
                self._direct.write(self._room[:whole], offset)
            write_all(self.descriptor, view[whole:], offset + whole)

    def close(self) -> None:
        os.close(self.descriptor)
        self._direct.close()
