"""What the library promises to a program that embeds it, above all about what is left behind."""

import asyncio
import dataclasses
import errno
import gc
import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copytree

import pytest
import uvloop

import transfer
from tests.acceptance.shell import PASSPHRASE, children
from transfer import errors
from transfer.cli.main import main
from transfer.library import Progress, Run, _own_errors
from transfer.targets.names import key_of
from transfer.vault.schema import SessionState

pytestmark = pytest.mark.usefixtures("quick_keyrings")

ROOT = Path(__file__).parents[1]
PATIENCE = 2.0  # seconds that an idle thread has to end


class Machine:
    """A state, a vault and something to back up, all below *top*."""

    def __init__(self, top):
        self.top, self.vault, self.state = top, top / "vault", top / "state"
        self.tree, self.image = top / "tree", top / "image"
        self.tree.joinpath("deep").mkdir(parents=True)
        for number in range(40):
            (self.tree / f"small-{number}").write_bytes(os.urandom(3000))
        (self.tree / "deep" / "large").write_bytes(os.urandom(5 * 2**20))

    def make_image(self, size):
        self.image.write_bytes(os.urandom(size))
        return self.image

    def connect(self, **options):
        settings = {"vault": self.vault, "passphrase": PASSPHRASE, "create": True} | options
        return transfer.connect(state=self.state, **settings)

    def open_sessions(self):
        """Of a closed vault."""
        with sqlite3.connect(self.vault / "catalog.sqlite") as catalog:
            query = "select count(*) from sessions where state = ?"
            (count,) = catalog.execute(query, (int(SessionState.OPEN),)).fetchone()
        catalog.close()
        return count


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def descriptors():
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # that of the listing itself
    return found


def ours(threads):
    return [each.name for each in threads if each.name.startswith(("vault", "transfer-worker"))]


@contextmanager
def nothing_left_behind():
    """No task, process, shared memory or thread that was not there before."""
    tasks, processes, memory = (
        asyncio.all_tasks(),
        set(children(os.getpid())),
        set(os.listdir("/dev/shm")),
    )
    threads = set(threading.enumerate())
    yield
    assert asyncio.all_tasks() <= tasks
    assert set(children(os.getpid())) <= processes
    assert set(os.listdir("/dev/shm")) <= memory
    end = time.monotonic() + PATIENCE
    while ours(set(threading.enumerate()) - threads) and time.monotonic() < end:
        time.sleep(0.005)
    assert ours(set(threading.enumerate()) - threads) == []


async def done(run):
    async with run:
        return await run.result()


async def watched(run, then=lambda: None):
    async with run:
        async for _ in run:
            pass
        then()


def run_of(work):
    return Run("test", work, set())


async def forever(numbers):
    await asyncio.Event().wait()


# A run and its block, with work that does nothing but to wait.


async def test_a_run_that_is_not_watched_gives_its_result():
    async def work(numbers):
        await asyncio.sleep(0)
        return 7

    with nothing_left_behind():
        assert await done(run_of(work)) == 7


async def test_what_a_run_failed_with_is_raised_by_its_result_and_by_leaving_if_nobody_asked():
    async def work(numbers):
        raise errors.NoSpace("full")

    with pytest.raises(errors.NoSpace):
        await watched(run_of(work))
    async with run_of(work) as run:
        with pytest.raises(errors.NoSpace):
            await run.result()
        with pytest.raises(errors.NoSpace):
            await run.result()


async def test_an_error_of_the_block_goes_before_that_of_the_run(caplog):
    async def work(numbers):
        raise errors.NoSpace("full")

    with pytest.raises(ZeroDivisionError):
        await watched(run_of(work), lambda: 1 / 0)
    gc.collect()
    assert caplog.records == []  # as of a task whose exception nobody retrieved


async def leave_by_end(run):
    async with run:
        await asyncio.sleep(0.001)


async def leave_by_break(run):
    while True:
        async with run:
            await asyncio.sleep(0.001)
            break


async def leave_by_return(run):
    async with run:
        async for _ in run.progress(0):
            return


async def leave_by_error(run):
    async with run:
        async for _ in run.progress(0):
            raise ZeroDivisionError


WAYS = [leave_by_end, leave_by_break, leave_by_return, leave_by_error]


@pytest.mark.parametrize("leave", WAYS)
async def test_leaving_the_block_early_ends_the_run_whatever_the_way(leave):
    ended = []

    async def work(numbers):
        try:
            await forever(numbers)
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)

    with nothing_left_behind(), suppress(ZeroDivisionError):
        await leave(run_of(work))
    assert ended


