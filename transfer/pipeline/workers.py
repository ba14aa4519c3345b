"""A pool of workers that read, hash, seal and open, out of the event loop's way.

Workers are programs of their own, started without fork: they inherit two descriptors and nothing
else, and a host that embeds this package needs no `__main__` guard. Results that are large go
through a slot, memory that worker and parent share and that dies with its last user.

Memory: at most workers * (lanes * slot_size + base), where base is what a Python process with the
functions' modules takes (about 20 MiB of its own). Slots take memory from their first use on, and
the lane that was used last is used first. With workers=0 there are two threads, and base is 0.
A lost worker's slots stay until the leases that hold them end.
"""

import asyncio
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from transfer.errors import WorkerLost
from transfer.pipeline.activity import Activity
from transfer.pipeline.thread_workers import ThreadWorker
from transfer.pipeline.worker_process import (
    HEADER,
    MAX_MESSAGE,
    SLOT_SIZE,
    Lane,
    decode_answer,
    encode_message,
    unnamed_file,
)

__all__ = ["SLOT_SIZE", "Lane", "Leased", "Pool"]

P = ParamSpec("P")
R = TypeVar("R")
MAX_RESTARTS = 3  # in a row, without a finished call between them
_TRIES = 3
_THREADS = 2
_PATIENCE = 2.0  # seconds that a worker has to end by itself
_ROOT = str(Path(__file__).parents[2])


