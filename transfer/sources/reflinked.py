"""Reflinked files: a reflink copy is the view, and the maps of two copies tell what changed.

    .transfer-view-CHAIN-TOKEN         a copy, beside the file
    .transfer-view-CHAIN-TOKEN.new     one that is being made

One copy stays between runs, that of the committed point. Its mark names it, and says how its inode
was: whoever wrote to it since, or put another file in its place, has ended the chain. A later view
compares its own copy with that one, whatever became of the file itself meanwhile. The copy of a run
that was interrupted is the view of the one that goes on.
"""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from itertools import islice

import msgspec

from transfer.errors import TransferError, ViewBroken
from transfer.files.directories import Place
from transfer.files.metadata import stat_at, to_stat
from transfer.formats.point import Mark
from transfer.sources import reflink
from transfer.sources.base import Stat
from transfer.sources.changes import Data, Extent, HistoryLost, Offered, Since
from transfer.sources.handles import file_handle
from transfer.sources.image import open_image
from transfer.sources.reading import SourceFile
from transfer.waiting import or_undone, to_the_end

PREFIX = b".transfer-view-"
NEW = b".new"
_OURS = re.compile(re.escape(PREFIX) + b"[0-9a-f]{32}-[0-9a-f]{16}(" + re.escape(NEW) + b")?")
_AT_ONCE = 4096  # extents that are compared before others get their turn


def is_copy(name: bytes) -> bool:
    """Whether a file of that name is a copy of whatever chain, and no content of anybody's."""
    return _OURS.fullmatch(name) is not None


class CopyMark(msgspec.Struct, frozen=True):
    """What a point says of the copy that it was made of."""

    name: bytes
    handle: bytes
    ino: int
    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, name: bytes, stat: Stat, handle: bytes) -> "CopyMark":
        return cls(name, handle, stat.ino, stat.size, stat.mtime, stat.ctime)


class Copies:
    """A chain's copies in the file's directory: that of the mark, if it is there, and the view's.

    Its calls block. Raises ViewBroken, NoReflinks, NoSpace, OSError.
    """

    def __init__(self, path: bytes, chain: str, mark: Mark | None, since: Since) -> None:
        self.directory, self._tracks = os.path.dirname(path), since.tracks
        self._prefix = PREFIX + chain.encode() + b"-"
        with ExitStack() as stack:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._directory_fd = os.open(self.directory, flags)
            stack.callback(os.close, self._directory_fd)
            self.before, self.why, self._before_name = -1, "there is no mark of this file yet", b""
            if mark is not None:
                self._open_before(mark, stack)
            left = self._left_over()
            adopted = left.pop() if since.resumes and left else b""
            if since.tracks:
                self._remove(left)
            self.name = adopted or self._made(path)
            self.fd = self._open(self.name)
            stack.callback(os.close, self.fd)
            self.stat = to_stat(os.fstat(self.fd))
            self.mark = CopyMark.of(self.name, self.stat, file_handle(self.fd, b""))
            self._stack = stack.pop_all()

    def _open(self, name: bytes) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self._directory_fd)

    def _open_before(self, mark: Mark, stack: ExitStack) -> None:
        self.why = "the copy that the last point was made of is gone"
        try:
            said = msgspec.json.decode(mark.token, type=CopyMark)
            if not said.name.startswith(self._prefix):
                return
            fd = self._open(said.name)
        except (msgspec.MsgspecError, OSError):
            return
        stack.callback(os.close, fd)
        self._before_name = said.name
        if CopyMark.of(said.name, to_stat(os.fstat(fd)), file_handle(fd, b"")) == said:
            self.before = fd
        else:
            self.why = "the copy that the last point was made of was changed"

    def _left_over(self) -> list[bytes]:
        """Names of the chain's other copies, the latest last; those that are not whole go."""
        names = [name for name in map(os.fsencode, os.listdir(self._directory_fd))
                 if name.startswith(self._prefix) and name != self._before_name]  # fmt: skip
        self._remove([name for name in names if name.endswith(NEW)])
        whole = [name for name in names if not name.endswith(NEW)]
        return sorted(whole, key=lambda name: stat_at(self._directory_fd, name).mtime)

    def _made(self, path: bytes) -> bytes:
        name = self._prefix + secrets.token_hex(8).encode()
        source = open_image(path)
        try:
            os.close(reflink.clone(source, self._directory_fd, name + NEW))
        finally:
            os.close(source)
        # Only a whole copy has a name that a later run goes on with.
        os.rename(
            name + NEW, name, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd
        )  # fmt: skip
        os.fsync(self._directory_fd)
        return name

    def _remove(self, names: list[bytes]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._directory_fd)

    def is_held(self) -> bool:
        try:
            now = stat_at(self._directory_fd, self.name)
        except FileNotFoundError:
            return False
        return now.same_content(self.stat)

    def commit(self) -> None:
        """The view's copy is the one that stays."""
        self._remove([self._before_name] if self._before_name else [])

    def close(self) -> None:
        if not self._tracks:
            self._remove([self.name])
        self._stack.close()


