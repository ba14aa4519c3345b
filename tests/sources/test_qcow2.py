"""Idle qcow2 disks: the laws of change sources, and every way to lose a bitmap's history."""

import asyncio
import json
import os
import random
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from tests.acceptance.needs import tool
from tests.suites import sources
from tests.suites.sources import *
from tests.suites.sources import Chain
from transfer.errors import UsageError, ViewBroken
from transfer.sources.bitmaps import PREFIX
from transfer.sources.changes import Since
from transfer.sources.qcow2 import Qcow2Source

MIB = 2**20


def run(name, *words):
    done = subprocess.run(
        [tool(name, "qemu-utils"), *map(str, words)], check=True, capture_output=True
    )
    return done.stdout


class Bench:
    """A disk of 24 MiB with clusters of 64 KiB."""

    grows, grain, disk = True, 65536, "disk.qcow2"
    least = grain  # the disk's end

    def __init__(self, path, *make):
        self.path, self.make = path, make
        self.source = Qcow2Source(os.fsencode(path))
        run("qemu-img", "create", "-q", "-f", "qcow2", *make, path, 24 * MIB)
        self.io(*(f"write -q -P {n} {n * 512}k 300k" for n in range(1, 40)))

    def io(self, *commands):
        run("qemu-io", "-f", "qcow2", "-d", "unmap", *(f"-c{each}" for each in commands), self.path)

    def size(self):
        return json.loads(run("qemu-img", "info", "--output=json", self.path))["virtual-size"]

    def write(self, chosen):
        size, commands, written = self.size(), [], []
        for _ in range(chosen.randrange(1, 12)):
            length = chosen.choice((512, 4096, 70000, 200 * 1024)) // 512 * 512
            at = chosen.randrange((size - length) // 512) * 512
            what = chosen.choice(("write -P 0x5a", "write -P 0xa5", "write -z", "discard"))
            commands.append(f"{what} -q {at} {length}")
            written.append((at, length))
        self.io(*commands)
        return written

    def put(self, at, content):
        self.io(f"write -q -P {content[0] | 1} {at} {len(content)}")

    def resize(self, size):
        size = size // 512 * 512
        shrink = ["--shrink"] if size < self.size() else []
        run("qemu-img", "resize", "-q", *shrink, "-f", "qcow2", self.path, size)

    def content(self):
        raw = self.path.with_suffix(".raw")
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path, raw)
        content = raw.read_bytes()
        raw.unlink()
        return content

    def bitmaps(self):
        found = json.loads(run("qemu-img", "info", "-U", "--output=json", self.path))
        return {
            each["name"]: each["flags"]
            for each in found["format-specific"]["data"].get("bitmaps", [])
        }

    def objects(self):
        return [name for name in self.bitmaps() if name.startswith(PREFIX)]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "disk.qcow2")


@pytest.fixture
async def chain(bench):
    made = Chain(bench)
    await made.run()
    return made


async def test_another_tracker_of_the_same_disk_is_left_alone(bench, chain):
    run("qemu-img", "bitmap", "--add", "-f", "qcow2", bench.path, "somebody-elses")
    bench.write(random.Random(1))
    assert await chain.run() is not None
    assert "somebody-elses" in bench.bitmaps()


def removed(bench, name):
    run("qemu-img", "bitmap", "--remove", "-f", "qcow2", bench.path, name)


def disabled(bench, name):
    run("qemu-img", "bitmap", "--disable", "-f", "qcow2", bench.path, name)


def converted(bench, name):
    copy = bench.path.with_suffix(".copy")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", bench.path, copy)
    copy.rename(bench.path)


@contextmanager
def in_use(path):
    """Somebody has the disk open to write."""
    words = [tool("qemu-io", "qemu-utils"), "-f", "qcow2", str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"read 0 512\n")
        process.stdin.flush()
        process.stdout.readline()
        yield process


def killed(bench, name):
    """Its writer was, and never wrote the bitmaps back."""
    with in_use(bench.path) as process:
        process.stdin.write(b"write -q 0 64k\nflush\nread 0 512\n")
        process.stdin.flush()
        process.stdout.readline()
        process.kill()


