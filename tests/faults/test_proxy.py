"""Harm on the way between a machine and its vault, at many places: a run goes on, and is exact."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.compare import differences
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell
from tests.faults.proxy import KINDS, Harm, Proxy

MIB = 2**20
ANSWERS = 9000  # bytes, at the least: how often a run asks varies
PARTS = (0.0, 0.02, 0.3, 0.6, 0.95)  # of what goes by
SIZE = 3 * MIB


class Setup:
    """A machine that is registered through the proxy."""

    def __init__(self, top, proxy):
        self.top, self.proxy = top, proxy
        self.machine = Machine(top, far=True)
        self.tree, self.count = top / "tree", itertools.count()
        self.tree.mkdir()
        self.change()

    def change(self):
        (self.tree / "large").write_bytes(os.urandom(SIZE))
        for number in range(20):
            (self.tree / f"{number:02}").write_bytes(os.urandom(5000))

    def is_exact(self, into):
        found = differences(self.tree, into / "tree")
        shutil.rmtree(into)
        return found == []

    async def backup(self):
        return await self.machine.backup(self.tree)

    async def restore(self):
        """Where it came back."""
        into = self.top / f"back-{next(self.count)}"
        result = await self.machine.restore(into)
        assert (result.damaged, result.warnings) == ([], [])
        return into


@pytest.fixture(scope="module")
def served():
    top = Path(tempfile.mkdtemp(prefix="transfer-proxy-"))
    server = Server(top / "vault").start()
    with Proxy(server.port) as proxy:
        server.register(Shell(top, far=True), "--url", f"https://127.0.0.1:{proxy.port}")
        yield Setup(top, proxy)
    server.process.kill()
    server.process.communicate()
    shutil.rmtree(top)


def places(count):
    """Each kind of harm, each way, at each part: some of them by default."""
    for number, (kind, way, part) in enumerate(itertools.product(KINDS, ("up", "down"), PARTS)):
        waits = kind in ("stall", "delay")
        by_default = number % count == 0 and not waits
        in_ci = part == 0.3 if waits else number % 2
        rest = pytest.mark.slow if in_ci else pytest.mark.hours
        marks = () if by_default else (rest,)
        yield pytest.param(kind, way, part, marks=marks, id=f"{kind}-{way}-{part}")


@pytest.mark.parametrize(("kind", "way", "part"), list(places(7)))
async def test_a_backup_is_not_harmed(served, kind, way, part):
    served.change()
    total = {"up": SIZE + 100_000, "down": ANSWERS}[way]
    served.proxy.expect(Harm(kind, way, int(part * total)))
    made = await served.backup()
    assert served.proxy.done, served.proxy.seen
    assert made.warnings == []
    served.proxy.expect(None)
    assert served.is_exact(await served.restore())


@pytest.mark.parametrize(("kind", "way", "part"), list(places(9)))
async def test_a_restore_is_not_harmed(served, kind, way, part):
    served.proxy.expect(None)
    await served.backup()
    total = {"up": 6_000, "down": SIZE + 100_000}[way]
    served.proxy.expect(Harm(kind, way, int(part * total)))
    into = await served.restore()
    assert served.proxy.done, served.proxy.seen
    assert served.is_exact(into)
