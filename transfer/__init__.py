"""A backup transfer engine and the vault behind it.

    async with transfer.connect(vault="/mnt/vault", passphrase=...) as client: ...

docs/library.md is the library on one page. Importing this costs nothing: what a name needs is
imported when the name is used.
"""

from typing import TYPE_CHECKING

from transfer import errors

if TYPE_CHECKING:
    from transfer.jobs.backup import BackupResult
    from transfer.jobs.points import EntriesResult, EntrySummary, PointsResult, PointSummary
    from transfer.jobs.restore import RestoreResult
    from transfer.library import Client, Progress, Run, connect

__version__ = "0.1.0"
__all__ = [
    "BackupResult",
    "Client",
    "EntriesResult",
    "EntrySummary",
    "PointSummary",
    "PointsResult",
    "Progress",
    "RestoreResult",
    "Run",
    "connect",
    "errors",
]

_HOMES = {
    "transfer.library": {"Client", "Progress", "Run", "connect"},
    "transfer.jobs.backup": {"BackupResult"},
    "transfer.jobs.points": {"EntriesResult", "EntrySummary", "PointSummary", "PointsResult"},
    "transfer.jobs.restore": {"RestoreResult"},
}

if not TYPE_CHECKING:  # or a checker would believe in every name

    def __getattr__(name):
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(home), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
