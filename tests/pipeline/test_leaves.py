"""Leaves that are made in a worker: what is kept of them, and what has to wait or is left out."""

import asyncio
import os

import pytest

from tests.pipeline.conftest import Notes
from tests.pipeline.test_resume import Notes as Journal
from tests.pipeline.test_tree import Meddler, sent
from transfer.files.directories import Place
from transfer.formats import frame
from transfer.pipeline import leaf_tasks, tasks, visit_tasks
from transfer.pipeline.files import FileSender
from transfer.pipeline.leaf_tasks import Built, Later
from transfer.pipeline.resume import Proofs
from transfer.pipeline.tree import TreeOptions, TreeSender
from transfer.pipeline.visit_tasks import Looked, Rules, Visit
from transfer.policy.globs import Globs
from transfer.sources.base import SkippedEntry

BLOCK = 2**16
RULES = Rules(BLOCK, Globs([]), builds=True)


@pytest.fixture
def top(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    return top


def fill(top, names, size=8_000):
    """A leaf of each name, of two files that share a block; their visits."""
    for name in names:
        (top / name).mkdir()
        for file in ("one", "two"):
            (top / name / file).write_bytes(os.urandom(size))
    return [Visit(Place(os.fsencode(top / name)), os.fsencode(name), 0) for name in names]


async def visited(sending, visits):
    """What one call finds and keeps, once the vault has its blocks."""
    async with sending() as line, line.pool.lease() as worker:
        found = await worker.call(visit_tasks.visit, visits, RULES)
        ids = [id for each in found if isinstance(each, Built) for id in each.ids]
        await line.sender.arrived(await line.sender.blocks(worker, ids))
        return found, await worker.call(lambda lane: lane.kept.copy())


async def kinds(sending, visits):
    return [type(each) for each in (await visited(sending, visits))[0]]


async def test_no_name_is_handled_alone(sending, notes, top, monkeypatch):
    fill(top, "ab")
    fill(top / "a", "cd")
    (top / "file").write_bytes(os.urandom(3_000))
    monkeypatch.setattr(TreeSender, "_part", None)
    _, entries, counted, _ = await sent(sending, notes, top)
    assert (len(entries), counted.bytes_read) == (4 + 8 + 1, 8 * 8_000 + 3_000)


async def test_of_a_leaf_no_name_comes_back(sending, notes, top, monkeypatch):
    for number in range(100):
        (top / f"{number}").write_bytes(os.urandom(number * 100))
    monkeypatch.setattr(TreeSender, "_part", None)
    _, entries, counted, tree = await sent(sending, notes, top)
    assert len(entries) == tree.entries == tree.files.counts.files == 100
    assert counted.bytes_read == 495_000


async def test_a_lane_keeps_no_more_than_it_may(sending, top, monkeypatch):
    monkeypatch.setattr(tasks, "BATCH", 40_000)
    assert await kinds(sending, fill(top, "abcd")) == [Built, Built, Later, Later]


async def test_nodes_that_are_kept_have_room_in_the_slot(sending, top, monkeypatch):
    monkeypatch.setattr(leaf_tasks, "MAX_NODES", 100)
    assert await kinds(sending, fill(top, "ab")) == [Built, Later]


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (lambda place: os.link(place / "one", place / "link"), Looked),
        (lambda place: (place / "below").mkdir(), Built),
    ],
)
async def test_an_answer_holds_the_names_of_many_directories_only_while_they_are_small(
    sending, top, monkeypatch, work, kind
):
    visits = fill(top, "abc")
    for name in "abc":
        work(top / name)
    assert await kinds(sending, visits) == [kind] * 3
    monkeypatch.setattr(visit_tasks, "MAX_ANSWER", 500)
    assert await kinds(sending, visits) == [kind, Later, Later]


async def test_what_has_to_wait_is_not_forgotten(sending, notes, top, monkeypatch):
    fill(top, "abcdefgh")
    monkeypatch.setattr(tasks, "BATCH", 20_000)
    monkeypatch.setattr(FileSender, "_small", None)  # reads what the parent process handles
    _, entries, counted, _ = await sent(sending, notes, top)
    assert (len(entries), counted.bytes_read) == (8 + 16, 16 * 8_000)


