"""The directory object store: records written once, packs that grow until they are closed.

Directories are 0700, files 0600. A record has its name only once it is whole and durable.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from transfer.errors import NoSpace, NotStored
from transfer.formats import frame, pack
from transfer.formats.pack import IndexEntry, PackClass, PackHeader


class PackPlace:
    """Where a pack is; what its path alone tells."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pack_id = bytes.fromhex(path.name)


class DirectoryObjects:
    def __init__(self, root: Path) -> None:
        self.root = root

    def pack_path(self, header: PackHeader) -> Path:
        name = header.pack_id.hex()
        pack_class = header.pack_class.name.lower()
        return self.root / "packs" / header.domain.hex() / pack_class / name[:2] / name

    def packs(self) -> Iterator[PackPlace]:
        for path in sorted((self.root / "packs").glob("*/*/??/" + "?" * 32)):
            yield PackPlace(path)

    def read_pack(self, header: PackHeader) -> bytes | None:
        try:
            return self.pack_path(header).read_bytes()
        except OSError:
            return None

    def pack_length(self, header: PackHeader) -> int:
        """0 for a pack that is not there."""
        try:
            return self.pack_path(header).stat().st_size
        except OSError:
            return 0

    def read_frame(self, header: PackHeader, offset: int, length: int) -> bytes | None:
        """None if it cannot be read in full; its checksum is the caller's to look at."""
        try:
            with self.pack_path(header).open("rb", buffering=0) as file:
                raw = os.pread(file.fileno(), length, offset)
        except OSError:
            return None
        return raw if len(raw) == length else None

    def put_record(self, name: str, raw: bytes) -> None:
        """Durable on return; raises NotStored and leaves nothing under *name* otherwise."""
        path = self.root / "records" / name
        try:
            make_directory(path.parent)
            write_durably(path, raw)
        except OSError as error:
            raise not_stored(error, f"record {name}") from error

    def read_record(self, name: str) -> bytes | None:
        try:
            return (self.root / "records" / name).read_bytes()
        except OSError:
            return None

    def records(self, kind: str) -> Iterator[str]:
        """The names of all whole records of a kind."""
        base = self.root / "records"
        for path in sorted((base / kind).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield str(path.relative_to(base))


class OpenPack:
    """A pack that only grows; what `sync` has not confirmed may be taken back."""

    def __init__(self, objects: DirectoryObjects, domain: bytes, pack_class: PackClass) -> None:
        self.header = PackHeader(domain, pack_class, os.urandom(16))
        path = objects.pack_path(self.header)
        self._new_in: Path | None = path.parent
        self.length = self.durable = pack.HEADER_SIZE
        self._entries: list[IndexEntry] = []
        head = pack.encode_header(self.header)
        self._hash, self._durable_hash = blake3(head), blake3(head)
        try:
            make_directory(path.parent)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _write(self._file, head, 0)
            except OSError:
                os.close(self._file)
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise not_stored(error, f"pack {path.name}") from error

    @property
    def full(self) -> bool:
        return self.length >= pack.FULL_PACK

    def append(self, header: frame.Header, raw: memoryview) -> int:
        """Write a frame and say where; not durable before `sync`. OSError as it comes."""
        offset = self.length
        _write(self._file, raw, offset)
        self._hash.update(raw)
        self._entries.append(pack.entry_of(header, offset))
        self.length += len(raw)
        return offset

    def sync(self) -> None:
        os.fdatasync(self._file)
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
        trailer = pack.encode_trailer(kept, self.durable, self._durable_hash)
        try:
            if self.length > self.durable:
                os.ftruncate(self._file, self.durable)
            _write(self._file, trailer, self.durable)
            os.fsync(self._file)
        finally:
            os.close(self._file)
        return self.durable + len(trailer)


def not_stored(error: OSError, what: str) -> NotStored | NoSpace:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"the vault's disk is full: {what}", "make room, then run again")
    return NotStored(f"{what} could not be written: {error.strerror}")


def make_directory(path: Path) -> None:
    """Make *path* and its parents, each durable in its own parent."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, raw: bytes) -> None:
    """Put *raw* under *path*: entirely or not at all, and durable on return."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            _write(descriptor, raw, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _write(descriptor: int, raw: bytes | memoryview, offset: int) -> None:
    view = memoryview(raw)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
