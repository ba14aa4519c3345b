"""Directories that a worker handles as a whole: the point is as if each name had come by itself."""

import asyncio
import os
import random

import pytest

from tests.cli.machine import small_disk
from tests.pipeline.conftest import Notes
from tests.pipeline.test_tree import FOREVER, sent
from transfer.errors import FormatError, NoSpace, WorkerLost
from transfer.pipeline import leaf_tasks, pages, tasks, tree
from transfer.pipeline.tree import TreeSender
from transfer.pipeline.visits import Visits
from transfer.pipeline.workers import Leased
from transfer.vault.memory import MemoryVault


@pytest.fixture
def top(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    return top


async def by_name(tree, directory):
    """Of nothing more is known: each name comes to the parent process."""
    return None


def content(chance):
    size = chance.choice([0, 1, 100, 2048, 2049, 5_000, 70_000])
    if chance.random() < 0.2:
        return bytes(size)
    return chance.randbytes(size)


def make(chance, place):
    """One more name in *place*."""
    path = place / f"{chance.randrange(10**6)}-{'n' * chance.randrange(20)}"
    kind = chance.random()
    if kind < 0.1:
        path.symlink_to("x" * chance.randrange(1, 50))
    elif kind < 0.15:
        os.mkfifo(path)
    elif kind < 0.155 and (there := [each for each in place.iterdir() if each.is_file()]):
        os.link(chance.choice(there), path)
    else:
        path.write_bytes(content(chance))
        path.chmod(chance.choice([0o600, 0o644]))


def grow(chance, place, depth=0):
    for _ in range(chance.choice([0, 1, 5, 20, 100])):
        make(chance, place)
    for number in range(chance.choice([0, 1, 3]) if depth else 4):
        if depth < 3:
            below = place / f"{number}d"
            below.mkdir()
            grow(chance, below, depth + 1)


def alter(chance, top):
    """One change somewhere."""
    directories = [top, *(each for each in top.rglob("*") if each.is_dir())]
    place = chance.choice(directories)
    names = [each for each in place.iterdir() if not each.is_dir()]
    kind = chance.randrange(6)
    if kind == 0 or not names:
        make(chance, place)
    elif kind == 1:
        chance.choice(names).unlink()
    elif kind == 2 and place != top:
        place.chmod(0o700)
    elif kind == 3:
        (place / "new").mkdir(exist_ok=True)
    elif (path := chance.choice(names)).is_file() and not path.is_symlink():
        path.write_bytes(content(chance)) if kind == 4 else os.utime(path, ns=(0, 0))


def counted(run, notes):
    root, entries, sent, tree = run
    files = tree.files.counts
    return (
        root, len(entries), tree.entries, tree.sockets, files.files, files.bytes_source,
        sent.bytes_read, sent.nodes_new, notes.done,
    )  # fmt: skip


async def both(sending, monkeypatch, top, parent, **options):
    """One run in either way, and what was counted in it, which is the same."""
    with monkeypatch.context() as patch:
        patch.setattr(TreeSender, "_visited", by_name)
        notes = Notes()
        expected = counted(await sent(sending, notes, top, parent, **options), notes)
    notes = Notes()
    run = await sent(sending, notes, top, parent, **options)
    assert counted(run, notes) == expected
    return run


@pytest.mark.parametrize("seed", range(6))
async def test_whole_directories_make_the_same_point_as_names(sending, top, monkeypatch, seed):
    chance = random.Random(seed)
    grow(chance, top)
    parent, *_ = await both(sending, monkeypatch, top, None)
    again, _, counted, _ = await both(sending, monkeypatch, top, parent, trusted_until=FOREVER)
    assert (again, counted.bytes_read, counted.nodes_new) == (parent, 0, 0)
    for _ in range(4):
        for _ in range(chance.choice([1, 3])):
            alter(chance, top)
        parent, *_ = await both(sending, monkeypatch, top, parent, trusted_until=FOREVER)
    await both(sending, monkeypatch, top, parent, trusted_until=0)


@pytest.mark.parametrize("seed", range(4))
async def test_nor_does_the_point_depend_on_what_has_to_wait(sending, top, monkeypatch, seed):
    chance = random.Random(seed)
    grow(chance, top)
    expected, *_ = await sent(sending, Notes(), top)
    monkeypatch.setattr(tree, "BRANCHES", chance.randrange(1, 5))
    monkeypatch.setattr(tree, "BY_NAME", chance.randrange(1, 3))
    monkeypatch.setattr(leaf_tasks, "FEW", 1)
    async with asyncio.timeout(20):
        parent, *_ = await both(sending, monkeypatch, top, None)
        assert parent == expected
        await both(sending, monkeypatch, top, parent, trusted_until=FOREVER)


async def test_of_an_unchanged_tree_no_name_comes_back(sending, notes, top, monkeypatch, hashes):
    grow(random.Random(1), top)
    for number in range(700):  # more than are scanned together
        (top / f"{number}").touch()
    parent, *_ = await sent(sending, notes, top)
    monkeypatch.setattr(TreeSender, "_part", None)
    again, *_ = await sent(sending, notes, top, parent, trusted_until=FOREVER)
    assert again == parent


async def test_where_all_is_read_in_any_case_no_page_goes_to_a_worker(
    sending, notes, top, monkeypatch
):
    for name in ("a", "b", "c"):
        (top / name).mkdir()
    look_into, ask, asked = tasks.look_into, Visits.ask, []

    def unstamped(lane, place):
        listing, scan = look_into(lane, place)
        return listing._replace(is_stamped=False), scan

    async def counted(visits, visit):
        asked.append(visit)
        return await ask(visits, visit)

    monkeypatch.setattr(tasks, "look_into", unstamped)
    monkeypatch.setattr(Visits, "ask", counted)
    _, entries, *_ = await sent(sending, notes, top)
    assert (len(entries), len(asked)) == (3, 1)  # the first tells


async def test_a_directory_whose_pages_are_too_many_is_compared_by_name(
    sending, notes, top, monkeypatch
):
    for number in range(200):
        (top / f"{number}").touch()
    parent, *_ = await sent(sending, notes, top)
    monkeypatch.setattr("transfer.pipeline.visits.MAX_PAGES", 5_000)
    monkeypatch.setattr(TreeSender, "_same", None)
    assert (await sent(sending, notes, top, parent, trusted_until=FOREVER))[0] == parent


async def test_what_the_parent_has_and_is_now_excluded_is_a_change(sending, top, monkeypatch):
    for name in ("keep", "last.o"):
        (top / name).touch()
    parent, *_ = await sent(sending, Notes(), top)
    _, entries, *_ = await both(
        sending, monkeypatch, top, parent, trusted_until=FOREVER, exclude=[b"*.o"]
    )
    assert set(entries) == {b"keep"}


async def test_a_damaged_page_of_the_parent_is_never_taken_for_one_that_is_the_same(
    sending, notes, top, monkeypatch
):
    (top / "file").write_bytes(b"x" * 5_000)
    parent, *_ = await sent(sending, notes, top)
    (top / "file").unlink()

    def damaged(plain, children):
        raise FormatError("a page")

    monkeypatch.setattr(pages, "decode_page", damaged)
    root, *_ = await sent(sending, notes, top, parent, trusted_until=FOREVER)
    assert root.reference is None


async def test_a_parent_that_is_not_trusted_is_compared_by_name(sending, top, monkeypatch):
    grow(random.Random(3), top)
    parent, *_ = await sent(sending, Notes(), top)
    again, _, counted, _ = await both(
        sending, monkeypatch, top, parent, trusted_until=FOREVER, trust=False
    )
    assert again == parent
    assert counted.bytes_read > 0


@pytest.mark.parametrize("one_file_system", [False, True])
async def test_mounts_are_the_same_whoever_meets_them(sending, top, monkeypatch, one_file_system):
    for name in ("a", "mounted", "z"):
        (top / name).mkdir()
        (top / name / "file").write_bytes(b"x" * 5_000)
    with small_disk(top / "mounted") as disk:
        (disk / "below").mkdir()
        (disk / "below" / "there").write_bytes(b"y" * 5_000)
        parent = None
        for _ in range(2):
            parent, entries, _, tree = await both(
                sending, monkeypatch, top, parent, trusted_until=FOREVER,
                one_file_system=one_file_system,
            )  # fmt: skip
            assert (b"mounted/below/there" in entries) is not one_file_system
            assert list(tree.mounts) == ([] if one_file_system else [b"mounted"])


async def test_a_worker_that_is_lost_with_what_it_built_costs_only_its_work(
    sending, top, monkeypatch
):
    grow(random.Random(5), top)
    lost, call = [], Leased.call

    async def losing(self, function, *arguments, **named):
        if function is leaf_tasks.seal_leaves and len(lost) < 2:
            lost.append(function)
            raise WorkerLost("a test")
        return await call(self, function, *arguments, **named)

    monkeypatch.setattr(Leased, "call", losing)
    await both(sending, monkeypatch, top, None)
    assert len(lost) == 2


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_vault_that_takes_nothing_more_ends_the_run(sending, top, monkeypatch, after):
    grow(random.Random(6), top)
    store, calls = MemoryVault.store, []

    async def full(self, session, frames):
        calls.append(len(frames))
        if len(calls) > after:
            raise NoSpace("a test")
        return await store(self, session, frames)

    monkeypatch.setattr(MemoryVault, "store", full)
    async with asyncio.timeout(20):
        with pytest.raises((NoSpace, ExceptionGroup)) as raised:
            await sent(sending, Notes(), top)
    assert raised.value.__class__ is NoSpace or raised.group_contains(NoSpace)
