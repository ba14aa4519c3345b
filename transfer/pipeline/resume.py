"""Resume: what an interrupted run has read is not read again, where it is proven to be the same.

A run notes each extent that it read, under a key that hashes all that proves the content: the
identity of a view that is held, or that of a quiet file (sources/quiet.py), block size and place. A
later run that finds an extent under the same key has the IDs of its blocks without reading it. It
still asks the vault for every one of them, so a note that is stale, foreign or made up costs a
question.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from blake3 import blake3

from transfer.files.metadata import Stat
from transfer.formats.entry import Content
from transfer.formats.journal import KEY_SIZE, Ids
from transfer.sources.quiet import stat_identity


class Proof(NamedTuple):
    """That a file's content is what it was; extents of it have keys."""

    hashed: bytes

    def key(self, offset: int, length: int) -> bytes:
        return blake3(self.hashed + b"%d %d" % (offset, length)).digest(KEY_SIZE)


def key_of_all(keys: Sequence[bytes]) -> bytes:
    """Of extents of several files that are read together, in this order."""
    return blake3(b"together" + b"".join(keys)).digest(KEY_SIZE)


def key_of_kept(key: bytes, content: Content) -> bytes:
    """Of an extent that is as the parent point has it: as *content*."""
    return blake3(b"kept" + key + repr(content).encode()).digest(KEY_SIZE)


class Question(NamedTuple):
    """Asks for what was noted under *key*: so many *ids*, of which the first *blocks* are those of
    blocks, or all.
    """

    key: bytes
    ids: int
    blocks: int | None = None


class Proofs(NamedTuple):
    """What proves something in this run: it synced at *moment*; see `stat_identity`."""

    boot: str
    moment: int
    generation: int
    block_size: int

    def of(self, stat: Stat, handle: bytes) -> Proof | None:
        """None for a file that was written too lately, or after the sync."""
        return self.of_identity(stat_identity(self.boot, self.moment, stat, handle))

    def of_identity(self, identity: bytes) -> Proof | None:
        """None if it is empty."""
        if not identity:
            return None
        said = self.generation, self.block_size, identity
        return Proof(blake3(repr(said).encode()).digest())


class Reads(Protocol):
    """What was read, by key; a run's own notes need not be found before the next run."""

    async def recall(self, keys: Sequence[bytes]) -> list[Ids | None]: ...

    async def note(self, extents: Sequence[tuple[bytes, Ids]]) -> None:
        """Their blocks are in the vault."""


class NoReads:
    """Of a run that goes on from nowhere and leaves nothing to go on from."""

    async def recall(self, keys: Sequence[bytes]) -> list[Ids | None]:
        return [None] * len(keys)

    async def note(self, extents: Sequence[tuple[bytes, Ids]]) -> None:
        pass
