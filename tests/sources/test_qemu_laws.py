"""A live disk: the laws of change sources."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance import shell
from tests.sources import copies
from tests.sources.live import TRIM, WRITE, ZEROES, Daemon, Wire
from tests.suites.sources import *
from transfer.sources.qemu_live import LiveSource

MIB = 2**20


def done(work):
    """What a coroutine returns, also within another one: whoever writes to a disk does not wait."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class Bench:
    """The disk of 24 MiB of a machine that runs."""

    grows, grain, disk = True, MIB, "d0"
    least = grain  # the disk's end

    def __init__(self, top):
        self.daemon = Daemon(top, [24 * MIB]).start()
        self.path = self.daemon.path(0)
        self.source = LiveSource(self.daemon.address())
        self.name = f"qmp:{self.daemon.qmp}?nbd={self.daemon.nbd}&fleece={top}"
        for number in range(1, 40):
            self.put(number * 512 * 1024, bytes([number]) * 300 * 1024)

    def wire(self):
        return Wire(self.daemon.nbd, "live0")

    def write(self, chosen):
        written = []
        with self.wire() as wire:
            for _ in range(chosen.randrange(1, 12)):
                length = chosen.choice((512, 4096, 70_144, 200 * 1024))
                at = chosen.randrange((wire.size - length) // 512) * 512
                kind = chosen.choice((WRITE, WRITE, ZEROES, TRIM))
                wire(kind, at, length, chosen.randbytes(length) if kind == WRITE else b"")
                written.append((at, length))
        return written

    def put(self, at, content):
        with self.wire() as wire:
            wire(WRITE, at, len(content), content)

    def resize(self, size):
        done(copies.resized(self.daemon, size // 512 * 512))

    def content(self):
        with self.wire() as wire:
            return bytes(wire.all())

    def objects(self):
        left, bitmaps = done(self.daemon.state())
        return left + bitmaps


@pytest.fixture
def bench(tmp_path):
    before = shell.started()
    yield Bench(tmp_path)
    shell.end_all(before)


async def test_a_disk_without_bytes_has_no_bitmap(bench):
    bench.resize(0)
    chain = Chain(bench)
    for _ in range(2):
        await chain.run()
    assert chain.content == b""
    bench.resize(MIB)
    bench.write(random.Random(1))
    await chain.run()
    assert bench.objects()
