"""The directory object store: where packs and records are, and reading them.

A record has its name only once it is whole and durable. A pack has its name from the start, grows
until it is closed (see open_pack.py), and is read in pieces (see pack_file.py).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transfer.formats.pack import PackClass, PackHeader
from transfer.vault.durable import make_directory, not_stored, write_durably

_CLASSES = {one.name.lower(): one for one in PackClass}


class PackPlace(NamedTuple):
    """A pack's file, and what its path says that it is."""

    path: Path
    header: PackHeader


def _byte(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return -1


class DirectoryObjects:
    def __init__(self, root: Path) -> None:
        self.root = root

    def pack_path(self, header: PackHeader) -> Path:
        name = header.pack_id.hex()
        pack_class = header.pack_class.name.lower()
        return self.root / "packs" / header.domain.hex() / pack_class / name[:2] / name

    def packs(self, prefixes: range = range(256)) -> Iterator[PackPlace]:
        """Packs whose IDs begin with one of these bytes: so nobody needs the list of all."""
        for directory in sorted((self.root / "packs").glob("*/*/??")):
            if _byte(directory.name) in prefixes and directory.is_dir():
                for path in sorted(directory.iterdir()):
                    if (place := self._place(path)) is not None:
                        yield place

    def _place(self, path: Path) -> PackPlace | None:
        domain, pack_class, _, name = path.parts[-4:]
        if pack_class not in _CLASSES:
            return None
        try:
            header = PackHeader(bytes.fromhex(domain), _CLASSES[pack_class], bytes.fromhex(name))
        except ValueError:
            return None
        return PackPlace(path, header) if self.pack_path(header) == path else None

    def strays(self) -> Iterator[Path]:
        """Files below packs/ that no pack's name and place fit."""
        for directory, _, files in os.walk(self.root / "packs"):
            for path in (Path(directory) / name for name in sorted(files)):
                if len(path.relative_to(self.root).parts) != 5 or self._place(path) is None:
                    yield path

    def pack_size(self, header: PackHeader) -> int:
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

    def record_path(self, name: str) -> Path:
        return self.root / "records" / name

    def put_record(self, name: str, raw: bytes) -> None:
        """Durable on return; raises NotStored and leaves nothing under *name* otherwise."""
        path = self.record_path(name)
        try:
            make_directory(path.parent)
            write_durably(path, raw)
        except OSError as error:
            raise not_stored(error, f"record {name}") from error

    def read_record(self, name: str) -> bytes | None:
        try:
            return self.record_path(name).read_bytes()
        except OSError:
            return None

    def has_record(self, name: str) -> bool:
        return os.path.lexists(self.record_path(name))

    def records(self, directory: str) -> Iterator[str]:
        """The names of the whole records right below a directory, sorted."""
        return (name for name, is_directory in self._list(directory) if not is_directory)

    def directories(self, directory: str) -> Iterator[str]:
        return (name for name, is_directory in self._list(directory) if is_directory)

    def _list(self, directory: str) -> Iterator[tuple[str, bool]]:
        try:
            found = sorted(self.record_path(directory).iterdir())
        except FileNotFoundError:
            return
        for path in found:
            if not path.name.startswith("."):
                yield f"{directory}/{path.name}", path.is_dir()
