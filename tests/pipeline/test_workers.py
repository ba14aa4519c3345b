"""Promises of the worker pool, also when workers, parents or callers are killed."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from transfer.errors import IdMismatch, TransferError, WorkerLost
from transfer.pipeline.workers import SLOT_SIZE, Pool

ROOT = Path(__file__).parents[2]
FLAVOURS = pytest.mark.parametrize("workers", [0, 1, 2])


class Unportable(Exception):
    def __init__(self, one, two):
        super().__init__("told")


def tools(*arguments):
    return list(arguments)


def refuse():
    raise IdMismatch("no tools", "none at all")


def place(lane):
    return os.getpid(), threading.get_ident()


def greet(lane, name, *, end="!"):
    return f"{lane.tools[0]} {name}{end}"


def fail(lane, error):
    raise error


def fail_unportably(lane):
    raise Unportable(1, 2)


def leave(lane):
    raise SystemExit(3)


def double(lane, length):
    lane.slot[length : 2 * length] = lane.slot[:length]
    return len(lane.slot)


def keep(lane, value=None):
    if value is not None:
        lane.kept["value"] = value
    return lane.kept.get("value")


def die(lane):
    os.kill(os.getpid(), signal.SIGKILL)


def write_late(lane, seconds):
    time.sleep(seconds)
    lane.slot[:4] = b"late"


def large(lane, size):
    return bytes(size)


def modules(lane):
    return sorted(sys.modules)


def unpicklable(lane):
    return threading.Lock()


def gone(pid):
    """Also true of a zombie: where nobody reaps orphans, that is all that is left of one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


async def once(pool, function, *args):
    async with pool.lease() as leased:
        return await leased.call(function, *args)


async def test_functions_run_in_another_process_each_worker_with_its_own():
    async with Pool(2, tools) as pool, pool.lease() as one, pool.lease() as two:
        places = {await one.call(place), await two.call(place)}
    assert len(places) == 2
    assert os.getpid() not in {pid for pid, _ in places}


async def test_without_workers_functions_run_in_two_threads():
    async with Pool(0, tools) as pool, pool.lease() as one, pool.lease() as two:
        places = {await one.call(place), await two.call(place)}
    assert len(places) == 2
    assert {pid for pid, _ in places} == {os.getpid()}
    assert threading.get_ident() not in {thread for _, thread in places}


@FLAVOURS
async def test_tools_arguments_and_results_cross(workers):
    async with Pool(workers, tools, ("hello",)) as pool, pool.lease() as leased:
        assert await leased.call(greet, "you", end="?") == "hello you?"


@FLAVOURS
async def test_exceptions_come_back_as_themselves(workers):
    async with Pool(workers, tools) as pool, pool.lease() as leased:
        with pytest.raises(IdMismatch) as caught:
            await leased.call(fail, IdMismatch("wrong", "look"))
        assert (caught.value.message, caught.value.hint) == ("wrong", "look")
        with pytest.raises(FileNotFoundError) as missing:
            await leased.call(fail, FileNotFoundError(2, "gone", "x"))
        assert missing.value.filename == "x"


async def test_what_cannot_be_pickled_comes_back_as_text():
    async with Pool(1, tools) as pool, pool.lease() as leased:
        with pytest.raises(TransferError, match="Unportable: told"):
            await leased.call(fail_unportably)
        with pytest.raises(Exception, match="pickle"):
            await leased.call(unpicklable)
        with pytest.raises(Exception, match="pickle"):
            await leased.call(keep, threading.Lock())
        assert await leased.call(keep, 1) == 1


@FLAVOURS
async def test_a_function_cannot_stop_the_loop(workers):
    async with Pool(workers, tools) as pool, pool.lease() as leased:
        with pytest.raises(TransferError, match="SystemExit"):
            await leased.call(leave)
        with pytest.raises(TransferError, match="StopIteration"):
            await leased.call(fail, StopIteration())
        assert await leased.call(keep, 1) == 1


@FLAVOURS
async def test_tools_that_cannot_be_made_fail_every_call_and_no_worker(workers):
    async with Pool(workers, refuse) as pool:
        for _ in range(5):
            with pytest.raises(IdMismatch, match="no tools"):
                await once(pool, keep)


@FLAVOURS
async def test_a_slot_is_seen_from_both_sides(workers):
    async with Pool(workers, tools) as pool, pool.lease() as leased:
        leased.slot[:3] = b"abc"
        assert await leased.call(double, 3) == SLOT_SIZE == len(leased.slot)
        assert leased.slot[:6] == b"abcabc"


@FLAVOURS
async def test_kept_lasts_as_long_as_the_lease(workers):
    async with Pool(workers, tools, lanes=1) as pool:
        async with pool.lease() as leased:
            await leased.call(keep, "this")
            assert await leased.call(keep) == "this"
        assert [await once(pool, keep) for _ in range(3)] == [None] * 3


@FLAVOURS
async def test_a_lease_waits_for_a_free_lane(workers):
    async with Pool(workers, tools, lanes=1, slot_size=8) as pool:
        leases = [pool.lease() for _ in range(workers or 2)]
        for lease in leases:
            await lease.__aenter__()
        waiting = asyncio.create_task(once(pool, keep, 1))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        for lease in leases:
            await lease.__aexit__(None, None, None)
        assert await waiting == 1


