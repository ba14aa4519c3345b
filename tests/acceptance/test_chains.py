"""One source in several chains, in turn: each knows what itself has, and not what another one has.

A chain is of one vault, domain and item. What is skipped in one was seen by that one.
"""

import pytest

from tests.acceptance import trees
from tests.acceptance.agent import Machine
from tests.acceptance.compare import differences
from tests.acceptance.test_history import edit, exact
from transfer.crypto import wrap
from transfer.errors import VaultUnavailable
from transfer.jobs import backup as backup_job
from transfer.jobs.progress import Progress

pytestmark = pytest.mark.usefixtures("quick_keyrings")

BLOCK = 64 * 1024
TURNS = [0, 1, 0, 0, 1]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Files need no age before their times prove something: clocks here are fine enough."""
    monkeypatch.setattr("transfer.pipeline.grouping.SETTLED", 0)
    monkeypatch.setattr("transfer.sources.quiet.SETTLED", 0)
    monkeypatch.setattr(wrap, "MEMORY", 19 * 1024)
    monkeypatch.setattr(wrap, "PASSES", 1)


@pytest.fixture
def source(tmp_path):
    """Its files have sizes that tell from a sum which of them were read."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(len(TURNS)):
        (source / str(number)).write_bytes(trees.noise(number, 3000 + 2**number))
    return source


def chains_of(top, what):
    """Two chains of one source: (machine, item)."""
    if what == "vaults":
        return [(Machine(top, vault="one"), "item"), (Machine(top, vault="two"), "item")]
    if what == "items":
        return [(Machine(top), "item"), (Machine(top), "another")]
    return [(Machine(top, state="one"), "item"), (Machine(top, state="two"), "item")]


SEVERAL = pytest.mark.parametrize("what", ["vaults", "items", "states"])


@SEVERAL
async def test_each_chain_reads_what_changed_since_its_own_point(tmp_path, source, what):
    chains = chains_of(tmp_path, what)
    disk = tmp_path / "disk"
    disk.write_bytes(trees.noise("disk", len(TURNS) * BLOCK))
    points, unseen = [None, None], [set(source.iterdir()), set(source.iterdir())]
    for turn, at in enumerate(TURNS):
        changed = source / str(turn)
        edit(changed, trees.noise(f"turn {turn}", changed.stat().st_size))
        for each in unseen:
            each.add(changed)
        with disk.open("r+b") as file:
            file.seek(turn * BLOCK)
            file.write(trees.noise(f"disk {turn}", BLOCK))
        machine, item = chains[at]
        made = await machine.backup(source, disk, item=item, block_size=BLOCK)
        assert (made.parent, made.warnings) == (points[at], [])
        assert made.bytes_read == sum(path.stat().st_size for path in (disk, *unseen[at]))
        await machine.restore(tmp_path / f"back-{turn}", item=item)
        assert differences(source, tmp_path / f"back-{turn}" / "source") == []
        assert (tmp_path / f"back-{turn}" / "disk").read_bytes() == disk.read_bytes()
        points[at], unseen[at] = made.point, set()


class Away:
    """A vault that goes away when a point is to be committed."""

    def __init__(self, vault):
        self._vault = vault

    def __getattr__(self, name):
        return getattr(self._vault, name)

    async def commit(self, session, point):
        raise VaultUnavailable("gone")


@SEVERAL
async def test_a_run_goes_on_where_its_own_chain_was_interrupted(tmp_path, source, what):
    (machine, item), (other, beside) = chains_of(tmp_path, what)
    size = sum(path.stat().st_size for path in source.iterdir())
    async with machine.open() as agent:
        agent.vault = Away(agent.vault)
        options = backup_job.BackupOptions(item, [source], workers=0)
        with pytest.raises(VaultUnavailable):
            await backup_job.backup(agent, options, Progress())
    assert (await other.backup(source, item=beside)).bytes_read == size
    assert await exact(other, source, beside)
    again = await machine.backup(source, item=item)
    assert (again.bytes_resumed, again.bytes_read, again.parent) == (size, 0, None)
    assert await exact(machine, source, item)