async def test_a_run_that_had_no_turn_yet_can_be_left():
    with nothing_left_behind():
        async with run_of(forever):
            pass


async def test_who_is_cancelled_twice_still_waits_until_the_run_is_gone():
    going, may_end, gone = asyncio.Event(), asyncio.Event(), []

    async def work(numbers):
        try:
            await forever(numbers)
        finally:
            going.set()
            await may_end.wait()
            gone.append(True)

    async def caller():
        async with run_of(work) as run:
            await run.result()

    with nothing_left_behind():
        task = asyncio.create_task(caller())
        await asyncio.sleep(0.01)
        task.cancel()
        await going.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.005)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert gone


async def test_a_cancellation_while_leaving_is_not_lost():
    going, may_end = asyncio.Event(), asyncio.Event()

    async def work(numbers):
        try:
            await forever(numbers)
        finally:
            going.set()
            await may_end.wait()

    async def caller():
        async with run_of(work):
            await asyncio.sleep(0)
        raise AssertionError("it was cancelled before")

    task = asyncio.create_task(caller())
    await going.wait()
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_around_a_run_ends_it_and_one_around_its_result_does_not():
    may_end = asyncio.Event()

    async def work(numbers):
        await may_end.wait()
        return 7

    with nothing_left_behind():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), run_of(work) as run:
                await run.result()
        async with run_of(work) as run:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await run.result()
            may_end.set()
            assert await run.result() == 7


async def test_what_fails_while_a_run_is_cancelled_is_not_hidden():
    async def work(numbers):
        try:
            await forever(numbers)
        finally:
            raise errors.NoSpace("full")

    with pytest.raises(errors.NoSpace):
        async with run_of(work):
            await asyncio.sleep(0.001)


async def test_a_run_is_entered_once_and_nothing_is_asked_of_it_before():
    run = run_of(forever)
    with pytest.raises(RuntimeError, match="async with"):
        await run.result()
    with pytest.raises(RuntimeError, match="async with"):
        run.progress()
    async with run:
        with pytest.raises(RuntimeError, match="another"):
            await run.__aenter__()
    with pytest.raises(asyncio.CancelledError):
        await run.result()


# Progress.


async def test_snapshots_come_at_once_then_in_their_time_and_a_last_one_when_the_run_has_ended():
    step, loop = 0.05, asyncio.get_running_loop()

    async def work(numbers):
        for _ in range(25):
            await asyncio.sleep(0.01)
            numbers.read(1)

    times, seen = [], []
    async with run_of(work) as run:
        began = loop.time()
        async for progress in run.progress(step):
            times.append(loop.time())
            seen.append(progress.bytes_done)
        assert times[0] - began < step
        pairs = itertools.pairwise(times[:-1])
        assert all(later - sooner >= step * 0.99 for sooner, later in pairs)
        assert len(times) <= (times[-1] - began) / step + 2
        assert seen == sorted(seen) and seen[-1] == 25


async def test_iterating_late_gives_the_last_snapshot_alone():
    async def work(numbers):
        numbers.phase_is("reading")
        numbers.read(5)

    async with run_of(work) as run:
        await run.result()
        first = [progress async for progress in run]
        assert [progress async for progress in run] == first
    assert [progress async for progress in run] == first
    assert first == [Progress("reading", 5, 0, 0, 0, 0)]


async def test_two_iterators_do_not_take_from_each_other_and_a_slow_one_holds_up_nothing():
    async def work(numbers):
        for _ in range(20):
            await asyncio.sleep(0.001)
            numbers.read(1)

    async def watch(run, pause):
        seen = []
        async for progress in run.progress(0.002):
            seen.append(progress.bytes_done)
            await asyncio.sleep(pause)
        return seen

    async with run_of(work) as run, asyncio.TaskGroup() as group:
        watching = [group.create_task(watch(run, pause)) for pause in (0, 0.2)]
        await run.result()
    quick, slow = (task.result() for task in watching)
    assert quick[-1] == slow[-1] == 20
    assert len(quick) > len(slow) == 2


async def test_a_reader_that_never_waits_itself_still_lets_the_run_go_on():
    async def work(numbers):
        for _ in range(5):
            await asyncio.sleep(0)

    async with run_of(work) as run:
        async for _ in run.progress(0):
            time.sleep(0.001)  # noqa: ASYNC251 - the very thing that is asked about


