"""QEMU's programs: `qemu-img` for what is in a file, `qemu-nbd` to read it.

They are run without a shell and with a closed standard input. What they say goes wrong is an error
of ours, with their words.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from transfer.errors import SourceUnavailable, TransferError, UsageError, ViewBroken
from transfer.files.scratch import scratch
from transfer.sources import tied
from transfer.sources.nbd import NbdClient
from transfer.sources.nbd_address import NbdAddress
from transfer.waiting import to_the_end

EXPORT = b"disk"
END = "end"  # the name of a bitmap
_PATIENCE = 20.0  # seconds to the first answer of a server that was started
_LOOK = 0.005
_ENDING = 5.0  # seconds from SIGTERM to SIGKILL
_LOCKED = "Failed to get"  # a lock: another process has the file open


async def image_tool(*words: str | bytes) -> bytes:
    """What `qemu-img` prints. Raises UsageError, and ViewBroken for a file that is in use."""
    return await _run("qemu-img", *words)


async def _run(program: str, *words: str | bytes) -> bytes:
    process = await _started(program, words, asyncio.subprocess.PIPE)
    try:
        out, errors = await process.communicate()
    finally:
        await to_the_end(_ended(process))
    if process.returncode:
        raise _failure(program, errors)
    return out


async def described(path: bytes) -> list[dict[str, Any]]:
    """The qcow2 file and those behind it, as `qemu-img info` has them."""
    words = ("info", "-f", "qcow2", "--backing-chain", "--output=json", b"--", path)
    try:
        found: list[dict[str, Any]] = json.loads(await image_tool(*words))
    except ValueError as error:
        raise UsageError(f"qemu-img says of {os.fsdecode(path)} what is no JSON") from error
    return found


async def mark_end(path: bytes, size: int, bitmap: str, granularity: int) -> None:
    """Set the last bit of a bitmap in the qcow2 file, without a write to its disk.

    It is merged from a disk of the same size that was written there. One without bytes has no bit.
    """
    if not size:
        return
    with scratch("transfer-qemu-") as place:
        other = os.fsencode(place / "disk")
        await image_tool("create", "-q", "-f", "qcow2", b"--", other, str(size))
        await add_end(other, size, granularity)
        await image_tool(
            "bitmap", "--merge", END, "-b", other, "-F", "qcow2", "-f", "qcow2", b"--", path,
            bitmap,
        )  # fmt: skip


async def add_end(path: bytes, size: int, granularity: int) -> None:
    """Add the bitmap END to an empty disk's qcow2 file: the last of *size* bytes is dirty in it."""
    await image_tool("bitmap", "--add", "-g", str(granularity), "-f", "qcow2", b"--", path, END)
    write = f"write -q -z {(size - 1) // 512 * 512} 512"
    await _run("qemu-io", "-f", "qcow2", "-c", write, path)


@asynccontextmanager
async def served(
    path: bytes, bitmaps: Sequence[str], contexts: Sequence[str]
) -> AsyncIterator[NbdClient]:
    """The qcow2 file read-only behind a socket of ours, which nobody writes to meanwhile.

    The server lives as long as this connection, and ends when this process is killed: as long as it
    is there, nobody may write to the file.
    """
    with scratch("transfer-qemu-") as place:
        socket = os.fsencode(place / "socket")
        words: list[str | bytes] = [
            "-r", "-f", "qcow2", "-x", EXPORT, "-A", "-e", "0", "-k", socket,
            *(word for name in bitmaps for word in ("-B", name)), "--", path,
        ]  # fmt: skip
        process = await _tied("qemu-nbd", words)
        try:
            client = await _connected(process, NbdAddress(EXPORT, socket), contexts)
            try:
                yield client
            finally:
                await to_the_end(client.close())
        finally:
            await to_the_end(_ended(process))


async def _connected(
    process: asyncio.subprocess.Process, address: NbdAddress, contexts: Sequence[str]
) -> NbdClient:
    assert process.stderr is not None
    async with asyncio.timeout(_PATIENCE):
        while process.returncode is None:
            if os.path.exists(address.socket):
                with suppress(SourceUnavailable):  # not listening yet
                    return await NbdClient.connect(address, contexts=contexts)
            await asyncio.sleep(_LOOK)
    raise _failure("qemu-nbd", await process.stderr.read())


async def _tied(program: str, words: Sequence[str | bytes]) -> asyncio.subprocess.Process:
    """Started so that it does not outlive this process, whatever ends that."""
    if shutil.which(program) is None:
        raise _missing(program)
    tie = ("-I", "-S", tied.__file__, str(os.getpid()), program)
    return await _started(sys.executable, [*tie, *words], asyncio.subprocess.DEVNULL)


async def _started(
    program: str, words: Sequence[str | bytes], out: int
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            program, *words, stdin=asyncio.subprocess.DEVNULL, stdout=out,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise _missing(program) from error


def _missing(program: str) -> UsageError:
    return UsageError(f"{program} is not installed", "on Debian: apt install qemu-utils")


async def _ended(process: asyncio.subprocess.Process) -> None:
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(_ENDING):
            await process.wait()
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        await process.wait()


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    # asyncio's own way asks for the process's end, and takes the answer away from its waiter.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _failure(program: str, errors: bytes) -> TransferError:
    said = errors.decode(errors="backslashreplace").strip().removeprefix(f"{program}: ")
    if _LOCKED in said:
        return ViewBroken(
            f"the disk is in use: {said}", "back it up through its machine, or stop that first"
        )
    return UsageError(f"{program}: {said or 'it failed and did not say why'}")