@pytest.mark.parametrize(
    "make",
    [
        lambda top: os.link(top / "one", top / "link"),
        lambda top: os.truncate(top / "one", tasks.BATCH),
    ],
)
async def test_what_is_unusual_is_not_made_there(sending, top, make):
    visits = fill(top, "a")
    make(top / "a")
    assert await kinds(sending, visits) == [Looked]


async def test_many_names_wait_for_no_directory_among_them(sending, top, monkeypatch):
    visits = fill(top, "ab")
    (top / "a" / "below").mkdir()
    monkeypatch.setattr(leaf_tasks, "FEW", 2)
    assert await kinds(sending, visits) == [Looked, Built]


@pytest.mark.parametrize(("room", "waited"), [(3, 0), (1, 1)])
async def test_whoever_waits_for_room_holds_nothing_and_looks_again(
    sending, notes, top, monkeypatch, room, waited
):
    fill(top, "abc")
    for name in "abc":
        os.link(top / name / "one", top / name / "link")
    by_name, held = TreeSender._by_name, []
    look_into, looked_into = tasks.look_into, []

    async def spied(tree, directory, looked):
        held.append(looked is None)
        return await by_name(tree, directory, looked)

    monkeypatch.setattr("transfer.pipeline.tree.BY_NAME", room)
    monkeypatch.setattr(TreeSender, "_by_name", spied)
    monkeypatch.setattr(tasks, "look_into", lambda *of: looked_into.append(of) or look_into(*of))
    _, entries, *_ = await sent(sending, notes, top)
    assert (len(entries), sum(held), len(held), len(looked_into)) == (12, waited, 3, 4 + waited)


async def test_targets_of_links_may_be_too_much_for_the_slot(sending, top, monkeypatch):
    visits = fill(top, "a")
    (top / "a" / "link").symlink_to("x" * 200)
    monkeypatch.setattr(leaf_tasks, "MAX_METADATA", 100)
    assert await kinds(sending, visits) == [Looked]


async def test_of_a_leaf_that_changed_while_it_was_read_nothing_is_kept(sending, top, monkeypatch):
    visits = fill(top, "abc")
    monkeypatch.setattr(tasks, "cut_level", lambda hashed: 0)
    (top / "b" / "three").write_bytes(os.urandom(3_000))  # shares a block with b/one
    (top / "c" / "two").unlink()
    changes = iter([None, None, None, None, os.utime])

    def change():
        if (work := next(changes, None)) is not None:
            work(top / "b" / "two", ns=(0, 0))

    Meddler(monkeypatch, change, times=5)
    found, kept = await visited(sending, visits)
    assert [type(each) for each in found] == [Built, Looked, Built]
    assert (len(kept["blocks"]), kept["shared"]) == (2, {0})


async def test_a_file_that_changes_once_costs_no_warning(sending, top, monkeypatch):
    fill(top, "a")
    notes, path = Notes(), top / "a" / "one"
    Meddler(monkeypatch, lambda: os.utime(path, ns=(0, 0)))
    _, entries, *_ = await sent(sending, notes, top)
    assert entries[b"a/one"].mtime == 0
    assert (notes.warnings, notes.done) == ([], 16_000)


async def test_a_file_that_cannot_be_read_is_left_out_and_named(sending, top, monkeypatch):
    fill(top, "a")
    notes, opened = Notes(), tasks.open_file

    def refused(directories, file, strict):
        if file.name == b"one":
            raise PermissionError(13, "no")
        return opened(directories, file, strict)

    monkeypatch.setattr(tasks, "open_file", refused)
    _, entries, *_ = await sent(sending, notes, top)
    assert set(entries) == {b"a", b"a/two"}
    assert notes.warnings == [(os.fsencode(top / "a" / "one"), "unreadable")]


