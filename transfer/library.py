"""The library: an asyncio program's own backups and restores.

    async with transfer.connect(vault="/mnt/vault", passphrase=...) as client:
        async with client.backup("etc", ["/etc"]) as run:
            async for progress in run:
                print(progress.phase, progress.bytes_done)
            result = await run.result()

A run lives as long as its block: whoever leaves it early, in whatever way, cancels the run and
waits until nothing of it is left. What it sent stays in the vault, and the next run goes on from
there. What is imported late takes a tenth of a second, and `import transfer` shall not.
"""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import (
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, get_args

from transfer.errors import UsageError
from transfer.jobs.progress import Progress as Numbers
from transfer.policy.rates import PAUSED, parse_rate
from transfer.waiting import to_the_end

if TYPE_CHECKING:
    from transfer.jobs.agent import Agent
    from transfer.jobs.backup import BackupResult
    from transfer.jobs.limits import RunLimits
    from transfer.jobs.opening import Secret
    from transfer.jobs.points import EntriesResult, PointsResult
    from transfer.jobs.restore import RestoreResult
    from transfer.throttle.dispatch import ClassName

T = TypeVar("T")
Name = str | bytes | os.PathLike[str]
Text = str | Callable[[], str | Awaitable[str]]
"""A secret, or a function that fetches it; it may be a coroutine function."""
Rate = str | int | None
"""As `--up` has it ("8Mbit", "off"), or bytes a second; None is no limit of this run's own."""
Job = Callable[["Agent", Numbers], Awaitable[T]]
Compression = Literal["auto", "fast", "better", "off"]
Check = Literal["all", "sampled"]
Overwrite = Literal["never", "changed", "always"]
Owner = Literal["number", "name", "none"]
MOST = 64  # workers, connections or weight
_EVERY = 0.5  # seconds between two snapshots


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run was at one moment. No number ever goes back."""

    phase: str
    bytes_done: int
    bytes_total: int
    """0, or less than what is done, where nobody knows; of a partial restore that of the point."""
    files_done: int
    bytes_sent: int
    warnings_total: int

    @property
    def fraction(self) -> float | None:
        """From 0 to 1; None where nobody knows."""
        if not self.bytes_total or self.bytes_total < self.bytes_done:
            return None
        return self.bytes_done / self.bytes_total


class Run(Generic[T]):
    """A backup, restore or verification; it goes on while the block lasts, watched or not.

    A run is entered once. Iterating gives snapshots, as `progress` does.
    """

    def __init__(
        self, name: str, work: Callable[[Numbers], Coroutine[Any, Any, T]],
        running: "set[asyncio.Task[Any]]",
    ) -> None:  # fmt: skip
        self._name, self._work, self._running = name, work, running
        self._numbers = Numbers()
        self._begun: asyncio.Task[T] | None = None
        self._heard = False

    async def __aenter__(self) -> Self:
        if self._begun is not None:
            raise RuntimeError(f"{self._name} was begun before: ask the client for another run")
        self._begun = asyncio.create_task(self._work(self._numbers), name=self._name)
        self._running.add(self._begun)
        self._begun.add_done_callback(self._running.discard)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        task = self._task
        await _cancelled({task})
        failure = None if task.cancelled() else task.exception()
        if failure is not None and error is None and not self._heard:
            raise failure

    async def result(self) -> T:
        """Wait for the end; raises what the run failed with.

        Whoever stops waiting, as in `asyncio.timeout`, does not stop the run. A run that was
        cancelled raises CancelledError, as a task does.
        """
        await asyncio.wait({self._task})
        self._heard = True
        return self._task.result()

    def progress(self, every: float = _EVERY) -> AsyncIterator[Progress]:
        """Snapshots: one at once, then at most one in *every* seconds, and a last one at the end.

        They end with the run, also when it fails. Nothing is kept for whoever does not look.
        """
        return _Snapshots(self._task, self._numbers, every)

    def __aiter__(self) -> AsyncIterator[Progress]:
        return self.progress()

    @property
    def _task(self) -> "asyncio.Task[T]":
        if self._begun is None:
            raise RuntimeError(f"{self._name} has not begun: enter it with `async with`")
        return self._begun


class _Snapshots:
    """No generator: one of those would still have to be closed when its loop is left."""

    def __init__(self, task: "asyncio.Task[Any]", numbers: Numbers, every: float) -> None:
        if not 0 <= every <= 3600:
            raise UsageError(f"a snapshot every {every} seconds", "from 0 to 3600")
        self._task, self._numbers, self._every = task, numbers, every
        self._due, self._ended = 0.0, False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Progress:
        if self._ended:
            raise StopAsyncIteration
        now = asyncio.get_running_loop().time
        # Always a turn of the loop, also for a reader that is slower than the snapshots.
        await asyncio.wait({self._task}, timeout=max(0.0, self._due - now()))
        self._due, self._ended = now() + self._every, self._task.done()
        numbers = self._numbers
        return Progress(
            numbers.phase, numbers.bytes_done, numbers.bytes_total, numbers.files_done,
            numbers.bytes_sent, numbers.warnings_total,
        )  # fmt: skip


async def _cancelled(tasks: "set[asyncio.Task[Any]]") -> None:
    """Cancel *tasks*, once, and wait until they have ended; a cancellation meanwhile goes on then.

    What a run does on its way out must not be interrupted by whoever is in a hurry.
    """
    pending = {task for task in tasks if task.cancel()}
    if pending:
        await to_the_end(asyncio.wait(pending))


class Client:
    """A vault, open with this machine's keys; `connect` makes one.

    The methods only describe a run; it begins when its block is entered. Runs may overlap, but for
    two backups of one item: the second fails with ItemBusy. A wrong argument raises UsageError at
    once. *workers* is a number of processes (0: threads of this one; None: one for each core).
    *up* and *down* limit one run with a vault over the network; of the machine's limits it gets
    its part by *weight*, beside other runs, and a restore twice as much as a backup.
    """

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def backup(
        self, item: str, paths: Iterable[Name] | Name, *, exclude: Iterable[Name] | Name = (),
        exclude_caches: bool = False, one_file_system: bool = False, block_size: int = 2**20,
        compression: Compression = "auto", full: bool = False, dry_run: bool = False,
        workers: int | None = None, up: Rate = None, weight: int | None = None,
        check: Check = "all",
    ) -> "Run[BackupResult]":  # fmt: skip
        """Make a recovery point of *paths*: directories, or files and block devices as images.

        With *check* "sampled" one block in 16 is opened again in full before it is sent.
        """
        from transfer.jobs import backup as job

        options = job.BackupOptions(
            item, [os.fsdecode(path) for path in _paths(paths)],
            _names(exclude), exclude_caches, one_file_system, block_size,
            _one_of("compression", compression, Compression), full, dry_run,
            _number("workers", workers, 0), check=_one_of("check", check, Check),
        )  # fmt: skip
        return self._run(
            f"backup of {item}", lambda agent, numbers: job.backup(agent, options, numbers),
            _limits("backup", up=up, weight=weight),
        )  # fmt: skip

    def restore(
        self, item: str, to: Name, *, paths: Iterable[Name] | Name | None = None,
        include: Iterable[Name] | Name = (), overwrite: Overwrite = "never",
        owner: Owner = "number", dry_run: bool = False, workers: int | None = None,
        down: Rate = None, weight: int | None = None,
    ) -> "Run[RestoreResult]":  # fmt: skip
        """Give [MACHINE/]ITEM[@POINT] back below *to*, or only *paths*, as `entries` names them.

        What is damaged in the vault is no error: all else comes back, and the result's `damaged`
        names it.
        """
        from transfer.jobs import restore as job

        options = job.RestoreOptions(
            item, Path(os.fsdecode(to)), [] if paths is None else _paths(paths),
            _names(include), _one_of("overwrite", overwrite, Overwrite),
            _one_of("owner", owner, Owner), dry_run, _number("workers", workers, 0),
        )  # fmt: skip
        return self._run(
            f"restore of {item}", lambda agent, numbers: job.restore(agent, options, numbers),
            _limits("restore", down=down, weight=weight),
        )  # fmt: skip

    def verify(
        self, item: str, *, sample: float = 1.0, workers: int | None = None, down: Rate = None,
        weight: int | None = None,
    ) -> "Run[RestoreResult]":  # fmt: skip
        """Open all nodes of [MACHINE/]ITEM[@POINT] and that share of its blocks; write nothing.

        Damage is no error: the result's `damaged` names it.
        """
        from transfer.jobs import restore as job

        if not 0 < sample <= 1:
            raise UsageError(f"a sample of {sample}", "more than 0, and at most 1 for all blocks")
        number = _number("workers", workers, 0)
        return self._run(
            f"verification of {item}",
            lambda agent, numbers: job.verify(agent, item, numbers, number, sample),
            _limits("restore", down=down, weight=weight),
        )  # fmt: skip

    async def points(self, item: str | None = None) -> "PointsResult":
        """The recovery points of [MACHINE/]ITEM or of all items, of each the oldest first."""
        from transfer.jobs import points as job

        return await self._ask("points", lambda agent, _: job.list_points(agent, item))

    async def entries(self, item: str, path: Name = b"") -> "EntriesResult":
        """What is in the directory *path* of [MACHINE/]ITEM[@POINT]. Raises NotFound."""
        from transfer.jobs import points as job

        name = os.fsencode(path)
        return await self._ask("entries", lambda agent, _: job.list_entries(agent, item, name))

    async def _ask(self, name: str, job: "Job[T]") -> T:
        async with self._run(name, job, _limits("backup")) as run:
            return await run.result()

    def _run(self, name: str, job: "Job[T]", limits: "RunLimits") -> Run[T]:
        from transfer.jobs.limits import limited

        async def work(numbers: Numbers) -> T:
            if self._closed:
                raise RuntimeError(f"{name}: the client's block was left")
            with _own_errors():
                async with limited(self._agent, limits) as agent:
                    return await job(agent, numbers)

        return Run(name, work, self._running)

    async def _close(self) -> None:
        """Whatever still runs in other tasks must end before the vault is closed."""
        self._closed = True
        await _cancelled(self._running.copy())


@asynccontextmanager
async def connect(
    *, vault: Name | None = None, state: Name | None = None, passphrase: Text | None = None,
    passphrase_file: Name | None = None, recovery_key: Text | None = None,
    recovery_key_file: Name | None = None, create: bool = False, connections: int | None = None,
) -> AsyncIterator[Client]:  # fmt: skip
    """Open the vault in the directory *vault*, or the one that this machine is registered with.

    One of the four secrets opens its keyring. *state* is what this machine remembers (default: as
    of the command line). Only with *create* a missing or empty directory becomes a vault: an
    unmounted disk should be an error. *connections* are to a vault over the network (None: auto).
    """
    from transfer.jobs.agent import limits_nothing
    from transfer.jobs.opening import Reach, default_state, open_agent

    directory = None if vault is None else Path(os.fsdecode(vault))
    reach = Reach(_number("connections", connections, 1))
    if directory is not None and connections is not None:
        raise limits_nothing("connections", directory)
    where = default_state() if state is None else Path(os.fsdecode(state))
    secret = await _secret(passphrase, passphrase_file, recovery_key, recovery_key_file)
    async with AsyncExitStack() as stack:
        with _own_errors():
            agent = await stack.enter_async_context(
                open_agent(where, directory, secret, create=create, reach=reach)
            )
        client = Client(agent)
        stack.push_async_callback(client._close)
        yield client


def _limits(
    name: "ClassName", up: Rate = None, down: Rate = None, weight: int | None = None
) -> "RunLimits":
    from transfer.jobs.limits import RunLimits

    return RunLimits(_rate("up", up), _rate("down", down), _number("weight", weight, 1), name)


def _rate(name: str, value: Rate) -> int | None:
    rate = parse_rate(value) if isinstance(value, str) else value
    if rate is not None and rate <= PAUSED:
        raise UsageError(f"{name}={value!r}: a run cannot be paused for good", "leave it out")
    return rate


async def _secret(
    passphrase: Text | None, passphrase_file: Name | None, recovery_key: Text | None,
    recovery_key_file: Name | None,
) -> "Secret":  # fmt: skip
    from transfer.jobs.opening import Secret
    from transfer.jobs.secret_files import read_secret, read_text

    if sum(each is not None for each in
           (passphrase, passphrase_file, recovery_key, recovery_key_file)) != 1:  # fmt: skip
        raise UsageError(
            "one secret opens the keyring",
            "give one of passphrase, passphrase_file, recovery_key, recovery_key_file",
        )
    if passphrase_file is not None:
        given = await asyncio.to_thread(read_secret, Path(os.fsdecode(passphrase_file)))
        return Secret(lambda _: given)
    if passphrase is not None:
        given = await _fetched(passphrase)
        return Secret(lambda _: given)
    if recovery_key_file is not None:
        recovery_key = await asyncio.to_thread(read_text, Path(os.fsdecode(recovery_key_file)))
    assert recovery_key is not None
    return Secret(lambda _: "", await _fetched(recovery_key))


async def _fetched(text: Text) -> str:
    given = text if isinstance(text, str) else text()
    return await given if inspect.isawaitable(given) else given


@contextmanager
def _own_errors() -> Iterator[None]:
    """What the system says of its own state, as the error of this package that stands for it."""
    from transfer.jobs.failures import ours

    try:
        yield
    except Exception as error:
        known = ours(error)
        if known is None or known is error:
            raise
        raise known from error


def _paths(paths: Iterable[Name] | Name) -> list[bytes]:
    """None at all are refused: to a restore they would mean everything."""
    found = _names(paths)
    if not found:
        raise UsageError("paths is empty", "name at least one path")
    return found


def _names(names: Iterable[Name] | Name) -> list[bytes]:
    """One name is a list of one, and not of its letters."""
    if isinstance(names, str | bytes | os.PathLike):
        names = [names]
    return [os.fsencode(name) for name in names]


def _one_of(name: str, value: str, choices: Any) -> str:
    if value not in get_args(choices):
        raise UsageError(f"{name}={value!r}", "one of " + ", ".join(get_args(choices)))
    return value


def _number(what: str, number: int | None, least: int) -> int | None:
    if number is not None and not least <= number <= MOST:
        raise UsageError(f"{number} {what}", f"from {least} to {MOST}")
    return number
