"""A guest whose file systems stand still for a moment, by its guest agent.

The process that holds the agent's socket is another one, `freeze_watch`: it thaws when this one
says so, dies, or takes too long. If it is itself killed, this one thaws.
"""

import asyncio
import sys
from types import TracebackType
from typing import Self

from transfer.sources import freeze_watch
from transfer.waiting import to_the_end

_READY = 30.0  # seconds: the watch connects for ten and synchronises for as many
_ENDING = 90.0  # seconds: the watch tries for a minute


class Frozen:
    """`async with` it: the guest is frozen inside, for *seconds* at most, if that can be had.

    Afterwards *is_quiet* tells whether it was frozen all the time, and *why* not. No guest agent is
    no error: the disks are then as after a power cut.
    """

    def __init__(self, socket: str, seconds: float) -> None:
        self._socket, self._seconds = socket, seconds
        self._process: asyncio.subprocess.Process | None = None
        self._count, self._may_be_frozen = 0, False
        self.is_quiet, self.why = False, ""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", freeze_watch.__file__, self._socket, str(self._seconds),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_READY):
                said = await self._heard()
            if said == "ready":
                await self._freeze(self._process)
        except TimeoutError:  # nothing is frozen: it was not told to
            self.why = "the process that was to watch over it was not ready in time"
            self._process.kill()
        except BaseException:
            await to_the_end(self._thaw())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await to_the_end(self._thaw())

    async def _freeze(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        self._may_be_frozen = True
        process.stdin.write(b"freeze\n")
        word, _, rest = (await self._heard()).partition(" ")
        if word == "frozen":
            self._count = int(rest)
        elif word == "refused":
            self.why, self._may_be_frozen = rest, False

    async def _thaw(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_ENDING):
                while said := await self._heard():
                    if said.startswith(("thawed ", "late ")):
                        self._judge(said)
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._may_be_frozen:
            await self._thaw_ourselves()

    def _judge(self, said: str) -> None:
        word, _, count = said.partition(" ")
        self._may_be_frozen = False
        self.is_quiet = word == "thawed" and self._count > 0 and int(count) > 0
        if self.is_quiet or self.why:
            return
        self.why = "none of its file systems can be frozen, or somebody else thawed them"
        if word == "late":
            self.why = f"it was thawed after {self._seconds:g} seconds"

    async def _thaw_ourselves(self) -> None:
        self._may_be_frozen = False
        self.why = self.why or "the process that watched over it was killed"
        try:
            await asyncio.to_thread(freeze_watch.thaw, self._socket)
        except freeze_watch.AgentError as error:
            self.why = f"it may be frozen still, for it could not be thawed: {error}"

    async def _heard(self) -> str:
        """The next line; empty at the end."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode().strip()
        if line.startswith("failed "):
            self.why = self.why or line.removeprefix("failed ")
        return line
