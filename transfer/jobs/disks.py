"""Send disks: each as it is in a view, and of each only what changed where a source tells it.

A source that tells nothing, or is not to be believed, costs reading and comparing, and never more
sending: what the parent point has is not sent again.
"""

import random
import time
from dataclasses import dataclass, field

import msgspec

from transfer.errors import UsageError
from transfer.formats.entry import Entry
from transfer.formats.point import Mark
from transfer.formats.stream import Descriptor, block_count
from transfer.jobs.progress import Progress
from transfer.pipeline.changed_streams import TrackerLied, send_changed
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.resume import Proof, Proofs
from transfer.pipeline.send import Sender
from transfer.pipeline.streams import send_stream
from transfer.sources.changes import HistoryLost, Since, ViewedDisk

MAX_SAMPLE = 64  # blocks that are looked at although they are called clean


@dataclass(frozen=True)
class Audits:
    """How far a change source is believed."""

    share: float = 0.001
    """Of the blocks that it calls clean; so many are looked at, and at most MAX_SAMPLE."""
    every: float = 30 * 86400.0
    """Seconds after which all is read and compared."""


@dataclass
class DiskSent:
    """*why* all of it was read; empty if only changes were."""

    path: str
    source: str
    why: str = ""


@dataclass
class DiskSender:
    sender: Sender
    nodes: NodeReader
    progress: Progress
    proofs: Proofs
    since: Since
    audits: Audits
    is_full: bool = False
    told: list[DiskSent] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    async def send(self, source: str, disk: ViewedDisk, old: Entry | None) -> Descriptor:
        """The stream; its mark and what is told about it are added to those of all disks.

        Raises what reading raises.
        """
        parent, told = self._parent(disk, old), DiskSent(_shown(disk.name), source)
        self.progress.bytes_total += disk.size
        proof = self.proofs.of_identity(disk.identity)
        before = self.since.mark(source, disk.name)
        stream = None
        try:
            stream = await self._changed(disk, parent, before, proof)
        except HistoryLost as lost:
            told.why = lost.why
        except TrackerLied as lied:
            told.why = f"{source} called {len(lied.blocks)} blocks clean that were not"
            self.progress.warn(disk.name, "tracker-lied", f"{told.why}: all was read")
        compared = before.compared if before and stream else time.time_ns()
        if stream is None:
            stream = await send_stream(
                self.sender, self.nodes, disk.content, disk.size, self.proofs.block_size, parent,
                False, self.progress.read, proof, disk.data,
            )  # fmt: skip
        if disk.mark is not None:
            self.marks.append(msgspec.structs.replace(disk.mark, compared=compared))
        self.told.append(told)
        return stream

    async def _changed(
        self, disk: ViewedDisk, parent: Descriptor | None, mark: Mark | None, proof: Proof | None
    ) -> Descriptor:
        if parent is None or not self.sender.trust_parent:
            raise HistoryLost("there is no point before this one that it could be compared with")
        if self.is_full or parent.block_size != self.proofs.block_size:
            raise HistoryLost("a full read was asked for")
        age = 0 if mark is None else time.time_ns() - mark.compared
        if not 0 <= age <= self.audits.every * 10**9:
            raise HistoryLost("it is time to compare it all")
        return await send_changed(
            self.sender, self.nodes, disk.content, disk.size, parent, disk.changed(), False,
            self._sample(disk.size), self.progress.read, proof, disk.data,
        )  # fmt: skip

    def _sample(self, size: int) -> list[int]:
        blocks = block_count(size, self.proofs.block_size)
        wanted = min(MAX_SAMPLE, blocks * self.audits.share)
        count = int(wanted) + (random.random() < wanted % 1)
        return random.sample(range(blocks), count)

    def _parent(self, disk: ViewedDisk, old: Entry | None) -> Descriptor | None:
        parent = old.content if old and isinstance(old.content, Descriptor) else None
        if parent and parent.block_size != self.proofs.block_size and not self.is_full:
            raise UsageError(
                f"{_shown(disk.name)} has blocks of {parent.block_size} bytes so far",
                "another --block-size needs --full",
            )
        return parent


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
