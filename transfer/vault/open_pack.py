"""A pack that is being written: it only grows, and is closed with a trailer."""

import os
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from transfer.files.direct import write_all
from transfer.formats import frame, pack
from transfer.formats.pack import IndexEntry, PackClass, PackHeader
from transfer.vault.durable import make_directory, not_stored, sync_directory
from transfer.vault.forward_file import ForwardFile
from transfer.vault.objects import DirectoryObjects
from transfer.vault.pack_file import Contents


class OpenPack:
    """What `sync` has not confirmed may be taken back.

    Data goes around the page cache, through *room*. Nodes are small, and soon read again.
    """

    def __init__(
        self, objects: DirectoryObjects, domain: bytes, pack_class: PackClass, room: memoryview
    ) -> None:
        self.header = PackHeader(domain, pack_class, os.urandom(16))
        self._path = path = objects.pack_path(self.header)
        self._new_in: Path | None = path.parent
        self.length = self.durable = pack.HEADER_SIZE
        self._entries: list[IndexEntry] = []
        head = pack.encode_header(self.header)
        self._hash, self._durable_hash = blake3(head), blake3(head)
        try:
            make_directory(path.parent)
            self._file = ForwardFile(path, room if pack_class is PackClass.DATA else None)
            try:
                self._file.append(head)
                self._file.flush()
            except OSError:
                self.discard()
                raise
        except OSError as error:
            raise not_stored(error, f"pack {path.name}") from error

    @property
    def empty(self) -> bool:
        """Nothing in it was ever confirmed."""
        return self.durable == pack.HEADER_SIZE

    @property
    def full(self) -> bool:
        return self.length >= pack.FULL_PACK

    def append(self, header: frame.Header, raw: memoryview) -> IndexEntry:
        """Write a frame and say where; not durable before `sync`. OSError as it comes."""
        entry = pack.entry_of(header, self.length)
        self._file.append(raw)
        self._hash.update(raw)
        self._entries.append(entry)
        self.length += len(raw)
        return entry

    def sync(self) -> None:
        self._file.flush()
        os.fdatasync(self._file.descriptor)
        if self._new_in is not None:
            sync_directory(self._new_in)
            self._new_in = None

    def confirm(self) -> None:
        """What was synced stays, whatever the catalog says next.

        A transaction that failed may yet have reached the disk: a frame without a row is harmless,
        a row without its frame is not.
        """
        self.durable, self._durable_hash = self.length, self._hash.copy()

    def close(self) -> int:
        """Cut to what was confirmed, write the trailer, and return the length.

        A trailer that cannot be written costs nothing: the next opening writes it.
        """
        kept = [entry for entry in self._entries if entry.offset < self.durable]
        try:
            return _finish(self._file.descriptor, kept, self.durable, self._durable_hash)
        finally:
            self._file.close()

    def discard(self) -> None:
        """Remove an empty pack: retries on a full disk shall not fill it with more of them."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def close_cut(path: Path, contents: Contents) -> int:
    """Cut a pack that a crash left open after its last whole frame; close it. Its length."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return _finish(descriptor, contents.entries, contents.cut, contents.hash)
    finally:
        os.close(descriptor)


def _finish(descriptor: int, entries: Iterable[IndexEntry], cut: int, before: blake3) -> int:
    trailer = pack.encode_trailer(entries, cut, before)
    os.ftruncate(descriptor, cut)
    write_all(descriptor, trailer, cut)
    os.fsync(descriptor)
    return cut + len(trailer)
