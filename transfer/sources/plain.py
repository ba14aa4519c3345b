"""Plain images: a file or block device that is read as it stands, without any track of changes.

Everything but holes is read. A file that is written meanwhile is no moment, and `check` says so; of
a device nothing tells.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from transfer.files.directories import Place
from transfer.files.metadata import to_stat
from transfer.files.system import boot_id
from transfer.formats.entry import FileType
from transfer.formats.point import Mark
from transfer.sources.changes import Data, Extent, HistoryLost, Offered, Since
from transfer.sources.image import Settled, describe_image, settled_image
from transfer.sources.quiet import stat_identity
from transfer.sources.reading import SourceFile


class PlainDisk:
    mark: Mark | None = None
    data: Data | None = None

    def __init__(self, path: bytes, name: bytes, settled: Settled, moment: int, why: str) -> None:
        directory, base = os.path.split(path)
        self.name, self.size, self._why = name, settled.size, why
        self.content = SourceFile(Place(directory), base, to_stat(settled.status))
        self.identity = b""
        if settled.is_stamped:
            stat = self.content.stat
            self.identity = stat_identity(boot_id(), moment, stat, settled.handle)

    async def changed(self) -> AsyncIterator[Extent]:
        raise HistoryLost(self._why)
        yield  # an iterator


class PlainView:
    def __init__(self, path: bytes, disk: PlainDisk, moment: int) -> None:
        self._path, self.disks, self.moment = path, [disk], moment

    async def check(self) -> bool:
        stat = self.disks[0].content.stat
        if stat.type is FileType.BLOCK:
            return True
        return (await asyncio.to_thread(describe_image, self._path)).same_content(stat)

    async def commit(self) -> None:
        pass


class PlainSource:
    """*why* nothing better is there, for people."""

    name = "plain"

    def __init__(self, path: bytes, name: bytes, why: str) -> None:
        self._path, self._name, self._why = path, name, why

    async def offered(self) -> list[Offered]:
        return [Offered(self._name, self._why)]

    async def clean(self, whose: Since | None) -> list[str]:
        return []

    @asynccontextmanager
    async def open(self, since: Since) -> AsyncIterator[PlainView]:
        moment = time.time_ns()
        settled = await asyncio.to_thread(settled_image, self._path)
        yield PlainView(
            self._path, PlainDisk(self._path, self._name, settled, moment, self._why), moment
        )