async def test_iteration_ends_with_a_run_that_fails_or_is_cancelled_elsewhere():
    async def fail(numbers):
        numbers.read(3)
        raise errors.NoSpace("full")

    async with run_of(fail) as run:
        assert [progress.bytes_done async for progress in run][-1] == 3
        with pytest.raises(errors.NoSpace):
            await run.result()

    async with run_of(forever) as run:
        watching = asyncio.create_task(anext(aiter(run.progress(0))))
        await watching
        left = asyncio.create_task(all_of(run.progress(3600)))
        await asyncio.sleep(0.01)
    assert len(await left) == 2


async def all_of(iterator):
    return [each async for each in iterator]


async def test_a_snapshot_cannot_be_changed_and_knows_its_share():
    progress = Progress("reading", 5, 20, 0, 0, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        progress.bytes_done = 6
    assert progress.fraction == 0.25
    assert dataclasses.replace(progress, bytes_done=20).fraction == 1
    assert dataclasses.replace(progress, bytes_done=21).fraction is None
    assert dataclasses.replace(progress, bytes_total=0).fraction is None
    assert Progress("", 0, 0, 0, 0, 0).fraction is None


@pytest.mark.parametrize("every", [-1, float("nan"), float("inf"), 3601])
async def test_a_time_between_snapshots_that_no_loop_can_wait_is_refused(every):
    async with run_of(forever) as run:
        with pytest.raises(errors.UsageError):
            run.progress(every)


# Real runs.


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_backup_comes_back_on_either_loop_and_with_worker_processes(machine, new_loop):
    async def scenario():
        with nothing_left_behind():
            async with machine.connect() as client:
                async with client.backup("home", [machine.tree], workers=1) as run:
                    seen = [progress async for progress in run.progress(0.01)]
                    made = await run.result()
                back = await done(client.restore("home", machine.top / "back", workers=1))
                sound = await done(client.verify("home", workers=1, sample=0.5))
                listed = await client.points("home")
                entries = await client.entries("home", "tree/deep")
        return seen, made, back, sound, listed, entries

    with asyncio.Runner(loop_factory=new_loop) as runner:
        seen, made, back, sound, listed, entries = runner.run(scenario())
    assert made.files == back.files == sound.files == 41
    assert (back.damaged, sound.damaged, made.warnings) == ([], [], [])
    assert [point.point for point in listed.points] == [made.point]
    assert [entry.path for entry in entries.entries] == ["tree/deep/large"]
    for path in machine.tree.rglob("*"):
        there = machine.top / "back" / path.relative_to(machine.top)
        assert path.is_dir() or there.read_bytes() == path.read_bytes()
    for one, later in itertools.pairwise(seen):
        assert all(
            getattr(one, field) <= getattr(later, field)
            for field in ("bytes_done", "files_done", "bytes_sent", "warnings_total")
        )
    assert seen[-1].files_done == 41 and seen[-1].bytes_done == made.bytes_source
    assert seen[-1].bytes_sent == made.bytes_sent
    assert machine.open_sessions() == 0


def test_results_are_those_of_the_command_line(machine, capsys):
    (machine.top / "passphrase").write_text(PASSPHRASE)

    async def library():
        async with machine.connect() as client:
            # The same keys, so that IDs, and where pages are cut, are the same.
            copytree(machine.vault, machine.top / "other")
            made = await done(client.backup("home", machine.tree, workers=0))
            back = await done(client.restore("home", machine.top / "one", workers=0))
            sound = await done(client.verify("home", workers=0))
            return made, back, sound, await client.points(), await client.entries("home", "tree")

    def command(*words, vault="vault"):
        agent = ["--vault", machine.top / vault, "--state", machine.state, "--json",
                 "--passphrase-file", machine.top / "passphrase"]  # fmt: skip
        main([str(word) for word in (*words, *agent)])
        answer = json.loads(capsys.readouterr().out)
        assert answer.pop("exit") == 0, answer
        return answer | {"seconds": 0}

    made, back, sound, listed, entries = (
        dataclasses.asdict(result) | {"seconds": 0} for result in asyncio.run(library())
    )
    assert command("points") == listed
    for entry in entries["entries"]:
        assert entry.pop("path_b64") is None
    assert command("ls", "home", "tree") == entries
    threads = ("--workers", 0)
    assert command("restore", "home", "--to", machine.top / "two", *threads) == back
    assert command("verify", "home", *threads) == sound
    (machine.state / "vaults").joinpath(*os.listdir(machine.state / "vaults")).unlink()
    other = command("backup", "home", machine.tree, *threads, vault="other")
    assert other | {"point": made["point"]} == made


async def test_two_runs_of_one_client_go_on_side_by_side_but_an_item_has_one_writer(machine):
    with nothing_left_behind():
        async with machine.connect() as client:
            async with asyncio.TaskGroup() as group:
                runs = [
                    group.create_task(done(client.backup(item, [path], workers=0)))
                    for item, path in (("tree", machine.tree), ("image", machine.make_image(2**20)))
                ]
            assert all(run.result().point for run in runs)
            async with client.backup("tree", [machine.tree], workers=0) as first:
                with pytest.raises(errors.ItemBusy):
                    await done(client.backup("tree", [machine.tree], workers=0))
                assert (await first.result()).parent == runs[0].result().point
    assert machine.open_sessions() == 0


async def test_what_a_cancelled_backup_sent_stays_and_the_next_goes_on_from_there(machine):
    machine.make_image(32 * 2**20)
    async with machine.connect() as client:
        async with client.backup("image", [machine.image], workers=0) as run:
            async for progress in run.progress(0):
                if progress.bytes_sent:
                    break
        assert (await client.points()).points == []
        with pytest.raises(asyncio.CancelledError):
            await run.result()
        made = await done(client.backup("image", [machine.image], workers=0))
        assert made.parent is None
        assert 0 < made.bytes_stored < 32 * 2**20
        assert made.blocks_resent == 0
        await done(client.restore("image", machine.top / "back", workers=0))
    assert (machine.top / "back").read_bytes() == machine.image.read_bytes()


async def cancelled_after(seconds, run):
    """True if it had not ended before."""
    task = asyncio.create_task(done(run))
    await asyncio.sleep(seconds)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


@pytest.mark.parametrize("workers", [0, 1])
async def test_cancelled_at_any_moment_nothing_is_left_and_the_next_run_works(machine, workers):
    moments, stopped = random.Random(f"cancelled {workers}"), 0
    tree, image, back = machine.tree, machine.make_image(12 * 2**20), machine.top / "back"
    times = 12 if workers == 0 else 4
    back.mkdir()
    async with machine.connect() as client:
        started = time.monotonic()
        for item, path in (("tree", tree), ("image", image)):
            await done(client.backup(item, [path], workers=workers, full=True))
        length = (time.monotonic() - started) / 2
        for number in range(times):
            for run in (
                client.backup("tree", [tree], workers=workers, full=True),
                client.restore("tree", back, workers=workers, overwrite="always"),
                client.restore("image", back / f"image-{number}", workers=workers),
                client.verify("image", workers=workers),
            ):
                with nothing_left_behind():
                    stopped += await cancelled_after(moments.uniform(0, length), run)
        assert stopped
        made = await done(client.backup("tree", [tree], workers=workers))
        await done(client.restore("tree", back, workers=workers, overwrite="always"))
        assert (await done(client.verify("tree", workers=workers))).damaged == []
    assert made.warnings == []
    assert (back / "tree/deep/large").read_bytes() == (tree / "deep/large").read_bytes()
    for path in back.glob("image-*"):  # a name means that all of it is there
        assert path.read_bytes() == image.read_bytes()
    left = [path for path in machine.top.rglob(".*") if path.is_file()]
    assert {path.parent for path in left} <= {back}  # images that nobody went on with
    assert all(key_of(os.fsencode(path.name)) for path in left)
    assert machine.open_sessions() == 0


@pytest.mark.parametrize("workers", [0, 1])
async def test_runs_give_back_every_descriptor_and_all_shared_memory(machine, workers):
    image = machine.make_image(2**20)

    async def use(back):
        back.mkdir()
        async with machine.connect() as client:
            for item, path in (("home", machine.tree), ("image", image)):
                await done(client.backup(item, path, workers=workers, full=True))
                await done(client.restore(item, back / item, workers=workers))
            async with client.restore("home", back / "stopped", workers=workers):
                await asyncio.sleep(0.02)
            await client.entries("home")

    await use(machine.top / "first")  # what is opened once and for all
    gc.collect()
    before = descriptors()
    await use(machine.top / "second")
    gc.collect()
    assert descriptors() == before
    assert "transfer-slots" not in Path("/proc/self/maps").read_text()


async def test_who_is_cancelled_while_connecting_leaves_the_vault_free(machine):
    async with machine.connect():
        pass
    for seconds in (0, 0.001, 0.005, 0.01, 0.02):
        with nothing_left_behind(), suppress(TimeoutError):
            async with asyncio.timeout(seconds), machine.connect():
                await asyncio.sleep(1)
    async with machine.connect():
        pass


async def test_a_client_that_is_closed_ends_its_runs_first_and_begins_no_more(machine):
    with nothing_left_behind():
        async with machine.connect() as client:
            image = machine.make_image(12 * 2**20)
            moving = asyncio.Event()

            async def backup():
                async with client.backup("home", [image], workers=0) as run:
                    async for now in run.progress(0):
                        if now.phase == "transferring":
                            moving.set()
                    return await run.result()

            other = asyncio.create_task(backup())
            await moving.wait()
        with pytest.raises(asyncio.CancelledError):
            await other
        with pytest.raises(RuntimeError, match="left"):
            await done(client.backup("home", [image]))
    assert machine.open_sessions() == 1  # what was sent stays for the run that goes on
    async with machine.connect() as client:
        assert (await client.points()).points == []
        await done(client.backup("home", [image]))
    assert machine.open_sessions() == 0


# Errors.


async def test_errors_are_the_packages_own(machine):
    async with machine.connect() as client:
        with pytest.raises(errors.NotFound):
            await done(client.backup("home", [machine.top / "missing"]))
        with pytest.raises(errors.UsageError):
            await done(client.backup("a/b", [machine.tree]))
        with pytest.raises(errors.NotFound):
            await client.points("home")
        with pytest.raises(errors.NotFound):
            await done(client.restore("home", machine.top / "back"))
        with pytest.raises(errors.LockHeld):
            async with machine.connect():
                pass


def test_what_the_system_says_becomes_an_error_of_the_package_and_a_bug_stays_one():
    with pytest.raises(errors.NoSpace) as told, _own_errors():
        raise OSError(errno.ENOSPC, "No space left", "/somewhere")
    assert "/somewhere" in str(told.value) and isinstance(told.value.__cause__, OSError)
    with pytest.raises(ZeroDivisionError), _own_errors():
        raise ZeroDivisionError
    with pytest.raises(errors.ItemBusy) as told, _own_errors():
        raise errors.ItemBusy("busy")
    assert told.value.__cause__ is None


async def test_an_error_of_the_clients_block_is_not_taken_for_one_of_ours(machine):
    with pytest.raises(OSError) as told:
        async with machine.connect():
            raise OSError(errno.ENOSPC, "of the caller")
    assert type(told.value) is OSError


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("backup", {"paths": []}),
        ("backup", {"paths": iter(())}),
        ("backup", {"paths": "/etc", "compression": "best"}),
        ("backup", {"paths": "/etc", "workers": -1}),
        ("backup", {"paths": "/etc", "workers": 65}),
        ("restore", {"to": "/tmp/back", "paths": []}),
        ("restore", {"to": "/tmp/back", "overwrite": "nevr"}),
        ("restore", {"to": "/tmp/back", "owner": "me"}),
        ("verify", {"sample": 0}),
        ("verify", {"sample": 5}),
        ("verify", {"sample": float("nan")}),
    ],
)
def test_wrong_arguments_are_refused_before_anything_begins(method, arguments):
    client = transfer.Client(agent=None)
    with pytest.raises(errors.UsageError):
        getattr(client, method)("home", **arguments)


