"""Change sources: a disk at one moment, and what changed on it since another one.

    open -> view: its disks -> changed since the parent's mark -> read -> check -> commit -> close

A view's mark is sealed into the point that is made of it; changes are asked for since the mark that
the parent point has of this disk. So both come from one point, and a source needs no word of how a
run ended: what belongs to the parent's mark stays until a later point is committed, and a view that
was closed without a commit leaves what may be needed if its point turns out to be in the vault
after all. The next `open` names the parent of its time, and everything else of the chain goes.

The laws, which `tests/suites/sources.py` holds every source to:

* `changed` gives at least what may differ, ascending and disjoint; too much is never wrong.
* A mark that is not known, or doubtful in any way, raises HistoryLost.
* What a view reads is the disk at one moment, or `check` says that it was not.
* A source makes, changes and removes only what bears its chain's ID.
* Nothing that a source does may harm whoever writes the disk meanwhile.

A chain is one disk of one item in one domain of one vault, as backed up from this machine.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, runtime_checkable

from blake3 import blake3

from transfer.formats.point import Consistency, Mark
from transfer.sources.exports import NbdContent
from transfer.sources.reading import SourceFile

CHAIN_SIZE = 16
Extent = tuple[int, int]
Content = SourceFile | NbdContent
Data = Callable[[int, int], Awaitable[list[Extent]]]


class HistoryLost(Exception):
    """What changed since a mark is not known: everything is read. *why* is for people."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Since(NamedTuple):
    """What a view is opened for.

    *protects* tells what is protected where: vault, domain and item; *marks* are the parent
    point's. With *resumes* an interrupted run of the same parent goes on: what is left of its view
    may be used again. Without *tracks* nothing is left behind for a next run.
    """

    protects: bytes
    marks: Sequence[Mark] = ()
    resumes: bool = False
    tracks: bool = True

    def chain(self, disk: bytes) -> str:
        """The ID of the chain of the disk of that name, in hex."""
        said = blake3(b"chain")
        for part in (self.protects, disk):
            said.update(len(part).to_bytes(8, "little") + part)
        return said.hexdigest(CHAIN_SIZE)

    def mark(self, source: str, disk: bytes) -> Mark | None:
        epoch = self.chain(disk)
        return next((m for m in self.marks if (m.source, m.epoch) == (source, epoch)), None)


class ViewedDisk(Protocol):
    """A disk as it was at the view's moment."""

    @property
    def name(self) -> bytes:
        """Under which it stands in its item."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def content(self) -> Content:
        """What workers read."""

    @property
    def data(self) -> Data | None:
        """Gives the extents of a range that may hold other bytes than zeros; None: workers know."""

    @property
    def mark(self) -> Mark | None:
        """Of this moment, for the point; None where no track is kept."""

    @property
    def identity(self) -> bytes:
        """Views with one identity have one content; empty if nothing proves that."""

    def changed(self) -> AsyncIterator[Extent]:
        """What may differ from the disk at the parent's mark, ascending and disjoint.

        Raises HistoryLost, also at the end: then nothing of it may be believed.
        """


class View(Protocol):
    """All its disks are of one moment."""

    @property
    def disks(self) -> Sequence[ViewedDisk]: ...

    @property
    def moment(self) -> int:
        """When it was, ns since 1970."""

    async def check(self) -> bool:
        """After the last read: whether it was one moment. Raises ViewBroken if it was lost."""

    async def commit(self) -> None:
        """The point is in the vault: what belongs to the mark before it goes."""


@runtime_checkable
class MachineView(View, Protocol):
    """Of the disks of a machine that runs; it may be better than what a power cut leaves behind."""

    @property
    def consistency(self) -> Consistency: ...

    @property
    def bytes_fleece(self) -> int:
        """At the last check: the space that old content takes which was overwritten meanwhile."""

    @property
    def why(self) -> str:
        """It is no better, for people; empty where that was not asked for."""


class Offered(NamedTuple):
    """*why* its changes are not known, or not in a better way, for people; empty if they are."""

    disk: bytes
    why: str


class ChangeSource(Protocol):
    @property
    def name(self) -> str:
        """Of the kind, as marks and people have it."""

    async def offered(self) -> list["Offered"]:
        """The disks that a view would have now. Raises as `open` does."""

    async def clean(self, whose: Since | None) -> list[str]:
        """Remove all that the chains of *whose* left, or for None all chains; returns what it was.

        A view of theirs that is open breaks. Raises as `open` does.
        """

    def open(self, since: Since) -> AbstractAsyncContextManager[View]:
        """The view's moment lies between the call and its return; the end releases the view.

        Raises ViewBroken, UsageError, NotFound, NoSpace.
        """