async def test_a_killed_worker_costs_its_calls_and_the_next_lease_works():
    async with Pool(1, tools) as pool:
        async with pool.lease() as leased:
            pid, _ = await leased.call(place)
            call = asyncio.create_task(leased.call(write_late, 60))
            await asyncio.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(WorkerLost, match="status -9"):
                await call
            with pytest.raises(WorkerLost):
                await leased.call(write_late, 0)
        assert (await once(pool, place))[0] != pid


async def test_workers_that_only_die_are_not_restarted_for_ever():
    async with Pool(1, tools) as pool:
        for _ in range(3):
            with pytest.raises(WorkerLost):
                await once(pool, die)
        assert await once(pool, keep, 1) == 1  # counts anew from here
        for _ in range(4):
            with pytest.raises(WorkerLost, match="status -9"):
                await once(pool, die)
        with pytest.raises(WorkerLost, match="without finishing a call"):
            await once(pool, keep)


@FLAVOURS
async def test_a_cancelled_call_keeps_its_lane_until_the_worker_has_answered(workers):
    async with Pool(workers, tools, lanes=1) as pool:
        for _ in range(workers or 2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), pool.lease() as leased:
                    await leased.call(write_late, 0.3)
        async with pool.lease() as leased:
            leased.slot[:4] = b"mine"
            await asyncio.sleep(0.4)
            assert leased.slot[:4] == b"mine"
            assert await leased.call(keep, 1) == 1


async def test_cancellation_leaves_no_task_and_no_process():
    pids = []

    async def work():
        async with Pool(2, tools) as pool, pool.lease() as leased:
            pids.append((await leased.call(place))[0])
            await leased.call(write_late, 60)

    before = time.monotonic()
    task = asyncio.create_task(work())
    while not pids:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert gone(pids[0])
    assert time.monotonic() - before < 10


async def test_a_pool_that_closes_under_a_call_loses_it_and_minds_no_held_slice():
    async with Pool(1, tools) as pool:
        lease = pool.lease()
        leased = await lease.__aenter__()
        held = leased.slot[:4]
        await leased.call(keep)
        call = asyncio.create_task(leased.call(keep))
        await asyncio.sleep(0)
    with pytest.raises(WorkerLost):
        await call
    await lease.__aexit__(None, None, None)
    assert len(bytes(held)) == 4


async def test_a_lease_that_has_ended_is_of_no_use():
    async with Pool(1, tools) as pool:
        async with pool.lease() as leased:
            pass
        with pytest.raises(ValueError):
            await leased.call(keep)
        with pytest.raises(ValueError):
            leased.slot[:1] = b"x"


async def test_messages_have_a_limit():
    async with Pool(1, tools) as pool, pool.lease() as leased:
        with pytest.raises(TransferError, match="limit"):
            await leased.call(large, 20 * 2**20)
        with pytest.raises(TransferError, match="limit"):
            await leased.call(keep, bytes(20 * 2**20))
        assert len(await leased.call(large, 10 * 2**20)) == 10 * 2**20
        assert len(await leased.call(keep, bytes(10 * 2**20))) == 10 * 2**20


async def test_nothing_has_a_name_in_shared_memory_or_in_the_arguments():
    before = set(os.listdir("/dev/shm"))
    async with Pool(2, tools, ("secret-key",)) as pool:
        pid, _ = await once(pool, place)
        assert set(os.listdir("/dev/shm")) <= before
        for name in ("cmdline", "environ"):
            assert b"secret-key" not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert os.getpgid(pid) == pid  # so that Ctrl-C does not reach it
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        async with pool.lease() as one, pool.lease() as two:
            assert pid in {(await one.call(place))[0], (await two.call(place))[0]}


async def test_a_worker_imports_little():
    async with Pool(1, tools) as pool:
        loaded = set(await once(pool, modules))
    # This module imports asyncio itself; what the program imports is what counts here.
    code = "import sys, transfer.pipeline.worker_process; print(*sys.modules)"
    alone = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "transfer.pipeline.worker_process" in loaded
    assert not {"asyncio", "subprocess", "socket", "cryptography", "ssl"} & set(alone)


@pytest.mark.parametrize("name", ["directory_tasks", "page_tasks", "present_tasks", "write_tasks"])
def test_what_restores_run_in_workers_brings_nothing_of_the_parent_process(name):
    code = f"import sys, transfer.pipeline.{name}; print(*sys.modules)"
    alone = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"asyncio", "transfer.pipeline.workers"} & set(alone)


PARENT = """
import asyncio, sys, time
from transfer.pipeline.workers import Pool
from test_workers import place, tools, write_late
async def main():
    async with Pool(1, tools) as pool, pool.lease() as leased:
        print((await leased.call(place))[0], flush=True)
        await leased.call(write_late, 60)
asyncio.run(main())
"""


def test_a_worker_does_not_outlive_a_killed_parent(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment, cwd=tmp_path
    ) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    end = time.monotonic() + 1
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert gone(pid)
