"""The program that a worker process runs; `transfer.pipeline.workers` starts it.

    python -P -m transfer.pipeline.worker_process SOCKET MEMORY PARENT

SOCKET and MEMORY are inherited descriptors, PARENT is the process ID of who started it. Requests
come over the socket and are run first in first out, in one thread. A message, either way:

    offset  size  field
         0     4  length   of the body, at most MAX_MESSAGE
         4     8  number   of the request that is asked or answered; 0 wants no answer
        12     n  body     pickle

The first message is (sys.path, lanes, slot size), the second (prepare, arguments); both are
numbered 0. Every other is (lane, function, args, kwargs), or (lane,) when the lane's lease has
ended. An answer is (True, result, spent) or (False, exception, spent), where spent is (computing,
blocked) of all calls so far in seconds. Keys come over the socket only: what stands in an argument
or a variable of the environment is everybody's to read.

This module stays free of asyncio and of all else that a worker does not need: what is imported
here is start-up time. Code that runs in workers takes `Lane` and `SLOT_SIZE` from here.
"""

import mmap
import os
import pickle
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Generic, TypeVar, cast

from transfer.errors import TransferError

T = TypeVar("T")
Spent = tuple[float, float]

SLOT_SIZE = 4 * 2**20 + 512 * 2**10  # the largest plain block, its frame's header and child list
MAX_MESSAGE = 16 * 2**20
HEADER = struct.Struct("<IQ")
_PR_SET_PDEATHSIG = 1
_LOOK = 0.05  # seconds


class Lane(Generic[T]):
    """A function's place in a worker: the worker's tools, and memory shared with the parent.

    *kept* is the lease's: it survives from one call to the next, and is emptied at its end.
    """

    __slots__ = ("_room", "kept", "slot", "tools")

    def __init__(self, tools: T, slot: memoryview) -> None:
        self.tools, self.slot = tools, slot
        self.kept: dict[str, Any] = {}
        self._room = bytearray()

    def room(self, size: int) -> memoryview:
        """The worker's own memory, the same for each lease, with whatever stands in it."""
        if len(self._room) < size:
            self._room = bytearray(size)
        return memoryview(self._room)[:size]


class Stopwatch:
    """Seconds that one thread computed, or waited for a core to; and in which it was blocked.

    The system tells of waits for a core in a file, whose reading costs more than many a call takes:
    that is looked at now and then, for all calls since.
    """

    def __init__(self) -> None:
        self.computing = self.blocked = 0.0
        self._delays: int | None = None
        self._looked, self._delayed_before, self._blocked_before = 0.0, 0.0, 0.0

    @property
    def spent(self) -> Spent:
        return self.computing, self.blocked

    def start(self) -> Spent:
        return time.monotonic(), time.thread_time()

    def stop(self, began: Spent) -> None:
        now = time.monotonic()
        wall = now - began[0]
        computing = min(wall, time.thread_time() - began[1])
        self.computing += computing
        self.blocked += wall - computing
        if now - self._looked >= _LOOK:
            self._looked = now
            self._look()

    def _look(self) -> None:
        delayed = self._delayed()
        waited = min(delayed - self._delayed_before, self.blocked - self._blocked_before)
        self.computing += waited
        self.blocked -= waited
        self._delayed_before, self._blocked_before = delayed, self.blocked

    def _delayed(self) -> float:
        """In which this thread could have run and had no core; 0 where the system does not tell."""
        try:
            if self._delays is None:
                self._delays = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._delays, 64, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def close(self) -> None:
        if self._delays is not None:
            os.close(self._delays)
            self._delays = None


