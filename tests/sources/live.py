"""A real qemu-storage-daemon, and a guest that writes to its disks all the time."""

import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.acceptance.needs import tool
from tests.acceptance.shell import spawn
from transfer.sources.qmp import Qmp
from transfer.sources.qmp_address import QmpAddress

PAGE = 4096
READ, WRITE, FLUSH, TRIM, ZEROES = 0, 1, 3, 4, 6


class Daemon:
    """Disks d0, d1, ... are qcow2 below throttle nodes top0, top1, ...; each is exported as live0,
    live1, ... *bare* ones have no filter above them, *raw* ones are in the raw format, *idle* ones
    nobody may write. Unless it *serves*, exports are of a kind that needs no NBD server."""

    def __init__(
        self, top: Path, sizes: Sequence[int], raw: Sequence[int] = (), bare: Sequence[int] = (),
        idle: Sequence[int] = (), serves: bool = True,
    ) -> None:  # fmt: skip
        self.top, self.sizes, self.raw, self.bare, self.serves = top, list(sizes), raw, bare, serves
        self.idle = idle
        self.qmp, self.second, self.nbd = (top / name for name in ("qmp", "second", "nbd"))
        self.program = tool("qemu-storage-daemon", "qemu-system-common")
        for number, size in enumerate(sizes):
            self.image("create", "-f", self.format(number), self.path(number), str(size))

    def format(self, number: int) -> str:
        return "raw" if number in self.raw else "qcow2"

    def path(self, number: int) -> Path:
        return self.top / f"disk{number}"

    def image(self, *words: object) -> None:
        """Run qemu-img."""
        command = [tool("qemu-img", "qemu-utils"), *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def start(self) -> "Daemon":
        for each in (self.qmp, self.second, self.nbd):
            each.unlink(missing_ok=True)
        words: list[object] = ["--object", "throttle-group,id=group"]
        for number, path in enumerate((self.qmp, self.second)):
            words += ["--chardev", f"socket,path={path},server=on,wait=off,id=c{number}"]
            words += ["--monitor", f"chardev=c{number}"]
        if self.serves:
            words += ["--nbd-server", f"addr.type=unix,addr.path={self.nbd}"]
        for number in range(len(self.sizes)):
            words += self._disk(number)
        self.process = spawn([self.program, *words], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while not self._is_ready():
            assert self.process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.005)
        return self

    def _is_ready(self) -> bool:
        last = len(self.sizes) - 1
        if not self.serves:
            return (self.top / f"vhost{last}").exists()
        try:
            Wire(self.nbd, f"live{last}").close()
        except OSError:
            return False
        return True

    def _disk(self, number: int) -> list[object]:
        file = f"driver=file,node-name=f{number},filename={self.path(number)},discard=unmap"
        disk = f"driver={self.format(number)},node-name=d{number},file=f{number},discard=unmap"
        if number in self.idle:
            disk += ",read-only=on"
        words: list[object] = ["--blockdev", file, "--blockdev", disk]
        top, is_written = f"d{number}", "off" if number in self.idle else "on"
        if number not in {*self.bare, *self.raw, *self.idle}:
            top = f"top{number}"
            above = f"driver=throttle,node-name={top},file=d{number},throttle-group=group"
            words += ["--blockdev", f"{above},discard=unmap,detect-zeroes=on,cache.no-flush=on"]
        kind = f"nbd,name=live{number}"
        if not self.serves:
            kind = f"vhost-user-blk,addr.type=unix,addr.path={self.top}/vhost{number}"
        words += ["--export", f"type={kind},id=live{number},node-name={top},writable={is_written}"]
        return words

    def address(self, **options: object) -> QmpAddress:
        options = {"nbd": str(self.nbd) if self.serves else ""} | options
        return QmpAddress(**{"socket": str(self.qmp), "fleece": str(self.top), **options})

    async def ask(self, name: str, /, **arguments: object) -> object:
        async with await Qmp.connect(str(self.second)) as qmp:
            return await qmp.ask(name, **arguments)

    async def state(self) -> tuple[list[str], list[str]]:
        """(all that bears our name but persistent bitmaps, those)."""
        async with await Qmp.connect(str(self.second)) as qmp:
            nodes = await qmp.ask("query-named-block-nodes", flat=True)
            exports = await qmp.ask("query-block-exports")
        bitmaps = [each for node in nodes for each in node.get("dirty-bitmaps", ())]
        named = [each["node-name"] for each in nodes] + [each["id"] for each in exports]
        named += [each.get("name", "") for each in bitmaps if not each.get("persistent")]
        named += [path.name for path in self.top.glob("transfer-*")]
        ours = sorted(each for each in named if each.startswith("transfer-"))
        return ours, sorted(each["name"] for each in bitmaps if each.get("persistent"))

    async def stop(self) -> None:
        await self.ask("quit")
        self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Wire:
    """An export that is read and written, one request at a time. Raises OSError with the server's
    number."""

    def __init__(self, path: Path, export: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        try:
            self._socket.connect(str(path))
            assert self._take(18)[:8] == b"NBDMAGIC"
            name = export.encode()
            said = struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(name))
            self._socket.sendall(said + name)
            self.size, _ = struct.unpack(">QH", self._take(10))
        except BaseException:
            self._socket.close()
            raise

    def __call__(self, kind: int, offset: int, length: int, data: bytes = b"") -> bytes:
        self._socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, 7, offset, length) + data)
        _, error, _ = struct.unpack(">IIQ", self._take(16))
        if error:
            raise OSError(error, f"request {kind} of {length} at {offset}")
        return self._take(length) if kind == READ else b""

    def all(self) -> bytearray:
        pieces = range(0, self.size, 1 << 20)
        return bytearray(b"".join(self(READ, at, min(1 << 20, self.size - at)) for at in pieces))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _take(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            if not part:
                raise OSError("the server hung up")
            parts += part
        return parts


Change = tuple[int, int, bytes]  # disk, offset, what is there now


class Guest:
    """Writes one request after the other to all its disks, and knows what each made of them.

    *hot*: so many bytes at each disk's beginning get most of it.
    """

    def __init__(self, daemon: Daemon, seed: int, hot: int = 2 << 20, pause: float = 0.0) -> None:
        self.daemon, self._random, self._hot, self._pause = daemon, random.Random(seed), hot, pause
        self.disks: list[bytearray] = []
        self.log: list[Change] = []
        self.may_write = threading.Lock()
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Guest":
        self._wires = [
            Wire(self.daemon.nbd, f"live{number}") for number in range(len(self.daemon.sizes))
        ]
        self.disks = [wire.all() for wire in self._wires]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        assert self._thread is not None
        self._thread.join()
        for wire in self._wires:
            wire.close()

    def _write(self) -> None:
        try:
            while not self._ends.wait(self._pause):
                with self.may_write:
                    self._step()
        except OSError as error:
            self.error = error

    def _step(self) -> None:
        number = self._random.randrange(len(self._wires))
        wire, disk, chance = self._wires[number], self.disks[number], self._random.random()
        pages = self._random.choice((1, 1, 2, 3, 16))
        last = (min(self._hot, wire.size) if self._random.random() < 0.9 else wire.size) // PAGE
        offset, length = self._random.randrange(last - pages) * PAGE, pages * PAGE
        if chance < 0.1:
            wire(ZEROES, offset, length)
            now = bytes(length)
        elif chance < 0.2:
            offset, length = offset // 65536 * 65536, 65536
            wire(TRIM, offset, length)
            now = wire(READ, offset, length)  # what a trimmed page holds is up to the server
        else:
            now = self._random.randbytes(length)
            wire(WRITE, offset, length, now)
        self.log.append((number, offset, now))
        disk[offset : offset + length] = now

    def settle(self, writes: int = 30) -> None:
        """Return when it has written so often from now on."""
        until = len(self.log) + writes
        while len(self.log) < until and self.error is None:
            time.sleep(0.002)

    def copies(self) -> tuple[int, list[bytearray]]:
        """The disks as they are after so many of its writes."""
        with self.may_write:
            return len(self.log), [bytearray(disk) for disk in self.disks]

    def moment(
        self, before: tuple[int, list[bytearray]], seen: Sequence[bytes], after: int
    ) -> int | None:
        """After how many writes the disks were as *seen*, all of them; None for never."""
        at, disks = before
        wrong = {
            (number, page)
            for number, disk in enumerate(disks)
            for page in range(0, len(disk), PAGE)
            if disk[page : page + PAGE] != seen[number][page : page + PAGE]
        }
        while wrong and at < after:
            number, offset, now = self.log[at]
            for page in range(0, len(now), PAGE):
                place, content = offset + page, now[page : page + PAGE]
                wrong.add((number, place))
                if content == seen[number][place : place + PAGE]:
                    wrong.discard((number, place))
            at += 1
        return None if wrong else at