class ProcessWorker:
    """A process that runs `transfer.pipeline.worker_process`, seen from its parent."""

    def __init__(
        self, prepare: Callable[..., Any], arguments: tuple[Any, ...], lanes: int, slot_size: int
    ) -> None:
        setup = [(sys.path, lanes, slot_size), (prepare, arguments)]
        messages = b"".join(encode_message(0, part) for part in setup)
        self._memory, self._process, self._socket = _start(lanes * slot_size)
        view = memoryview(self._memory)
        self.slots = [view[n * slot_size : (n + 1) * slot_size] for n in range(lanes)]
        self.free = list(range(lanes))
        self.lost, self.spent = False, (0.0, 0.0)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._in, self._out = bytearray(), bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._receive)
        self._send(messages)

    def submit(
        self, lane: int, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> asyncio.Future[Any]:
        """The answer to come; it always does, if only as WorkerLost. Nobody may cancel it."""
        if function.__module__ == "__main__":
            raise TypeError(f"{function.__qualname__} stands in the main program: not importable")
        self._count += 1
        message = encode_message(self._count, (lane, function, args, kwargs))
        answer = self._pending[self._count] = self._loop.create_future()
        self._send(message)
        return answer

    def forget(self, lane: int) -> None:
        """Empty the lane's *kept*, after all that was submitted before."""
        self._send(encode_message(0, (lane,)))

    async def close(self) -> None:
        """End the worker, whatever it does; nothing of it is left, also when this is cancelled."""
        self._hang_up("its pool was closed")
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._process.poll() is None:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pass
        finally:
            self._reap()
            with suppress(BufferError):  # somebody holds a slice; the collector gets them both
                for slot in self.slots:
                    slot.release()
                self._memory.close()

    def _send(self, message: bytes) -> None:
        if self.lost:
            self._hang_up("it had ended before")
            return
        self._out += message
        self._flush()

    def _flush(self) -> None:
        try:
            del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._lose()
            return
        if self._out:
            self._loop.add_writer(self._socket, self._flush)
        else:
            self._loop.remove_writer(self._socket)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(2**18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        if not data or not self._take_answers():
            self._lose()

    def _take_answers(self) -> bool:
        """Settle what has come in whole; false when it makes no sense."""
        while len(self._in) >= HEADER.size:
            length, number = HEADER.unpack_from(self._in)
            if length > MAX_MESSAGE or number not in self._pending:
                return False
            end = HEADER.size + length
            if len(self._in) < end:
                break
            fine, value, spent = decode_answer(bytes(self._in[HEADER.size : end]))
            self.spent = spent or self.spent
            del self._in[:end]
            answer = self._pending.pop(number)
            answer.set_result(value) if fine else answer.set_exception(value)
        return True

    def _lose(self) -> None:
        with suppress(subprocess.TimeoutExpired):  # its end is near: the socket closes just before
            self._process.wait(0.1)
        self._reap()
        self._hang_up(f"it ended with status {self._process.returncode}")

    def _hang_up(self, reason: str) -> None:
        if not self.lost:
            self.lost = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        error = f"worker process {self._process.pid} is lost: {reason}"
        for answer in self._pending.values():
            answer.set_exception(WorkerLost(error))
        self._pending.clear()

    def _reap(self) -> None:
        self._process.kill()
        # Only a process stuck in the kernel outlives this; it must not take the loop with it.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)


def _start(size: int) -> tuple[mmap.mmap, subprocess.Popen[bytes], socket.socket]:
    """A worker's memory, its process, and our end of its socket."""
    with unnamed_file() as memory_file:
        os.ftruncate(memory_file.fileno(), size)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            handed = (theirs.fileno(), memory_file.fileno())
            numbers = [str(number) for number in (*handed, os.getpid())]
            # Not in a thread: the kernel ends the worker when the *thread* that made it ends.
            process = subprocess.Popen(
                # -P: a module in the current directory must never run in our name.
                [sys.executable, "-P", "-m", "transfer.pipeline.worker_process", *numbers],
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the parent's is for results
                env={**os.environ, "PYTHONPATH": _ROOT},
                process_group=0,  # a terminal's Ctrl-C is for the parent to decide on
            )
        return mmap.mmap(memory_file.fileno(), size), process, ours


Worker = ProcessWorker | ThreadWorker


class Leased:
    """A lane of one worker, for as long as the lease lasts.

    *slot* is the worker's memory. It belongs to the function while a call runs, and to the caller
    between calls. It must not be used after the lease; slices of it that are still about then
    show what the next lease writes.
    """

    def __init__(
        self, worker: Worker, lane: int, finished: Callable[[], None], activity: Activity
    ) -> None:
        self.slot = memoryview(worker.slots[lane])
        self._worker, self._lane, self._finished = worker, lane, finished
        self._activity = activity
        self._pending: set[asyncio.Future[Any]] = set()
        self._after: Callable[[], None] | None = None

    async def call(
        self, function: Callable[Concatenate[Lane[Any], P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run function(lane, *args) in the worker; its exceptions come back as themselves.

        *function* must be importable by its name. Raises WorkerLost when the worker died; a
        lease does not recover from that. A cancelled call runs on in the worker, unheard.
        """
        if self._after is not None:
            raise ValueError("the lease has ended")
        answer = self._worker.submit(self._lane, function, args, kwargs)
        self._pending.add(answer)
        self._activity.works(1)
        answer.add_done_callback(self._answered)
        result: R = await asyncio.shield(answer)
        return result

    def end(self, after: Callable[[], None]) -> None:
        """Give the lane back; *after* is called once no function can write to its slot."""
        self._after = after
        with suppress(BufferError):  # a slice is still held; the collector gets them both
            self.slot.release()
        self._worker.forget(self._lane)
        if not self._pending:
            after()

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        self._pending.discard(answer)
        self._activity.works(-1)
        if not answer.cancelled() and not isinstance(answer.exception(), WorkerLost):
            self._finished()
        if self._after is not None and not self._pending:
            self._after()


class Pool:
    """Workers, and leases of their lanes.

    *prepare* makes a worker's tools from *arguments*, in the worker; both are pickled. When it
    raises, every call raises the same.
    """

    def __init__(
        self,
        workers: int,
        prepare: Callable[..., Any],
        arguments: tuple[Any, ...] = (),
        *,
        lanes: int = 3,
        slot_size: int = SLOT_SIZE,
    ) -> None:
        if workers < 0 or lanes < 1 or slot_size < 1:
            raise ValueError(f"no pool has {workers=} {lanes=} {slot_size=}")
        self._kind = ProcessWorker if workers else ThreadWorker
        self._size = workers or _THREADS
        self._setup = prepare, arguments, lanes, slot_size
        self.lanes = self._size * lanes
        self.activity = Activity(self._size)
        self._free = asyncio.Semaphore(self.lanes)
        self._workers: list[Worker] = []
        self._restarts = 0

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._size):
                self._workers.append(self._kind(*self._setup))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Leased]:
        """Wait for a free lane, of the worker that has most of them, and hold it.

        Raises WorkerLost when workers keep dying without ever finishing a call.
        """
        await self._free.acquire()
        try:
            worker = self._least_loaded()
        except BaseException:
            self._free.release()
            raise
        lane = worker.free.pop()
        leased = Leased(worker, lane, self._finished, self.activity)

        def give_back() -> None:
            worker.free.append(lane)
            self._free.release()

        try:
            yield leased
        finally:
            leased.end(give_back)

    async def run(self, work: Callable[[Leased], Awaitable[R]]) -> R:
        """Do *work* with a lane, and again with another one when its worker dies in the middle."""
        for left in reversed(range(_TRIES)):
            try:
                async with self.lease() as worker:
                    return await work(worker)
            except WorkerLost:
                if not left:
                    raise
        raise AssertionError

    async def call(
        self, function: Callable[Concatenate[Lane[Any], P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """One call that needs no lane of its own before or after; it may be run twice."""
        return await self.run(lambda worker: worker.call(function, *args, **kwargs))

    def _least_loaded(self) -> Worker:
        """A worker with a free lane; a lost one is replaced only now that it is needed."""
        for place, worker in enumerate(self._workers):
            if worker.lost and self._restarts < max(MAX_RESTARTS, self._size):
                self._restarts += 1
                self._workers[place] = self._kind(*self._setup)
                break
        able = [worker for worker in self._workers if worker.free and not worker.lost]
        if not able:
            raise WorkerLost(
                f"workers ended {self._restarts + 1} times without finishing a call",
                "see the system log: the memory may be too small, or a library crashes",
            )
        return max(able, key=lambda worker: len(worker.free))

    @property
    def spent(self) -> tuple[float, float]:
        """(computing, blocked) seconds of the workers' calls that have ended, all together."""
        found = [worker.spent for worker in self._workers]
        return sum(each[0] for each in found), sum(each[1] for each in found)

    def _finished(self) -> None:
        self._restarts = 0

    async def _close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.close())
