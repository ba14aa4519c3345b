"""kill -9 of the vault's server, again and again: a run waits for it and goes on."""

import random
import signal
import time
from contextlib import contextmanager

import pytest

from perf.data import incompressible
from tests.acceptance import trees
from tests.acceptance.compare import differences
from tests.acceptance.relay import Relay
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell

MIB = 2**20
FRAME = MIB + 4096
SLOW = [pytest.mark.slow, pytest.mark.timeout(1200)]
HOURS = [pytest.mark.hours, pytest.mark.timeout(1200)]


@pytest.fixture
def setup(work):
    """A registered machine whose calls go through a relay that keeps what it heard."""
    server, shell = Server(work / "vault").start(), Shell(work, far=True)
    with Relay(server.port, work / "heard") as relay:
        server.register(shell, "--url", f"https://127.0.0.1:{relay.port}")
        yield server, shell, lambda: (work / "heard").stat().st_size
    server.end()


@contextmanager
def killing(server, process, moments, heard, step):
    """Kill the server at each of the *moments*, as bytes that went by, until the process ends."""
    for _ in range(moments):
        goal = heard() + step()
        while process.poll() is None and heard() < goal:
            time.sleep(0.002)
        assert process.poll() is None, "it ended before its vault was killed often enough"
        assert server.end(signal.SIGKILL) == -9
        server.start()
    yield


def exact(shell, source, into, name):
    shell("restore", name, "--to", into)
    if source.is_dir():
        return differences(source, into / source.name) == []
    return source.read_bytes() == into.read_bytes()


@pytest.mark.parametrize(
    ("connections", "kills"),
    [(4, 2), pytest.param(4, 12, marks=SLOW), pytest.param(4, 50, marks=HOURS)],
)
@pytest.mark.timeout(300)
def test_a_backup_whose_vault_is_killed_sends_at_most_one_frame_a_connection_again(
    setup, work, connections, kills
):
    server, shell, heard = setup
    source, before = incompressible(work / "source", (kills + 3) * 6 * MIB), heard()
    steps = random.Random(connections)
    process = shell.start(
        "backup", "item", source, "--up", "16M", "--connections", connections,
        "--give-up-after", "5m",
    )  # fmt: skip
    with killing(server, process, kills, heard, lambda: steps.randrange(4 * MIB)):
        result = shell.finish(process)
    sent = heard() - before
    assert result["warnings"] == []
    assert result["bytes_read"] == result["bytes_source"]
    assert sent < result["bytes_source"] * 1.02 + kills * connections * FRAME + MIB
    assert exact(shell, source, work / "back", "item")
    assert shell("vault", "verify", work / "vault", plain=True)["damaged"] == []


@pytest.mark.parametrize(
    ("connections", "kills"),
    [(4, 2), pytest.param(4, 12, marks=SLOW), pytest.param(4, 50, marks=HOURS)],
)
@pytest.mark.timeout(300)
def test_a_restore_whose_vault_is_killed_fetches_at_most_one_frame_a_connection_again(
    setup, work, connections, kills
):
    server, shell, heard = setup
    source = incompressible(work / "source", (kills + 3) * 6 * MIB)
    shell("backup", "item", source)
    steps, before = random.Random(connections), heard()
    process = shell.start(
        "restore", "item", "--to", work / "back", "--down", "16M", "--connections", connections,
        "--give-up-after", "5m",
    )  # fmt: skip
    with killing(server, process, kills, heard, lambda: steps.randrange(4 * MIB)):
        assert shell.finish(process)["warnings"] == []
    assert heard() - before < source.stat().st_size * 1.02 + kills * connections * FRAME + MIB
    assert source.read_bytes() == (work / "back").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_tree_whose_vault_is_killed_comes_back(setup, work):
    server, shell, heard = setup
    source, steps = trees.many_files(work / "source", 3000), random.Random(1)
    process = shell.start("backup", "item", source, "--up", "16M", "--give-up-after", "5m")
    with killing(server, process, 3, heard, lambda: steps.randrange(4 * MIB)):
        assert shell.finish(process)["warnings"] == []
    assert exact(shell, source, work / "back", "item")
    assert shell("vault", "verify", work / "vault", plain=True)["damaged"] == []


@pytest.mark.parametrize("command", [pytest.param("backup", marks=SLOW), "restore"])
def test_a_vault_that_stays_away_ends_a_run_with_75_and_the_next_goes_on(setup, work, command):
    server, shell, heard = setup
    source = incompressible(work / "source", 48 * MIB)
    time.sleep(2.1)  # until a ctime proves something
    words, known = ("backup", "item", source, "--up", "16M"), "bytes_resumed"
    if command == "restore":
        shell(*words)
        words, known = ("restore", "item", "--to", work / "back", "--down", "16M"), "bytes_kept"
    goal = heard() + 28 * MIB  # more than all lanes together have in hand
    process = shell.start(*words, "--give-up-after", "2s")
    while process.poll() is None and heard() < goal:
        time.sleep(0.002)
    server.end(signal.SIGKILL)
    answer = shell.finish(process, 75)
    assert answer["error"]["code"] == "vault-unavailable"
    server.start()
    assert shell(*words)[known] >= 4 * MIB
    assert command == "restore" or exact(shell, source, work / "back", "item")
    assert source.read_bytes() == (work / "back").read_bytes()