async def test_what_could_not_be_scanned_is_named(sending, top, monkeypatch):
    fill(top, "a")
    notes, scan = Notes(), tasks.scan

    def scanned(*arguments):
        found, skipped, sockets = scan(*arguments)
        return found, [*skipped, SkippedEntry(b"x", "vanished", "it is gone")], sockets

    monkeypatch.setattr(tasks, "scan", scanned)
    await sent(sending, notes, top)
    assert notes.warnings == [(os.fsencode(top / place / "x"), "vanished") for place in ("", "a")]


async def test_many_attributes_get_a_stream_of_their_own(sending, notes, top, monkeypatch):
    fill(top, "a")
    monkeypatch.setattr("transfer.sources.scan.read_xattrs", lambda path: ((b"a", bytes(5_000)),))
    _, entries, *_ = await sent(sending, notes, top)
    assert all(entry.xattr_stream.length > 5_000 for entry in entries.values())


async def run(sending, top, journal, resumes):
    proofs = Proofs("this boot", 2**62, 1, BLOCK)
    options = TreeOptions(BLOCK, Globs([]), proofs=proofs)
    async with sending(reads=journal) as line:
        line.sender.resumes = resumes
        tree = TreeSender(line.sender, line.nodes, options, Notes(), line.group)
        root = await tree.send(Place(os.fsencode(top)), top.stat().st_dev, None)
    return root, line.sender.sent


async def test_what_was_read_of_leaves_is_known_to_a_run_that_resumes(sending, top):
    fill(top, "ab", size=3_000)
    (top / "a" / "more").write_bytes(os.urandom(3 * BLOCK))
    (top / "a" / "zeros").write_bytes(bytes(3_000))
    journal = Journal()
    root, first = await run(sending, top, journal, resumes=False)
    again, second = await run(sending, top, journal, resumes=True)
    assert again == root
    assert (second.bytes_read, second.bytes_resumed) == (0, first.bytes_read)


async def test_nothing_is_noted_before_the_vault_has_it(sending, top, vault):
    fill(top, "ab")
    order, store = [], vault.store

    class Ordered(Journal):
        async def note(self, extents):
            order.append("note")

    async def stored(session, raw):
        await asyncio.sleep(0.01)
        found = await store(session, raw)
        order.append("stored")
        return found

    vault.store = stored
    await run(sending, top, Ordered(), resumes=False)
    assert order[:2] == ["stored", "note"]


async def test_no_node_is_sent_before_its_children_are_stored(sending, notes, top, vault):
    for number in range(400):  # several pages and an index
        (top / f"{number}").write_bytes(os.urandom(3_000))
    (top / "large").write_bytes(os.urandom(2 * 2**20))
    store, sent_kinds = vault.store, []

    async def stored(session, raw):
        sent_kinds.append({header.kind for header, _ in frame.walk(raw)})
        return await store(session, raw)

    vault.store = stored
    await sent(sending, notes, top)
    assert all(len(each) == 1 for each in sent_kinds)
    assert [min(each) for each in sent_kinds] == sorted(min(each) for each in sent_kinds)


async def test_sealed_pages_wait_for_a_slow_vault_in_the_lanes(sending, top, vault, monkeypatch):
    for number in range(40):
        (top / f"{number}").mkdir()
        for file in range(20):
            (top / f"{number}" / f"{file}").write_bytes(os.urandom(1_500))
    monkeypatch.setattr("transfer.pipeline.send.UNDER_WAY", 100_000)
    monkeypatch.setattr("transfer.pipeline.visits.TOGETHER", 1)
    store, seal, gate, sealed = vault.store, leaf_tasks.seal_leaves, asyncio.Event(), []

    async def stored(session, raw):
        await gate.wait()
        return await store(session, raw)

    def counted(lane):
        sealed.append(lane)
        return seal(lane)

    vault.store = stored
    monkeypatch.setattr(leaf_tasks, "seal_leaves", counted)
    running = asyncio.create_task(sent(sending, Notes(), top))
    await asyncio.sleep(0.5)
    few = len(sealed)
    gate.set()
    _, entries, *_ = await running
    assert (few < 15, len(sealed), len(entries)) == (True, 41, 40 * 21)
