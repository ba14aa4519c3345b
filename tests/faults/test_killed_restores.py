"""kill -9 at random moments, again and again: the same restore goes on where the last one was."""

import filecmp
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from perf.data import incompressible
from tests.acceptance import trees
from tests.acceptance.compare import differences
from tests.acceptance.loopback import narrow
from tests.acceptance.needs import space
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell, kill

MIB = 2**20
SLOW = [pytest.mark.slow, pytest.mark.timeout(1200)]
HOURS = [pytest.mark.hours, pytest.mark.timeout(1200)]
FRAME = MIB + 4096
BETWEEN = 2**18  # bytes of a connection that the server has sent, and buffers of two kernels hold


class Stored:
    """Sources in a vault behind a server that logs each call. *lost*: what a kill may cost each of
    four connections, in bytes: a frame, and what kernels hold, where nothing bounds that."""

    def __init__(self, top, is_narrow):
        self.top, self.shell = top, Shell(top, far=True)
        self.lost = FRAME + BETWEEN if is_narrow else 4 * FRAME
        self.server = Server(top / "vault").start()
        self.server.register(self.shell)
        self.items = {}

    def item(self, name):
        """The source *name*, and it as an item."""
        if name not in self.items:
            path, (kind, size) = self.top / name, name.split("-")
            if kind == "noise":
                incompressible(path, int(size) * MIB)
            elif kind == "image":
                trees.image(path, int(size) * MIB)
            else:
                trees.many_files(path, int(size))
                trees.image(path / "large", int(size) * MIB // 50)
            space(path, 3 * written(path))
            self.items[name] = path, self.shell("backup", name, path)["bytes_stored"]
        return self.items[name]

    def fetched(self):
        """Bytes of frames that the server has sent so far."""
        lines = [line.split() for line in self.server.log.read_text().splitlines()]
        return sum(int(words[6]) for words in lines if len(words) > 6 and words[3] == "/v1/fetch")


@pytest.fixture(scope="module")
def stored():
    top = Path(tempfile.mkdtemp(prefix="transfer-kills-"))
    with narrow() as is_narrow:
        stored = Stored(top, is_narrow)
        yield stored
        stored.server.process.kill()
    shutil.rmtree(top)


def written(top):
    """Bytes that stand below *top*, in whatever files."""
    paths = [top] if top.is_file() else top.rglob("*") if top.exists() else []
    found = 0
    for path in paths:
        try:
            found += path.stat().st_blocks * 512 if path.is_file() else 0
        except FileNotFoundError:  # it got its name
            continue
    return found


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        ("image-96", 3), ("tree-1500", 3),
        pytest.param("image-512", 12, marks=SLOW),
        pytest.param("image-2048", 50, marks=HOURS), pytest.param("tree-20000", 50, marks=HOURS),
    ],
)  # fmt: skip
@pytest.mark.timeout(300)
def test_a_killed_restore_goes_on_where_it_was(stored, work, name, kills):
    source, size = stored.item(name)
    into, before, moments = work / "into", stored.fetched(), random.Random(name)
    into.mkdir()
    for number in range(kills):
        part = (number + moments.random()) / (kills + 1)
        process = stored.shell.start("restore", name, "--to", into)
        killed(process, into, part * written(source), moments.uniform(0, 0.02))
    result = stored.shell("restore", name, "--to", into)
    assert result["warnings"] == []
    assert result["bytes_kept"] > 0
    assert stored.fetched() - before < size * 1.01 + kills * 4 * stored.lost
    assert list(work.rglob(".transfer-*")) == []
    if source.is_dir():
        assert differences(source, into / source.name) == []
    else:
        assert filecmp.cmp(source, into / name, shallow=False)


def killed(process, into, size, pause):
    """Killed some seconds after so much stands in *into*."""
    while process.poll() is None and written(into) < size:
        time.sleep(0.005)
    time.sleep(pause)
    assert kill(process.pid)
    assert process.wait() == -9
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize(
    ("connections", "name", "kills"),
    [
        (4, "noise-24", 3), pytest.param(1, "noise-24", 3, marks=pytest.mark.slow),
        pytest.param(4, "noise-96", 50, marks=HOURS),
    ],
)  # fmt: skip
def test_a_slow_restore_loses_at_most_one_frame_a_connection(
    stored, work, connections, name, kills
):
    (source, size), moments = stored.item(name), random.Random(connections)
    words = ("restore", name, "--to", work, "--connections", connections, "--down", "6M")
    before = stored.fetched()
    for number in range(1, kills + 1):
        part = number / (kills + 1) * source.stat().st_size
        killed(stored.shell.start(*words), work, part, moments.uniform(0, 0.2))
    stored.shell(*words)
    assert filecmp.cmp(source, work / name, shallow=False)
    assert stored.fetched() - before < size * 1.01 + kills * connections * (FRAME + BETWEEN)
