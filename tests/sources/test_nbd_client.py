"""The asyncio client of NBD against real servers, on both event loops."""

import asyncio
import json
import random
import shutil
import time

import pytest

from tests.loops import on_both_loops
from tests.sources.nbd_servers import (
    command,
    nbdkit,
    open_sockets,
    qemu_io,
    qemu_nbd,
    storage_daemon,
)
from transfer.errors import NotFound, SourceFailed, SourceUnavailable
from transfer.sources.nbd import NbdClient, Status
from transfer.sources.nbd_address import NbdAddress

SIZE = 8 * 2**20
ALLOCATION, DIRTY = "base:allocation", "qemu:dirty-bitmap:"
EIO = 5


def room(length):
    return memoryview(bytearray(b"?" * length))


async def read(client, offset, length):
    view = room(length)
    await client.read_into(offset, view)
    return bytes(view)


async def statuses(client, context, offset=0, end=None):
    end = client.size if end is None else end
    return [each async for each in client.block_status(context, offset, end)]


def known_to_nbdinfo(address, context):
    raw = command("nbdinfo", f"--map={context}", "--json", address, package="libnbd-bin")
    return [Status(each["offset"], each["length"], each["type"]) for each in json.loads(raw)]


@pytest.fixture(scope="module")
def content():
    """Random bytes, every other half of a MiB zeros."""
    choice = random.Random(1)
    return b"".join(choice.randbytes(2**19) + bytes(2**19) for _ in range(SIZE // 2**20))


@pytest.fixture(scope="module")
def image(tmp_path_factory, content):
    """A file with that content, the zeros as holes."""
    path = tmp_path_factory.mktemp("raw") / "disk"
    with open(path, "wb") as file:
        for at in range(0, SIZE, 2**20):
            file.seek(at)
            file.write(content[at : at + 2**19])
        file.truncate(SIZE)
    return path


@pytest.fixture(scope="module")
def raw(image, tmp_path_factory):
    """The address of that file behind qemu-nbd."""
    with qemu_nbd(image, tmp_path_factory.mktemp("served")) as address:
        yield address


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A qcow2 with a bitmap of what was written since it was full, and those extents."""
    path = tmp_path_factory.mktemp("qcow2") / "disk"
    command("qemu-img", "create", "-q", "-f", "qcow2", path, "1G")
    qemu_io(path, "write -q -P 1 0 64M")
    command("qemu-img", "bitmap", "--add", "-g", "64k", path, "since")
    qemu_io(path, "write -q -P 2 1M 4k", "write -q -P 3 100M 130k", "discard -q 32M 2M",
            "write -q -z 40M 64k", "write -q -P 4 1073741312 512")  # fmt: skip
    mib = 2**20
    dirty = [(mib, 65536), (32 * mib, 2 * mib), (40 * mib, 65536), (100 * mib, 3 * 65536),
             (2**30 - 65536, 65536)]  # fmt: skip
    return path, dirty


# Reads


@on_both_loops
async def test_what_is_read_is_what_is_there(raw, content):
    async with await NbdClient.connect(raw) as client:
        assert client.size == SIZE
        assert await read(client, 0, SIZE) == content
        assert await read(client, SIZE - 1, 1) == content[-1:]
        await client.read_into(SIZE, room(0))


@on_both_loops
async def test_many_tasks_read_at_a_time(raw, content):
    choice = random.Random(2)
    async with await NbdClient.connect(raw, in_flight=5) as client:

        async def one():
            at = choice.randrange(SIZE)
            length = min(choice.choice([1, 512, 70_000, 3 * 2**20]), SIZE - at)
            await asyncio.sleep(choice.random() / 100)
            return await read(client, at, length) == content[at : at + length]

        assert all(await asyncio.gather(*(one() for _ in range(60))))


@on_both_loops
async def test_beyond_the_end_is_not_asked(raw):
    async with await NbdClient.connect(raw) as client:
        for offset in (SIZE - 1, -1):
            with pytest.raises(ValueError, match=f"2 bytes at {offset}"):
                await client.read_into(offset, room(2))
        assert len(await read(client, 0, 4096)) == 4096


@on_both_loops
async def test_an_error_is_its_requests_and_the_connection_lives_on(tmp_path):
    trigger = tmp_path / "fail"
    words = ["--filter=error", "pattern", f"size={SIZE}", "error-pread-rate=40%",
             f"error-file={trigger}"]  # fmt: skip
    with nbdkit(tmp_path, *words) as (address, _):
        async with await NbdClient.connect(address) as client:
            trigger.touch()
            ends = await asyncio.gather(
                *(read(client, at * 512, 512) for at in range(64)), return_exceptions=True
            )
            for at, end in enumerate(ends):
                if isinstance(end, bytes):  # each 8 bytes are their offset
                    assert end[:8] == (at * 512).to_bytes(8, "big")
                else:
                    assert (type(end), end.number) == (SourceFailed, EIO)
                    assert f"512 bytes at {at * 512} cannot be read" in end.message
            assert {type(end) for end in ends} == {bytes, SourceFailed}
            trigger.unlink()
            assert (await read(client, 512, 8)) == (512).to_bytes(8, "big")


@on_both_loops
async def test_as_many_are_under_way_as_there_may_be(tmp_path):
    with nbdkit(tmp_path, "--filter=delay", "null", "size=1M", "rdelay=200ms") as (address, _):
        for in_flight, least, most in ((1, 0.8, 9), (4, 0.2, 0.75)):
            async with await NbdClient.connect(address, in_flight=in_flight) as client:
                began = time.monotonic()
                await asyncio.gather(*(read(client, 0, 512) for _ in range(4)))
                assert least <= time.monotonic() - began < most


@on_both_loops
async def test_requests_keep_to_the_servers_blocks(tmp_path):
    words = ["--filter=blocksize-policy", "pattern", f"size={SIZE}", "blocksize-error-policy=error",
             "blocksize-minimum=4096", "blocksize-preferred=4096",
             "blocksize-maximum=65536"]  # fmt: skip
    with nbdkit(tmp_path, *words) as (address, _):
        async with await NbdClient.connect(address, contexts=[ALLOCATION]) as client:
            assert client.min_block == 4096
            whole = b"".join(at.to_bytes(8, "big") for at in range(0, 300_000, 8))
            for at, length in ((0, 300_000), (1, 1), (4095, 2), (4096, 8192), (777, 200_000)):
                assert await read(client, at, length) == whole[at : at + length]
            assert await statuses(client, ALLOCATION, 5, 9000) == [Status(5, 8995, 0)]


@on_both_loops
async def test_a_server_without_structured_replies(image, tmp_path, content):
    with nbdkit(tmp_path, "file", image, options=["--no-sr"]) as (address, _):
        async with await NbdClient.connect(address, contexts=[ALLOCATION], offers=()) as client:
            assert await read(client, 1000, 3 * 2**20) == content[1000 : 1000 + 3 * 2**20]
            assert not client.export.contexts


# Status


@on_both_loops
async def test_where_there_is_data(raw):
    half = 2**19
    expected = [Status(at, half, 3 * (at // half % 2)) for at in range(0, SIZE, half)]
    async with await NbdClient.connect(raw, contexts=[ALLOCATION]) as client:
        assert await statuses(client, ALLOCATION) == expected
        part = await statuses(client, ALLOCATION, half + 5, 3 * half + 1)
        assert part == [
            Status(half + 5, half - 5, 3), Status(2 * half, half, 0), Status(3 * half, 1, 3)
        ]  # fmt: skip
        assert await statuses(client, ALLOCATION, 7, 7) == []
        with pytest.raises(ValueError, match=f"1 to {SIZE + 1}"):
            client.block_status(ALLOCATION, 1, SIZE + 1)
    assert known_to_nbdinfo(raw, ALLOCATION) == expected


@on_both_loops
async def test_what_a_bitmap_says_was_written(tracked, tmp_path):
    path, dirty = tracked
    with qemu_nbd(path, tmp_path, "-B", "since", format="qcow2") as address:
        contexts = [ALLOCATION, DIRTY + "since"]
        async with await NbdClient.connect(address, contexts=contexts, offers=()) as client:
            assert client.export.contexts.keys() == set(contexts)
            assert set(client.export.offers) == set(contexts)
            found = await statuses(client, DIRTY + "since")
            assert [each[:2] for each in found if each.flags] == dirty
            assert found == known_to_nbdinfo(address, DIRTY + "since")
            assert await statuses(client, ALLOCATION) == known_to_nbdinfo(address, ALLOCATION)
            assert await read(client, 100 * 2**20, 512) == b"\3" * 512


@on_both_loops
async def test_the_bitmap_of_a_live_disk(tracked, tmp_path):
    path, dirty = tmp_path / "disk", tracked[1]
    shutil.copy(tracked[0], path)
    with storage_daemon(path, tmp_path, ["since"]) as address:
        async with await NbdClient.connect(address, contexts=[DIRTY + "since"]) as client:
            found = await statuses(client, DIRTY + "since")
            assert [each[:2] for each in found if each.flags] == dirty
            await client.flush()


@on_both_loops
async def test_a_bitmap_that_is_not_served_is_missed(tracked, tmp_path):
    with qemu_nbd(tracked[0], tmp_path, format="qcow2") as address:
        async with await NbdClient.connect(address, contexts=[DIRTY + "since"]) as client:
            with pytest.raises(NotFound, match="has no context qemu:dirty-bitmap:since"):
                client.block_status(DIRTY + "since", 0, client.size)
            assert await read(client, 0, 512) == b"\1" * 512


@on_both_loops
async def test_a_disk_of_many_steps(tmp_path):
    """Its status is asked for in steps below 4 GiB, which do not show."""
    path, size = tmp_path / "disk", 2**40 + 2**33
    command("qemu-img", "create", "-q", "-f", "qcow2", path, size)
    command("qemu-img", "bitmap", "--add", "-g", "64k", path, "since")
    at = [0, 2**32 - 2**16, 2**32, 2**40 - 512, size - 512]
    qemu_io(path, *(f"write -q {each} 512" for each in at))
    with qemu_nbd(path, tmp_path, "-B", "since", format="qcow2") as address:
        async with await NbdClient.connect(address, contexts=[DIRTY + "since"]) as client:
            found = await statuses(client, DIRTY + "since")
    starts = [each.offset for each in found if each.flags]
    assert starts == [0, 2**32 - 2**16, 2**40 - 2**16, size - 2**16]
    assert sum(each.length for each in found) == size
    assert len(found) == 2 * 4 - 1


@on_both_loops
async def test_a_status_that_fails_is_an_error_of_its_own(tmp_path):
    words = ["--filter=error", "memory", f"size={SIZE}", "error-extents-rate=100%"]
    with nbdkit(tmp_path, *words) as (address, _):
        async with await NbdClient.connect(address, contexts=[ALLOCATION]) as client:
            with pytest.raises(SourceFailed, match="block status at 0 cannot be had") as failed:
                await statuses(client, ALLOCATION)
            assert failed.value.number == EIO
            assert await read(client, 0, 512) == bytes(512)


# The connection


@on_both_loops
async def test_tcp(image, tmp_path, content):
    with nbdkit(tmp_path, "file", image, tcp=True) as (address, _):
        async with await NbdClient.connect(address) as client:
            assert await read(client, 0, SIZE) == content


@on_both_loops
async def test_a_server_that_dies_is_told_to_all_and_for_ever(tmp_path):
    with nbdkit(tmp_path, "--filter=delay", "null", "size=1M", "rdelay=60") as (address, process):
        async with await NbdClient.connect(address, in_flight=3) as client:
            reads = [asyncio.ensure_future(read(client, 0, 512)) for _ in range(8)]
            await asyncio.sleep(0.05)
            process.kill()
            ends = await asyncio.gather(*reads, return_exceptions=True)
            assert {type(end) for end in ends} == {SourceUnavailable}
            with pytest.raises(SourceUnavailable, match="hung up"):
                await read(client, 0, 512)


@on_both_loops
async def test_where_nothing_is(raw, tmp_path):
    before = open_sockets()
    with pytest.raises(NotFound, match=r"no such socket"):
        await NbdClient.connect(NbdAddress(b"", bytes(tmp_path / "no")))
    (tmp_path / "file").touch()
    with pytest.raises(SourceUnavailable, match="refused"):
        await NbdClient.connect(NbdAddress(b"", bytes(tmp_path / "file")))
    with pytest.raises(SourceUnavailable, match=r"nbd://127\.0\.0\.1:1/: "):
        await NbdClient.connect(NbdAddress(b"", host="127.0.0.1", port=1))
    with pytest.raises(SourceUnavailable, match=r"nbd://x{64}/"):
        await NbdClient.connect(NbdAddress(b"", host="x" * 64))
    with pytest.raises(NotFound, match="no export 'another'"):
        await NbdClient.connect(raw._replace(export=b"another"))
    await asyncio.sleep(0.05)
    assert open_sockets() == before


@on_both_loops
async def test_a_closed_client_has_no_socket(raw):
    before = open_sockets()
    client = await NbdClient.connect(raw)
    assert open_sockets() == before + 1
    await client.close()
    assert open_sockets() == before
    await client.close()
    with pytest.raises(SourceUnavailable, match="closed"):
        await read(client, 0, 512)
