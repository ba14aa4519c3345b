"""Nothing keeps an event loop from its connections: no callback computes for more than 50 ms."""

import subprocess
import sys

import pytest

from perf import data
from tests.acceptance import stalls
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell, spawn

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MIB = 2**20
LIMIT = 50.0  # milliseconds


@pytest.mark.parametrize(
    ("make", "size"),
    [(data.image, 256 * MIB), (data.incompressible, 256 * MIB), (data.many_files, 10_000)],
    ids=["image", "noise", "tree"],
)
def test_no_callback_computes_for_long(tmp_path, make, size):
    source = make(tmp_path / "source", size)
    shell, server = Shell(tmp_path, far=True), Server(tmp_path / "vault")
    assert server.starts("tests.acceptance.stalls", tmp_path / "server")
    server.register(shell)
    commands = {
        "backup": ("backup", "item", source),
        "again": ("backup", "item", source, "--full"),
        "restore": ("restore", "item", "--to", tmp_path / "restored"),
    }
    for name, words in commands.items():
        command = [sys.executable, "-m", "tests.acceptance.stalls", tmp_path / name]
        shell.finish(spawn([*command, *shell._words(*words)], stderr=subprocess.PIPE))
    server.end(15)
    for name in (*commands, "server"):
        found = stalls.worst(tmp_path / name)
        assert len(found) == stalls.KEPT, "the loop was not looked at"
        assert found[0].milliseconds < LIMIT, (name, found)