def another(bench, name):
    Bench(bench.path.with_name("other.qcow2")).path.rename(bench.path)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (removed, "not in the file"), (disabled, "disabled"), (converted, "not in the file"),
        (killed, "not closed cleanly"), (another, "not in the file"),
    ],
)  # fmt: skip
async def test_a_lost_history_is_told_and_begins_anew(bench, chain, harm, why):
    (name,) = bench.objects()
    harm(bench, name)
    bench.write(random.Random(2))
    assert await chain.run() is None
    assert why in chain.why
    assert len(bench.objects()) == 1
    bench.write(random.Random(3))
    assert await chain.run() is not None, chain.why


async def test_a_copy_takes_its_history_along_and_loses_it_when_the_other_one_goes_on(
    bench, chain, tmp_path
):
    bench.write(random.Random(4))
    shutil.copy(bench.path, tmp_path / "copy")
    assert await chain.run() is not None
    bench.write(random.Random(5))
    os.replace(tmp_path / "copy", bench.path)
    bench.write(random.Random(6))
    assert await chain.run() is None


async def test_what_stands_behind_a_disk_is_part_of_its_history(tmp_path):
    base = Bench(tmp_path / "base.qcow2")
    bench = Bench(tmp_path / "top.qcow2", "-F", "qcow2", "-b", str(base.path))
    chain = Chain(bench)
    await chain.run()
    bench.write(random.Random(7))
    assert await chain.run() is not None, chain.why
    base.io("write -q -P 7 20M 64k")
    assert await chain.run() is None
    assert "behind" in chain.why


async def test_what_stands_behind_a_disk_and_cannot_be_seen_may_have_changed(tmp_path):
    (tmp_path / "base").write_bytes(bytes(24 * MIB))
    said = {"driver": "file", "filename": str(tmp_path / "base")}
    said = {"driver": "raw", "offset": 0, "size": 24 * MIB, "file": said}
    bench = Bench(tmp_path / "top.qcow2", "-F", "raw", "-b", "json:" + json.dumps(said))
    chain = Chain(bench)
    for _ in range(2):
        assert await chain.run() is None
    assert "cannot be seen" in chain.why


async def test_what_is_in_use_is_not_called_removed(bench, chain):
    async with bench.source.open(chain.since()):
        before = bench.objects()
        with pytest.raises(ViewBroken, match="in use"):
            await bench.source.clean(None)
        assert bench.objects() == before


@pytest.mark.parametrize(
    ("make", "why"),
    [(("-o", "compat=0.10"), "version 2"), (("-o", "data_file={}.raw,data_file_raw=on"), "QEMU")],
)
async def test_a_disk_that_keeps_no_bitmaps_is_read_in_full(tmp_path, make, why):
    path = tmp_path / "disk.qcow2"
    bench = Bench(path, *(word.format(path) for word in make))
    chain = Chain(bench)
    async with bench.source.open(Since(sources.ONE)) as view:
        assert view.disks[0].mark is None
        assert await sources.read(view.disks[0]) == bench.content()
        assert await chain._changed(view.disks[0]) is None
    assert why in chain.why
    assert bench.objects() == []


async def test_a_disk_in_use_is_refused_and_its_writer_is_not_disturbed(bench):
    with in_use(bench.path) as process:
        with pytest.raises(ViewBroken, match="in use"):
            async with bench.source.open(Since(sources.ONE)):
                raise AssertionError
        assert b"wrote" in process.communicate(b"write 0 64k\n")[0]


async def test_nobody_writes_while_a_view_is_held_and_then_all_may(bench):
    async with bench.source.open(Since(sources.ONE)):
        with pytest.raises(subprocess.CalledProcessError):
            bench.io("write 0 64k")
    bench.io("write 0 64k")


async def test_what_is_no_qcow2_is_refused(tmp_path):
    tool("qemu-img", "qemu-utils")
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    with pytest.raises(UsageError, match="qemu-img"):
        async with Qcow2Source(os.fsencode(path)).open(Since(sources.ONE)):
            raise AssertionError


async def test_a_cancelled_view_leaves_no_server_and_no_directory(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()

    async def held():
        async with bench.source.open(Since(sources.ONE)):
            await asyncio.sleep(60)

    for seconds in (0.01, 0.05, 0.1, 0.2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await held()
        assert os.listdir(tmp_path / "here") == []
    bench.io("write 0 64k")  # and nobody holds the disk
