"""What a try came to: figures, and whether what came back is what went in."""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from transfer.jobs.backup import BackupResult
from transfer.jobs.comparison import Difference
from transfer.jobs.progress import MAX_WARNINGS, Warning
from transfer.jobs.protected import Protected
from transfer.jobs.restore import RestoreResult

_NAMED = 1000  # differences


@dataclass
class TryResult:
    """Speeds are bytes of the source a second, memory is the highest sum of Pss in bytes."""

    path: str
    same: bool = False
    whole: bool = True
    """False: only the first files were tried, for lack of space."""
    left_out: int = 0
    """Files that did not fit and stand among those tried."""
    bytes_source: int = 0
    files: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    bytes_stored: int = 0
    ratio: float | None = None
    bytes_received: int = 0
    backup_seconds: float = 0.0
    backup_speed: float = 0.0
    restore_seconds: float = 0.0
    restore_speed: float = 0.0
    verify_seconds: float = 0.0
    compare_seconds: float = 0.0
    workers: int = 0
    memory_client: int = 0
    memory_server: int = 0
    differences: list[dict[str, str]] = field(default_factory=list)
    differences_total: int = 0
    damaged: list[str] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)
    warnings_total: int = 0
    seconds: float = 0.0

    def count(self, done: "Done") -> None:
        made, restored = done.backup, done.restore
        for name in ("bytes_source", "files", "bytes_read", "bytes_sent", "bytes_stored"):
            setattr(self, name, getattr(made, name))
        if made.bytes_stored:
            self.ratio = round(made.bytes_source / made.bytes_stored, 2)
        self.bytes_received = restored.bytes_received
        self.backup_seconds, self.restore_seconds = made.seconds, restored.seconds
        self.verify_seconds = done.verify.seconds
        self.backup_speed = _speed(made.bytes_source, made.seconds)
        self.restore_speed = _speed(made.bytes_source, restored.seconds)
        self.damaged = list(dict.fromkeys([*restored.damaged, *done.verify.damaged]))
        unset = _by_code(restored)
        self.warnings = [*made.warnings, *unset]
        self.warnings_total = made.warnings_total + len(unset)

    def settle(self, source: Protected, differences: list[Difference]) -> None:
        """What changed meanwhile is a warning; whatever else differs should not."""
        for each in differences:
            shown = _shown(source.path, each.path)
            if each.changed:
                self.warnings_total += 1
                message = f"it changed meanwhile, and differs: {each.what}"
                self.warnings.append(Warning(shown, "changed", message))
            else:
                self.differences_total += 1
                self.differences.append({"path": shown, "what": each.what})
        del self.differences[_NAMED:], self.warnings[MAX_WARNINGS:]
        self.same = not (self.differences_total or self.damaged)


class Done(NamedTuple):
    backup: BackupResult
    restore: RestoreResult
    verify: RestoreResult


class Excused:
    """What is known not to have come back, and was named: by the backup or by the restore."""

    def __init__(self, source: Protected, made: BackupResult, restored: RestoreResult) -> None:
        self._source = source
        self._unread = {each.path for each in made.warnings}
        self._unset = {(each.path, each.code) for each in restored.warnings}
        self._codes = {code for _, code in self._unset}
        # Not all of them are kept.
        self._any_unread = made.warnings_total > len(made.warnings)
        self._any_unset = restored.warnings_total > len(restored.warnings)

    def __call__(self, path: bytes, what: str) -> bool:
        there = _shown(self._source.name, path)
        if what == "missing":
            unread = self._any_unread or _shown(self._source.path, path) in self._unread
            return unread or (there, "unwritable") in self._unset
        return (there, what) in self._unset or (self._any_unset and what in self._codes)


def _by_code(restored: RestoreResult) -> list[Warning]:
    """One for each kind of thing that the caller may not set, however many files it is about."""
    found: dict[str, list[Warning]] = {}
    for each in restored.warnings:
        found.setdefault(each.code, []).append(each)
    kept = restored.warnings_total <= len(restored.warnings)
    return [
        Warning(
            same[0].path, code,
            f"{same[0].message}; {len(same)}{'' if kept else ' or more'} of this kind",
        )
        for code, same in found.items()
    ]  # fmt: skip


def _shown(root: bytes, path: bytes) -> str:
    """As warnings have it."""
    return (os.path.join(root, path) if path else root).decode(errors="backslashreplace")


def _speed(size: int, seconds: float) -> float:
    return round(size / seconds) if seconds else 0.0
