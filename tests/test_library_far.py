"""The library with a vault behind HTTPS, and its examples against a server of their own."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import transfer
from tests.acceptance.served import Server
from tests.acceptance.shell import PASSPHRASE, Shell
from tests.jobs.test_register import Setup
from tests.net.far import far_vault
from transfer import errors

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE = 3 * 2**20


@pytest.fixture
async def far(tmp_path, quick_keyrings):
    """A server in this process, whose vault the machine in *tmp_path*/state is registered with."""
    async with far_vault(tmp_path / "vault", time.time_ns) as running:
        await Setup(running, tmp_path).register(passphrase=PASSPHRASE)
        yield running


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.mkdir()
    (path / "letter").write_text("first")
    (path / "large").write_bytes(os.urandom(SIZE))
    return path


def connect(tmp_path, **options):
    return transfer.connect(state=tmp_path / "state", passphrase=PASSPHRASE, **options)


async def test_all_that_a_run_can_be(far, source, tmp_path):
    async with connect(tmp_path, connections=2) as client:
        async with client.backup("item", [source], workers=0) as run:
            seen = [progress.phase async for progress in run.progress(every=0)]
            made = await run.result()
        assert seen[-1] == "committing"
        assert made.bytes_sent > SIZE
        listed = await client.points("item")
        assert [each.point for each in listed.points] == [made.point]
        async with client.verify("item", workers=0) as run:
            assert (await run.result()).damaged == []
        back = tmp_path / "back"
        async with client.restore("item", to=back, paths=["source/letter"], workers=0) as run:
            assert (await run.result()).files == 1
    assert (back / "source" / "letter").read_text() == "first"
    assert not (back / "source" / "large").exists()


async def test_limits_belong_to_a_run(far, source, tmp_path):
    async with connect(tmp_path) as client:
        began = time.monotonic()
        async with client.backup("slow", [source], up="24Mbit", workers=0) as run:
            assert (await run.result()).limited_by == "throttle"
        assert time.monotonic() - began > 0.9
        began = time.monotonic()
        async with client.restore("slow", to=tmp_path / "a", down=SIZE, workers=0) as run:
            await run.result()
        slow = time.monotonic() - began
        async with client.restore("slow", to=tmp_path / "b", workers=0) as run:
            await run.result()
        assert slow > 0.9


async def test_leaving_early_leaves_nothing_and_what_was_sent_stays(far, source, tmp_path):
    before = asyncio.all_tasks()
    async with connect(tmp_path) as client:
        async with client.backup("item", [source], up=SIZE, workers=0) as run:
            async for progress in run.progress(every=0.01):
                if progress.bytes_sent:
                    break
        assert (await client.points()).points == []
        async with client.backup("item", [source], workers=0) as run:  # nobody holds the item
            await run.result()
    await asyncio.sleep(0.1)
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    assert {task for task in left if "_welcome" not in repr(task)} == set()


async def test_who_is_not_registered_is_told_so(tmp_path):
    with pytest.raises(errors.NotRegistered):
        async with transfer.connect(state=tmp_path / "none", passphrase=PASSPHRASE):
            raise AssertionError


def test_the_examples_with_a_registered_vault(source, tmp_path):
    server = Server(tmp_path / "vault")
    shell = Shell(tmp_path, far=True)

    def example(name, *words):
        agent = ["--state", tmp_path / "state", "--passphrase-file", tmp_path / "passphrase"]
        done = subprocess.run(
            list(map(str, [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *words, *agent,
                           "--workers", 0])),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    with server.running():
        server.register(shell)
        began = time.monotonic()
        told = example("bulk_upload", "bulk", source, "--up", "16Mbit")
        assert f"{SIZE + 5} bytes are safe" in told
        assert time.monotonic() - began > 1.4
        assert "2 files" in example("embedded_agent", "home", source)
        example("restore_one_file", "home", "source/letter", tmp_path / "back")
    assert (tmp_path / "back" / "source" / "letter").read_text() == "first"
