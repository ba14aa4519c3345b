"""Backups into a far vault: what an incremental asks of it."""

import os

import pytest

from tests.acceptance.agent import frames_of
from tests.acceptance.compare import differences
from tests.jobs.test_register import registered
from tests.suites.costs import watched
from transfer.formats import frame
from transfer.formats.credential import CredentialKind
from transfer.jobs import backup as backup_job
from transfer.jobs import far as far_job
from transfer.jobs import restore as restore_job
from transfer.jobs.limits import RunLimits, limited
from transfer.jobs.progress import Progress
from transfer.jobs.state import StateDirectory
from transfer.pipeline.sealing import Opener
from transfer.vault.base import Outcome


@pytest.fixture
async def setup(tmp_path, clock, quick_keyrings):
    async with registered(tmp_path, clock) as made:
        yield made


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    for number in range(30):
        (top / f"directory {number}").mkdir(parents=True)
        (top / f"directory {number}" / "file").write_bytes(os.urandom(5000))
    (top / "large").write_bytes(os.urandom(5 * 2**20))
    return top


async def backup(setup, tree, item="item"):
    setup.requests.clear()
    async with setup.open() as agent:
        options = backup_job.BackupOptions(item, [tree], workers=0)
        return await backup_job.backup(agent, options, Progress())


async def exact(setup, tree, tmp_path):
    async with setup.open() as agent:
        options = restore_job.RestoreOptions("item", tmp_path / "back", workers=0)
        await restore_job.restore(agent, options, Progress())
    for path in tree.rglob("*"):
        if path.is_file():
            assert (tmp_path / "back" / "tree" / path.relative_to(tree)).read_bytes() == (
                path.read_bytes()
            )


def fetches(setup):
    return [done for done in setup.requests if done.path == "/v1/fetch"]


async def test_an_incremental_fetches_no_node_that_the_last_run_had(setup, tree, tmp_path):
    await backup(setup, tree)
    (tree / "directory 7" / "file").write_text("changed")
    second = await backup(setup, tree)
    assert second.blocks_new + second.nodes_new < 10
    assert fetches(setup) == []
    third = await backup(setup, tree)
    assert (third.nodes_new, fetches(setup)) == (0, [])
    await exact(setup, tree, tmp_path)


async def test_the_vault_reads_no_frame_for_a_backup(setup, tree):
    """Blocks come before the nodes that name them, so a commit finds all decided."""
    for content in ("first", "changed"):
        (tree / "directory 7" / "file").write_text(content)
        with watched() as work:
            await backup(setup, tree)
        assert work.read == 0


async def test_what_is_there_under_another_item_costs_no_row(setup, tree):
    await backup(setup, tree)
    with watched() as work:
        made = await backup(setup, tree, "other")
    assert (made.blocks_new, made.bytes_stored) == (0, 0)
    assert work.written < 10  # a session, a point and their numbers


@pytest.mark.parametrize("mib", [1, 40])
async def test_an_unchanged_image_takes_few_calls_whatever_its_size(setup, tmp_path, mib):
    with (tmp_path / "disk").open("wb") as file:
        for number in range(mib):
            file.write(b"block %d" % number + bytes(2**20 - 10))
    for _ in range(2):
        await backup(setup, tmp_path / "disk")
    assert len(setup.requests) <= 7
    assert sum(done.received + done.sent for done in setup.requests) <= 8192


@pytest.mark.parametrize("how", ["lost", "cut", "flipped"])
async def test_a_cache_that_is_damaged_costs_a_download(setup, tree, tmp_path, how):
    await backup(setup, tree)
    (path,) = (tmp_path / "state" / "nodes").iterdir()
    raw = bytearray(path.read_bytes())
    for at in range(0, len(raw), 997):
        raw[at] ^= 4
    kept = {"lost": b"", "cut": bytes(raw[: len(raw) // 2]), "flipped": bytes(raw)}[how]
    path.write_bytes(kept)
    (tree / "directory 7" / "file").write_text("changed")
    second = await backup(setup, tree)
    assert second.blocks_new + second.nodes_new < 10
    assert fetches(setup) != []
    await backup(setup, tree)
    assert fetches(setup) == []
    await exact(setup, tree, tmp_path)


async def test_a_limit_that_held_a_run_back_is_named(setup, tree):
    async with setup.open() as agent:
        options = backup_job.BackupOptions("item", [tree], workers=0)
        async with limited(agent, RunLimits(8 * 2**20)) as run:
            result = await backup_job.backup(run, options, Progress())
    assert result.limited_by == "throttle"


@pytest.mark.parametrize(("check", "most", "least"), [("all", 0, 0), ("sampled", 30, 28)])
async def test_a_sampled_check_opens_one_block_in_sixteen_in_full(
    setup, tmp_path, monkeypatch, check, most, least
):
    compared = []
    whole = Opener.compare
    monkeypatch.setattr(Opener, "compare", lambda *given: (compared.append(1), whole(*given)))
    (tmp_path / "disk").write_bytes(os.urandom(32 * 2**20))
    options = backup_job.BackupOptions("item", [tmp_path / "disk"], workers=0, check=check)
    async with setup.open() as agent:
        await backup_job.backup(agent, options, Progress())
    assert least <= len(compared) <= most  # each of two threads opens its first


async def poison(setup):
    """What a thief of the state directory can do without the passphrase: call all that is stored
    bad, and store garbage beside it.
    """
    directory = StateDirectory(setup.top / "state")
    registration = far_job.registration_of(directory)
    frames = [read(*places[0]) for places in frames_of(setup.far.path).values()]
    async with far_job.far_vault(directory, registration, setup.reach) as (vault, view):
        session = (await vault.open_session(view.domain, b"a thief's item !")).number
        await vault.report_damaged(session, [frame.decode_header(raw).reference for raw in frames])
        outcomes = await vault.store(session, b"".join(map(garbage, frames)))
        await vault.end_session(session)
    assert set(outcomes) == {Outcome.STORED}


def read(path, placed):
    return path.read_bytes()[placed.offset : placed.end]


def garbage(raw):
    (header, children, _), _ = frame.decode(raw)
    header = header._replace(payload_length=16)
    return frame.encode(header, children, b"sixteen bytes ..")


@pytest.mark.parametrize("who", ["owner", "reader"])
async def test_a_thief_without_the_passphrase_keeps_nothing_from_who_has_it(
    setup, tree, tmp_path, who
):
    await backup(setup, tree)
    await poison(setup)
    state, item = "state", "item"
    if who == "reader":  # whose word marks nothing
        made = setup.credential(CredentialKind.READ, "here")
        await setup.register(made, "reader", "reader")
        state, item = "reader", "here/item"
    async with setup.open(state) as agent:
        options = restore_job.RestoreOptions(item, tmp_path / "back", workers=0)
        result = await restore_job.restore(agent, options, Progress())
    assert (result.damaged, result.warnings) == ([], [])
    assert differences(tree, tmp_path / "back" / "tree") == []
