"""A vault, near or far: the client, the server and the tests all speak this."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from transfer.errors import FrameMissing
from transfer.formats.reference import Buffer, Reference

MAX_BODY = 16 * 2**20  # bytes of frames in one call
MAX_FRAMES = 1024
MAX_MISSING = 8192
SESSION_LIFE = 7 * 24 * 3600 * 10**9  # ns without a sign of life
OWNER_SIZE = 16


Arrived = Callable[[Reference, bytes], None]
"""Called once with each frame that was asked for and is there, as it comes, in any order."""


class Outcome(IntEnum):
    STORED = 1
    EXISTED = 2
    REJECTED = 3


class VaultInfo(NamedTuple):
    vault: bytes
    incarnation: int


class StoredPoint(NamedTuple):
    """A signed point record, with what this vault says about its arrival (time in ns)."""

    record: bytes
    arrival_number: int
    arrival_time: int


class SessionInfo(NamedTuple):
    number: int
    fence: int
    keyring_version: int
    incarnation: int


class Missing(FrameMissing):
    """A commit's closure lacks *references* (at most MAX_MISSING, and *more* if there are more)."""

    def __init__(
        self, message: str, hint: str = "", references: tuple[Reference, ...] = (),
        more: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(message, hint)
        # Pickle rebuilds from args.
        self.args = (message, hint, references, more)
        self.references, self.more = references, more


async def fetched(
    vault: "Vault", session: int, references: Sequence[Reference]
) -> list[bytes | None]:
    """The frames in the order asked, when all have come; None is missing."""
    found: dict[Reference, bytes] = {}
    await vault.fetch(session, references, found.__setitem__)
    return [found.get(Reference(*reference)) for reference in references]


class Vault(Protocol):
    """Every vault passes tests/suites/vault.py.

    What an answer calls stored or existing is durable. A call in a session that has ended, or
    that another one fenced, raises SessionEnded. A session sees its own domain only.
    """

    async def info(self) -> VaultInfo: ...

    async def domains(self) -> list[bytes]:
        """The domains that have a keyring."""

    async def keyring(self, domain: bytes, version: int | None = None) -> bytes | None:
        """A keyring as it was added; by default the newest."""

    async def add_keyring(self, domain: bytes, version: int, keyring: bytes) -> None:
        """Compare-and-set: *version* is the newest + 1, signed by the domain's key, or Refused."""

    async def open_session(
        self, domain: bytes, item: bytes | None, owner: bytes = b"", resume: int | None = None
    ) -> SessionInfo:
        """Without an item, to read; with one, as the item's one writer.

        *owner* is OWNER_SIZE random bytes of a state directory, or empty for nobody. An open writer
        of the same owner is what is left of a run that was killed: it is fenced, and has ended,
        unless *resume* is its number: then it goes on, and all that it was told holds.
        Another's raises ItemBusy, which names that session and since when it is open.
        """

    async def heartbeat(self, session: int) -> None:
        """A sign of life; SessionEnded if there is none to be had."""

    async def end_session(self, session: int) -> None:
        """Abandon the session; ending an ended one changes nothing."""

    async def have(
        self, session: int, tag: int, generation: int, ids: Sequence[bytes]
    ) -> list[bool]:
        """Which are good; a node only if it is complete."""

    async def store(self, session: int, frames: Buffer) -> list[Outcome]:
        """Store whole frames, back to back; on return all STORED and EXISTED ones are durable.

        A bad header raises FormatError and stores nothing. REJECTED: a bad checksum or child
        list, or an epoch that no stored keyring names. NotStored: believe nothing of the call.
        """

    async def fetch(self, session: int, references: Sequence[Reference], arrived: Arrived) -> None:
        """Whole frames, the best copy of each; what has not *arrived* on return is missing."""

    async def commit(self, session: int, point: bytes) -> StoredPoint:
        """Make the point visible, entirely or not at all; idempotent, and ends the session.

        Raises Missing unless everything below the root is stored; Refused for a wrong signature,
        item or epoch; PointMissing for a point that was deleted.
        """

    async def points(
        self, domain: bytes, after: int = 0, limit: int | None = None
    ) -> list[StoredPoint]:
        """In ascending order of arrival: the first *limit* of those numbered above *after*."""

    async def report_damaged(self, session: int, references: Sequence[Reference]) -> None:
        """A client could not open the copies of these that it was given.

        They become suspect, the nodes above incomplete. This session is given any other copies
        first from now on.
        """

    async def wanted(self, session: int) -> list[Reference]:
        """Damaged or missing frames below the newest point of the session's item."""

    async def statistics(self, domain: bytes | None = None) -> dict[str, int]:
        """bytes_stored, blocks, nodes, points, machines: of one domain, or of the whole vault."""

    async def close(self) -> None: ...
