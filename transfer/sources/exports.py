"""NBD exports as workers read them: each over a connection of its own, which stays open."""

from typing import NamedTuple

from transfer.errors import SourceFailed
from transfer.sources.nbd_address import NbdAddress
from transfer.sources.nbd_reader import NbdReader


class NbdContent(NamedTuple):
    """What is in an export."""

    address: NbdAddress


class OpenExports:
    """The exports that one worker reads. Not for use by several threads."""

    def __init__(self) -> None:
        self._open: dict[NbdAddress, NbdReader] = {}

    def read_into(self, address: NbdAddress, offset: int, view: memoryview) -> None:
        """Fill *view* from *offset*. Raises what `NbdReader` raises."""
        reader = self._open.pop(address, None) or NbdReader(address)
        try:
            reader.read_into(offset, view)
        except SourceFailed:
            reader.close()
            raise
        self._open[address] = reader

    def close(self) -> None:
        for reader in self._open.values():
            reader.close()
        self._open.clear()
