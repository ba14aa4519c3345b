"""Blocks of an image, written by one worker around the page cache where that is possible.

The disk takes one block while the next one is made: a worker that waited for it would do nothing
else meanwhile.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor

from transfer.files.direct import SECTOR, DirectWriter, aligned_room, write_all
from transfer.formats.reference import Buffer
from transfer.formats.stream import MAX_BLOCK
from transfer.targets import target_errors
from transfer.targets.image import UNUSABLE, name_of


class BlockFile:
    """The image that *descriptor* has open for writing; closing this closes that.

    Memory: the rooms of two blocks.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._direct = DirectWriter(descriptor)
        self._room, self._written = aligned_room(MAX_BLOCK), aligned_room(MAX_BLOCK)
        self._thread = ThreadPoolExecutor(1, "blocks")
        self._writing: Future[None] | None = None

    def write(self, offset: int, block: Buffer) -> None:
        """Take a block, once the one before is written. Raises as `flush` does, of that one."""
        view = self._room[: len(memoryview(block))]
        view[:] = block
        self.flush()
        self._room, self._written = self._written, self._room
        self._writing = self._thread.submit(self._write, offset, view)

    def flush(self) -> None:
        """Return when all blocks are written. Raises what `target_errors` makes of an OSError."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, offset: int, view: memoryview) -> None:
        whole = 0 if offset % SECTOR else len(view) // SECTOR * SECTOR
        with target_errors(name_of(self.descriptor), *UNUSABLE):
            if whole:
                self._direct.write(view[:whole], offset)
            write_all(self.descriptor, view[whole:], offset + whole)

    def close(self) -> None:
        """What was not flushed may be written, or not."""
        self._thread.shutdown()
        os.close(self.descriptor)
        self._direct.close()