async def test_one_path_is_a_path_and_not_its_letters(machine):
    (machine.tree / "x.tmp").touch()
    async with machine.connect() as client:
        for paths in (str(machine.tree), os.fsencode(machine.tree), machine.tree):
            made = await done(client.backup("home", paths, exclude="*.tmp", workers=0))
            assert made.files == 41
        wanted = "tree/small-1"
        for number, paths in enumerate((wanted, wanted.encode(), [Path(wanted)])):
            back = machine.top / f"back-{number}"
            assert (await done(client.restore("home", back, paths=paths, workers=0))).files == 1
        back = machine.top / "back"
        found = await done(client.restore("home", back, include=["*large"], workers=0))
        assert found.files == 1


async def test_a_limit_that_would_limit_nothing_is_refused_by_name(machine):
    async with machine.connect() as client:
        for name, run in (
            ("up", client.backup("home", machine.tree, up="8Mbit")),
            ("up", client.backup("home", machine.tree, up=1000)),
            ("down", client.restore("home", machine.top / "back", down="1M")),
            ("down", client.verify("home", down="1M")),
        ):
            with pytest.raises(
                errors.UsageError, match=rf"{name} is for .* network, and {machine.vault} is"
            ):
                await done(run)
    with pytest.raises(errors.UsageError, match="connections is for"):
        async with machine.connect(connections=4):
            pass


