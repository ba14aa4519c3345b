"""A served vault that fails at any named place: its machines go on, and nothing is lost."""

import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from tests.acceptance.compare import differences
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell
from tests.faults import test_failpoints as failures
from tests.faults.failpoints import ACTIONS, BACKUP

PLACES = [place.name for place in BACKUP if place.role == "vault"]
ENDS = {**failures.ENDS, "kill": {0}}  # of the backup: it goes on when its vault is back


def cases():
    """A few always, each third place with one action in CI, all for whoever has the time."""
    for number, place in enumerate(PLACES):
        for turn, action in enumerate(ACTIONS):
            is_chosen = number % 3 == 0 and turn == number // 3 % len(ACTIONS)
            marks = (pytest.mark.slow,) if is_chosen else (pytest.mark.hours,)
            marks = () if is_chosen and number % 16 == 0 else marks
            yield pytest.param(place, action, marks=marks, id=f"{place}-{action}")


@pytest.fixture(scope="module")
def stocked():
    """A served vault with a point, its machine, and the source, which has changed since."""
    top = Path(tempfile.mkdtemp(prefix="transfer-served-"))
    shell, server = Shell(top, far=True), Server(top / "vault")
    source = top / "source"
    for number in range(6):
        (source / f"d{number}").mkdir(parents=True)
        (source / f"d{number}" / "file").write_bytes(os.urandom(5000))
    (source / "large").write_bytes(os.urandom(5 * 2**20))
    with server.running():
        server.register(shell)
        shell("backup", "item", source)
    (source / "d3" / "file").write_bytes(os.urandom(6000))
    (source / "large").write_bytes(os.urandom(5 * 2**20))
    for name in ("vault", "state"):
        shutil.copytree(top / name, top / f"first-{name}")
    yield server, shell, source
    shutil.rmtree(top)


@pytest.fixture
def served(stocked):
    """As it was, served by nobody yet."""
    server, shell, source = stocked
    for name in ("vault", "state"):
        shutil.rmtree(shell.top / name)
        shutil.copytree(shell.top / f"first-{name}", shell.top / name)
    return server, shell, source


@pytest.mark.parametrize(("place", "action"), list(cases()))
def test_a_vault_that_fails_there_is_waited_for_or_ends_the_run_and_loses_nothing(
    served, work, place, action
):
    server, shell, source = served
    marker = work / "marker"
    if not server.starts("tests.faults.failpoints", place, action, "1", marker):
        server.start()
    process = shell.start("backup", "item", source, "--give-up-after", "60s")
    while process.poll() is None:
        if server.process.poll() is not None:
            server.start()
        time.sleep(0.01)
    shell.finish(process, None)
    assert process.returncode in ENDS[action]
    stopped(server)
    assert marker.exists()
    server.log.write_text("")  # an error where none of its kind is raised leaves a traceback
    with server.running():
        if process.returncode == 0:
            exact(shell, source, work / "made")
        assert shell("backup", "item", source)["warnings"] == []
        exact(shell, source, work / "back")
        assert len(shell("points", "item")["points"]) in (2, 3)
    assert shell("vault", "verify", server.directory, plain=True)["damaged"] == []


def stopped(server):
    server.process.terminate()
    server.process.wait(60)


def exact(shell, source, into):
    shell("restore", "item", "--to", into)
    assert differences(source, into / "source") == []