class Workplace:
    """One worker's tools and lanes; used by one thread at a time."""

    def __init__(self, memory: mmap.mmap, lanes: int, slot_size: int) -> None:
        view = memoryview(memory)
        self._slots = [view[n * slot_size : (n + 1) * slot_size] for n in range(lanes)]
        self._lanes: list[Lane[Any]] = []
        self._failure: Exception | None = None
        self.stopwatch = Stopwatch()

    def prepare(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        """Make the tools; where that fails, every run raises what it failed with."""
        try:
            tools = function(*arguments)
        except BaseException as error:
            self.fail(error)
        else:
            self._lanes = [Lane(tools, slot) for slot in self._slots]

    def fail(self, error: BaseException) -> None:
        self._failure = harmless(error)

    def run(
        self,
        lane: int,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if self._failure is not None:
            raise self._failure
        began = self.stopwatch.start()
        try:
            return function(self._lanes[lane], *args, **kwargs)
        except BaseException as error:
            failure = harmless(error)
            if failure is error:
                raise
            raise failure from error
        finally:
            self.stopwatch.stop(began)

    def close(self) -> None:
        """Give back what the tools hold, as descriptors; for a thread, whose end frees nothing."""
        tools = self._lanes[0].tools if self._lanes else None
        self._lanes = []
        self.stopwatch.close()
        if tools is not None and hasattr(tools, "close"):
            tools.close()

    def forget(self, lane: int) -> None:
        if self._lanes:
            self._lanes[lane].kept.clear()


def harmless(error: BaseException) -> Exception:
    """*error*, unless a future or an event loop would take it for an order to stop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    return TransferError(f"a worker's function raised {type(error).__name__}: {error}")


def encode_message(number: int, content: object) -> bytes:
    body = _checked(pickle.dumps(content, pickle.HIGHEST_PROTOCOL))
    return HEADER.pack(len(body), number) + body


def decode_answer(body: bytes) -> tuple[bool, Any, Spent | None]:
    """(True, result, spent) or (False, exception, spent)."""
    try:
        fine, value, spent = pickle.loads(body)
    except Exception as error:
        return False, TransferError(f"a worker's result does not unpickle: {error}"), None
    return fine, value, spent


def encode_answer(value: Any, spent: Spent) -> bytes:
    return _checked(pickle.dumps((True, value, spent), pickle.HIGHEST_PROTOCOL))


def encode_failure(error: Exception, spent: Spent) -> bytes:
    """An answer that will open; what does not survive a pickle goes as its text."""
    import traceback  # costs 5 ms that only failing calls pay

    # The stack ends at the process border; the note carries it across.
    error.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
    try:
        body = _checked(pickle.dumps((False, error, spent), pickle.HIGHEST_PROTOCOL))
        pickle.loads(body)
    except Exception:
        text = f"a worker's function raised {type(error).__name__}: {error}"[:10_000]
        body = pickle.dumps((False, TransferError(text), spent), pickle.HIGHEST_PROTOCOL)
    return body


def _checked(body: bytes) -> bytes:
    if len(body) > MAX_MESSAGE:
        raise TransferError(f"a message of {len(body)} bytes is over the limit; use the slot")
    return body


def receive(stream: BinaryIO) -> tuple[int, bytes] | None:
    """The next message, or None when the other side is gone, be it in the middle of one."""
    try:
        return _receive(stream)
    except ConnectionResetError:  # it went with answers unread
        return None


def _receive(stream: BinaryIO) -> tuple[int, bytes] | None:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length, number = HEADER.unpack(header)
    if length > MAX_MESSAGE:
        raise TransferError(f"a message of {length} bytes is over the limit")
    body = stream.read(length)
    return (number, body) if len(body) == length else None


def unnamed_file() -> BinaryIO:
    """A file in memory where there is such a thing; it goes with its last user."""
    if hasattr(os, "memfd_create"):
        return cast(BinaryIO, open(os.memfd_create("transfer-slots"), "r+b", buffering=0))
    import tempfile

    return cast(BinaryIO, tempfile.TemporaryFile(buffering=0))


def _answer(place: Workplace, body: bytes) -> bytes:
    try:
        lane, function, args, kwargs = pickle.loads(body)
        result = place.run(lane, function, args, kwargs)
        return encode_answer(result, place.stopwatch.spent)
    except BaseException as error:
        return encode_failure(harmless(error), place.stopwatch.spent)


def _set_up(requests: BinaryIO, memory_fd: int) -> Workplace | None:
    first, second = receive(requests), receive(requests)
    if first is None or second is None:
        return None
    sys.path[:], lanes, slot_size = pickle.loads(first[1])  # the functions' modules need it
    place = Workplace(mmap.mmap(memory_fd, lanes * slot_size), lanes, slot_size)
    os.close(memory_fd)
    try:
        place.prepare(*pickle.loads(second[1]))
    except Exception as error:  # its module cannot be imported here
        place.fail(error)
    return place


def serve(requests: BinaryIO, answers: BinaryIO, memory_fd: int) -> None:
    """Answer requests until the parent closes its end, or is no more."""
    place = _set_up(requests, memory_fd)
    while place is not None and (message := receive(requests)) is not None:
        number, body = message
        if number == 0:
            place.forget(pickle.loads(body)[0])
            continue
        answer = _answer(place, body)
        try:
            answers.write(HEADER.pack(len(answer), number) + answer)
            answers.flush()
        except (BrokenPipeError, ConnectionResetError):
            return


def _die_with(parent: int) -> None:
    """A worker that is busy does not look at its socket; the kernel ends it all the same."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the kernel was told.
    if os.getppid() != parent:
        sys.exit(1)


def _dump_no_core() -> None:
    """Keys are in this memory; a crash must not put them on a disk."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    _dump_no_core()
    connection, memory, parent = map(int, sys.argv[1:4])
    # Whoever stops a service signals all its processes; only the parent knows when to stop.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _die_with(parent)
    requests = cast(BinaryIO, open(connection, "rb"))  # noqa: SIM115 - as long as the process
    answers = cast(BinaryIO, open(connection, "wb", closefd=False))  # noqa: SIM115
    serve(requests, answers, memory)
    # No clean-up to wait for; finalizers only meet half a module there.
    os._exit(0)


if __name__ == "__main__":
    # As itself, not as `__main__`: else what workers import as Lane would be another class.
    from transfer.pipeline import worker_process

    worker_process.main()