async def test_what_is_no_rate_is_refused_and_off_is_none(machine):
    async with machine.connect() as client:
        for rate, why in (("fast", "no RATE"), ("0", "paused"), (0, "paused"), (-1, "paused")):
            with pytest.raises(errors.UsageError, match=why):
                await done(client.backup("home", machine.tree, up=rate, workers=0))
        await done(client.backup("home", machine.tree, up="off", workers=0))


# Opening.


async def test_the_secret_is_a_string_a_function_or_a_file(machine):
    file = machine.top / "passphrase"
    file.write_text(PASSPHRASE + "\n")

    async def fetched():
        await asyncio.sleep(0)
        return PASSPHRASE

    async with machine.connect(passphrase=fetched):
        pass
    for secret in ({"passphrase": lambda: PASSPHRASE}, {"passphrase_file": file}):
        async with machine.connect(**{"passphrase": None, "create": False} | secret) as client:
            assert (await client.points()).points == []
    with pytest.raises(errors.WrongPassphrase):
        async with machine.connect(passphrase="not the passphrase"):
            pass


def test_a_recovery_key_opens_as_well(machine, capsys):
    file = machine.top / "passphrase"
    file.write_text(PASSPHRASE)

    async def open_with(**secret):
        async with machine.connect(**secret) as client:
            return await client.points()

    asyncio.run(open_with())
    words = ["key", "recovery", "--vault", machine.vault, "--state", machine.state,
             "--passphrase-file", file, "--json"]  # fmt: skip
    main([str(word) for word in words])
    key = json.loads(capsys.readouterr().out)["recovery_key"]
    file.write_text(key)
    for secret in ({"recovery_key": key}, {"recovery_key": lambda: key},
                   {"recovery_key_file": file}):  # fmt: skip
        assert asyncio.run(open_with(passphrase=None, create=False, **secret)).points == []