class ReflinkedDisk:
    data: Data | None = None

    def __init__(self, name: bytes, copies: Copies, chain: str) -> None:
        self.name, self.size, self._copies = name, copies.stat.size, copies
        self.content = SourceFile(Place(copies.directory), copies.name, copies.stat)
        token = msgspec.json.encode(copies.mark)
        self.mark = Mark(ReflinkSource.name, chain, token, copies.stat.size)
        self.identity = b"reflink" + token

    async def changed(self) -> AsyncIterator[Extent]:
        if self._copies.before < 0:
            raise HistoryLost(self._copies.why)
        extents = reflink.changes(self._copies.before, self._copies.fd, twice=True)
        try:
            while some := await asyncio.to_thread(lambda: list(islice(extents, _AT_ONCE))):
                for extent in some:
                    yield extent
        except (TransferError, OSError) as error:
            raise HistoryLost(f"the maps of the copies cannot be compared: {error}") from error


class ReflinkedView:
    def __init__(self, disk: ReflinkedDisk, copies: Copies) -> None:
        self.disks, self.moment, self._copies = [disk], copies.stat.mtime, copies

    async def check(self) -> bool:
        if not await asyncio.to_thread(self._copies.is_held):
            raise ViewBroken("the copy that was read was changed or removed", "run again")
        return True

    async def commit(self) -> None:
        await asyncio.to_thread(self._copies.commit)


class ReflinkSource:
    """*why* something else may be better, for people."""

    name = "reflink"

    def __init__(self, path: bytes, name: bytes, why: str = "") -> None:
        self._path, self._name, self._why = path, name, why

    async def offered(self) -> list[Offered]:
        return [Offered(self._name, self._why)]

    async def clean(self, whose: Since | None) -> list[str]:
        """For None all copies beside the file: their names do not tell what they are copies of."""
        return await asyncio.to_thread(self._clean, whose)

    def _clean(self, whose: Since | None) -> list[str]:
        directory, prefix = os.path.dirname(self._path), PREFIX
        if whose is not None:
            prefix += whose.chain(self._name).encode()
        names = [name for name in os.listdir(directory) if name.startswith(prefix)]
        ours = [os.path.join(directory, name) for name in names if is_copy(name)]
        for path in ours:
            os.unlink(path)
        return [os.fsdecode(path) for path in ours]

    @asynccontextmanager
    async def open(self, since: Since) -> AsyncIterator[ReflinkedView]:
        chain, mark = since.chain(self._name), since.mark(self.name, self._name)
        opening = asyncio.to_thread(Copies, self._path, chain, mark, since)
        copies = await or_undone(opening, lambda made: asyncio.to_thread(made.close))
        try:
            yield ReflinkedView(ReflinkedDisk(self._name, copies, chain), copies)
        finally:
            await to_the_end(asyncio.to_thread(copies.close))
