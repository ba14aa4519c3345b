"""Named places at which a run can be made to fail, and a program that has one of them armed.

    python -m tests.faults.failpoints NAME ACTION NUMBER MARKER transfer-arguments...

At the *NUMBER*th time that it comes by NAME, it makes the file MARKER and does ACTION: `kill` (-9),
`enospc` or `eio` (the place raises that), or `short` (a write takes half of what it was given). A
place is a function of the program, before it begins or after it has ended; the program itself knows
nothing of them.
"""

import asyncio
import errno
import functools
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from transfer.pipeline import tasks, write_tasks

ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO}
ACTIONS = ("kill", *ERRORS)


class Place(NamedTuple):
    """*function* is `module:qualified name`; *role* is who runs it."""

    role: str
    function: str
    when: str

    @property
    def name(self) -> str:
        return f"{self.when}-{self.function.partition(':')[2]}-{self.role}"


def _places(role: str, module: str, *names: str) -> list[Place]:
    return [Place(role, f"{module}:{name}", when) for name in names for when in ("before", "after")]


BACKUP = [
    *_places("client", "transfer.jobs.journal", "RunJournal.begin", "RunJournal._note",
             "RunJournal.post", "RunJournal.end"),
    *_places("client", "transfer.jobs.agent", "Agent.remember_head"),
    *_places("vault", "transfer.vault.stored", "StoredVault.open_session", "StoredVault.have",
             "StoredVault.store", "StoredVault.commit", "StoredVault.end_session"),
    *_places("vault", "transfer.vault.open_pack", "OpenPack.append", "OpenPack.sync",
             "OpenPack.confirm", "OpenPack.close"),
    *_places("vault", "transfer.vault.frames", "put_frames", "note_pack",
             "FrameStore._complete"),
    *_places("vault", "transfer.vault.ledger", "Ledger._enter"),
    *_places("vault", "transfer.vault.adoption", "enter_point"),
    *_places("vault", "transfer.vault.sessions", "Sessions.end"),
    *_places("vault", "transfer.vault.objects", "write_durably"),
    *_places("vault", "transfer.vault.durable", "sync_directory"),
    *_places("worker", "transfer.pipeline.tasks", "look_into", "list_directory", "scan_names",
             "read_files", "read_blocks", "seal_kept", "seal_nodes", "seal_point"),
]  # fmt: skip
QCOW2 = [
    *_places("client", "transfer.sources.qcow2", "_File.add", "_File.remove"),
    *_places("client", "transfer.sources.qemu", "mark_end", "_connected"),
]  # fmt: skip
REFLINK = [
    *_places("client", "transfer.sources.reflinked", "Copies._made", "Copies.commit"),
    *_places("client", "transfer.sources.reflink", "clone"),
]  # fmt: skip
RESTORE = [
    *_places("client", "transfer.jobs.unfinished", "RestoreMark.begin", "RestoreMark.end"),
    *_places("client", "transfer.targets.image", "ImageTarget.finish", "publish"),
    *_places("client", "transfer.vault.stored", "StoredVault.fetch"),
    *_places("worker", "transfer.pipeline.directory_tasks", "enter_directory",
             "finish_directory"),
    *_places("worker", "transfer.pipeline.write_tasks", "write_small", "create_large",
             "write_blocks", "finish_large", "make_special", "write_image", "sync_target"),
    *_places("client", "transfer.targets.names", "rename_new"),
    *_places("worker", "transfer.targets.names", "rename_new"),
]  # fmt: skip


def armed() -> list[str]:
    return os.environ["TRANSFER_TEST_FAILPOINT"].split("|")


def arm(place: Place, action: str, number: int, marker: Path) -> None:
    owner, name = _find(place.function)
    setattr(
        owner, name, _wrapped(getattr(owner, name), place.when, _strike(action, number, marker))
    )


def _find(function: str) -> tuple[Any, str]:
    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(module)
    *owners, name = path.split(".")
    for each in owners:
        owner = getattr(owner, each)
    return owner, name


def _strike(action: str, number: int, marker: Path) -> Any:
    calls = 0

    def strike() -> None:
        nonlocal calls
        calls += 1
        if calls != number or marker.exists():  # one process alone
            return
        marker.touch()
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(ERRORS[action], os.strerror(ERRORS[action]), "failpoint")

    return strike


def _wrapped(real: Any, when: str, strike: Any) -> Any:
    if asyncio.iscoroutinefunction(real):

        @functools.wraps(real)
        async def later(*given: Any, **named: Any) -> Any:
            if when == "before":
                strike()
            answer = await real(*given, **named)
            if when == "after":
                strike()
            return answer

        return later

    @functools.wraps(real)
    def call(*given: Any, **named: Any) -> Any:
        if when == "before":
            strike()
        answer = real(*given, **named)
        if when == "after":
            strike()
        return answer

    return call


def shorten(number: int, marker: Path) -> None:
    """The *number*th write takes half of its bytes."""
    real, calls = os.pwrite, 0

    def pwrite(fd: int, raw: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls != number or len(raw) < 2:
            return real(fd, raw, offset)
        marker.touch()
        return real(fd, memoryview(raw)[: len(raw) // 2], offset)

    os.pwrite = pwrite  # type: ignore[assignment]


def read_tools(*arguments: Any) -> Any:
    """What a worker prepares itself with, once its place is armed."""
    _arm_here()
    return tasks.Tools(*arguments)


def write_tools(*arguments: Any) -> Any:
    _arm_here()
    return write_tasks.WriteTools(*arguments)


def _arm_here() -> None:
    role, function, when, action, number, marker = armed()
    arm(Place(role, function, when), action, int(number), Path(marker))


def main(words: list[str]) -> int:
    name, action, number, marker, *rest = words
    quick_keyrings()
    if name == "short-write":
        shorten(int(number), Path(marker))
    else:
        place = next(each for each in (*BACKUP, *QCOW2, *REFLINK, *RESTORE) if each.name == name)
        os.environ["TRANSFER_TEST_FAILPOINT"] = "|".join((*place, action, number, marker))
        if place.role == "worker" and place in BACKUP:
            tasks.Tools = _named(read_tools)  # type: ignore[misc]
        elif place.role == "worker":
            write_tasks.WriteTools = _named(write_tools)  # type: ignore[misc]
        else:
            arm(place, action, int(number), Path(marker))
    from transfer.cli.main import main as run

    return run(rest)


def _named(tools: Any) -> Any:
    """As it is called where a worker imports it, and not in `__main__`."""
    return getattr(importlib.import_module("tests.faults.failpoints"), tools.__name__)


def quick_keyrings() -> None:
    from transfer.crypto import wrap

    wrap.MEMORY, wrap.PASSES = 19 * 1024, 1  # type: ignore[misc]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
