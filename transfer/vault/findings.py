"""What verifying a stored vault finds."""

import time
from pathlib import Path
from typing import NamedTuple

from transfer.formats.reference import Reference

PointId = bytes
MAX_FINDINGS = 10_000
_YOUNG = 3600  # seconds: a running vault may be about to enter it


class Finding(NamedTuple):
    """What is damaged, where (the name of a pack or record), and how."""

    reference: Reference | None
    place: str
    offset: int
    reason: str


class VerifyReport(NamedTuple):
    frames: int  # intact ones
    bytes: int
    damaged: list[Finding]  # at most MAX_FINDINGS
    points_affected: list[PointId]
    damaged_total: int
    part: float  # of the vault that was seen since the round began; 1 is all


class Findings:
    def __init__(self) -> None:
        self.frames = self.bytes = self.total = 0
        self.damaged: list[Finding] = []
        self.affected: list[PointId] = []

    def note(
        self, place: str, reason: object, reference: Reference | None = None, offset: int = 0
    ) -> None:
        self.total += 1
        if len(self.damaged) < MAX_FINDINGS:
            self.damaged.append(Finding(reference, place, offset, str(reason)))

    def report(self, part: float) -> VerifyReport:
        return VerifyReport(self.frames, self.bytes, self.damaged, self.affected, self.total, part)


def is_young(path: Path) -> bool:
    """So new, or just gone, that what is not in the catalog may be there in a moment."""
    try:
        return time.time() - path.stat().st_mtime < _YOUNG
    except OSError:
        return True