@pytest.mark.parametrize("secret", [{}, {"passphrase": PASSPHRASE, "recovery_key": "x"}])
async def test_exactly_one_secret_is_given(machine, secret):
    with pytest.raises(errors.UsageError, match="one secret"):
        async with machine.connect(**{"passphrase": None} | secret):
            pass


async def test_a_vault_is_made_only_when_that_is_asked_for(machine):
    with pytest.raises(errors.NotFound):
        async with machine.connect(create=False):
            pass
    assert not machine.vault.exists()


async def test_without_a_directory_it_is_the_vault_that_the_machine_is_registered_with(machine):
    for connections in (None, 4):
        with pytest.raises(errors.NotRegistered):
            async with machine.connect(vault=None, connections=connections):
                pass
    for connections in (0, 65):
        with pytest.raises(errors.UsageError, match=f"{connections} connections"):
            async with machine.connect(vault=None, connections=connections):
                pass


# The package.


def in_a_program(text):
    command = [sys.executable, "-c", f"import sys; before = set(sys.modules); {text}"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_importing_the_package_imports_nothing_that_takes_time():
    modules = "print(*sorted(set(sys.modules) - before))"
    found = set(in_a_program(f"import transfer; transfer.errors; dir(transfer); {modules}").split())
    assert {name for name in found if name.startswith("transfer")} == {
        "transfer", "transfer.errors",
    }  # fmt: skip
    assert not found & {"asyncio", "fcntl", "pwd", "grp", "resource", "importlib.metadata"}
    names = "from transfer import Client, Progress, Run, connect, errors"
    found = {name.partition(".")[0] for name in in_a_program(f"{names}; {modules}").split()}
    assert not found & {"aiohttp", "blake3", "cryptography", "msgspec", "sqlalchemy", "rich"}


def test_the_package_shows_what_it_offers():
    assert {"connect", "errors", "Client", "Run", "Progress"} <= set(dir(transfer))
    for name in transfer.__all__:
        assert getattr(transfer, name) is not None
    assert transfer.errors is errors
    with pytest.raises(AttributeError, match="nothing"):
        transfer.nothing  # noqa: B018
    assert (ROOT / "transfer" / "py.typed").exists()
