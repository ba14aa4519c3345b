"""Features: three sets that vault, keyring, point and frame carry, for what version 1 lacks.

    ignored  who does not know one loses nothing by it
    write    who does not know one may read, and not add, change, copy or follow it
    read     who does not know one must not read either

Vault and keyring name them; points and frames have bits. An unknown one that is needed is refused
by its name or bit. Version 1 has no features, and one frame flag (see frame.py).
"""

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from transfer.errors import NewerFormat
from transfer.formats.documents import Label

MAX_NAMES = 64
_Names = Annotated[list[Label], Meta(max_length=MAX_NAMES)]


class Features(msgspec.Struct, frozen=True):
    ignored: _Names = []
    write: _Names = []
    read: _Names = []

    def require(self, what: str, known: frozenset[str] = frozenset(), *, writing: bool) -> None:
        """Raise NewerFormat, naming them, if *what* needs features that are not *known*."""
        needed = {*self.read, *(self.write if writing else ())}
        refuse(what, sorted(needed - known))


class FeatureBits(NamedTuple):
    ignored: int = 0
    write: int = 0
    read: int = 0

    def require(self, what: str, *, writing: bool) -> None:
        """Raise NewerFormat, naming them, if *what* needs any; version 1 knows none."""
        needed = [f"read bit {bit}" for bit in _bits(self.read)]
        if writing:
            needed += [f"write bit {bit}" for bit in _bits(self.write)]
        refuse(what, needed)


def refuse(what: str, unknown: list[str]) -> None:
    if unknown:
        needs = ", ".join(unknown)
        raise NewerFormat(f"{what} needs {needs}", "use a newer version of transfer")


def _bits(number: int) -> list[int]:
    return [bit for bit in range(number.bit_length()) if number >> bit & 1]
