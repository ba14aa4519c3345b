"""Trees while they change, and what the parent's stat proves."""

import os

import pytest

from tests.cli.machine import mounted, small_disk
from transfer.files.directories import Place
from transfer.formats.entry import FileType, Inline, Root
from transfer.pipeline import tasks
from transfer.pipeline.tree import TreeOptions, TreeSender
from transfer.policy.globs import Globs

SETTLED = 10 * 10**9
FOREVER = 2**62


async def sent(sending, notes, top, parent=None, **options):
    """(root, entries by path, sender's counters, tree) of one run over *top*."""
    workers, trust = options.pop("workers", 0), options.pop("trust", parent is not None)
    block_size = options.pop("block_size", 2**20)
    chosen = TreeOptions(block_size, Globs(options.pop("exclude", [])), **options)
    async with sending(workers, trust_parent=trust) as line:
        tree = TreeSender(line.sender, line.nodes, chosen, notes, line.group)
        root = await tree.send(
            Place(os.fsencode(top)), top.stat().st_dev, parent and parent.reference
        )
        entries = {}
        left = [(b"", root)]
        while left:
            path, content = left.pop()
            async for entry, _ in line.nodes.entries(content.reference):
                entries[(path + b"/" + entry.name).strip(b"/")] = entry
                if isinstance(entry.content, Root):
                    left.append((path + b"/" + entry.name, entry.content))
    return root, entries, line.sender.sent, tree


class Meddler:
    """Does something to a file each time after it was read, at most *times*."""

    def __init__(self, monkeypatch, work, times=1):
        self.left, self._work, self._read = times, work, tasks.read_into
        monkeypatch.setattr(tasks, "read_into", self)

    def __call__(self, fd, offset, view):
        done = self._read(fd, offset, view)
        if self.left:
            self.left -= 1
            self._work()
        return done


@pytest.mark.parametrize("size", [3_000, 5 * 2**20])
async def test_a_file_that_changes_once_is_read_again_and_is_no_warning(
    sending, notes, top, monkeypatch, size
):
    path = top / "file"
    path.write_bytes(b"a" * size)

    def append():
        with path.open("ab", buffering=0) as file:  # one write: one moment
            file.write(b"b")

    Meddler(monkeypatch, append)
    _, entries, _, tree = await sent(sending, notes, top)
    assert entries[b"file"].size == size + 1
    assert entries[b"file"].mtime == path.stat().st_mtime_ns
    assert (notes.warnings, tree.files.counts.torn) == ([], False)
    assert tree.files.counts.bytes_source == size + 1


@pytest.mark.parametrize("size", [3_000, 5 * 2**20])
async def test_a_file_that_never_holds_still_is_named_and_the_point_says_so(
    sending, notes, top, monkeypatch, size
):
    path = top / "file"
    path.write_bytes(b"a" * size)
    turns = iter(range(1000))
    Meddler(monkeypatch, lambda: os.utime(path, ns=(0, next(turns))), times=1000)
    (top / "quiet").write_bytes(b"q")
    _, entries, _, tree = await sent(sending, notes, top)
    assert notes.warnings == [(os.fsencode(path), "changed")]
    assert tree.files.counts.torn
    assert set(entries) == {b"file", b"quiet"}


def to_symlink(path):
    path.unlink()
    path.symlink_to("/etc/shadow")


def to_fifo(path):
    path.unlink()
    os.mkfifo(path)


def to_directory(path):
    path.unlink()
    path.mkdir()


def to_other_file(path):
    path.rename(path.with_name("aside"))
    path.write_bytes(b"other" * 1000)


@pytest.mark.parametrize(
    ("replace", "kind", "warning"),
    [
        (to_symlink, FileType.SYMLINK, None),
        (to_fifo, FileType.FIFO, None),
        (to_other_file, FileType.FILE, None),
        (to_directory, None, "replaced"),
        (lambda path: path.unlink(), None, "vanished"),
    ],
)
@pytest.mark.parametrize("size", [3_000, 5 * 2**20])
async def test_a_file_that_is_replaced_between_scan_and_read_is_never_taken_for_the_old_one(
    sending, notes, top, monkeypatch, replace, kind, warning, size
):
    path = top / "file"
    path.write_bytes(b"a" * size)
    scan = tasks.scan
    done = []

    def scanned(*arguments):
        found = scan(*arguments)
        if not done:
            done.append(replace(path))
        return found

    monkeypatch.setattr(tasks, "scan", scanned)
    _, entries, _, _ = await sent(sending, notes, top)
    found = entries.get(b"file")
    assert (found and found.type) == kind
    assert [code for _, code in notes.warnings] == ([warning] if warning else [])
    if kind is FileType.FILE:
        assert found.size == 5000


async def test_a_directory_that_another_took_the_place_of_is_not_entered(
    sending, notes, top, monkeypatch
):
    (top / "inner").mkdir()
    (top / "inner" / "mine").touch()
    (top.parent / "other").mkdir()
    (top.parent / "other" / "foreign").touch()
    scan = tasks.scan

    def scanned(*arguments):
        found = scan(*arguments)
        if (top.parent / "other").exists():
            (top / "inner").rename(top.parent / "aside")
            (top.parent / "other").rename(top / "inner")
        return found

    monkeypatch.setattr(tasks, "scan", scanned)
    _, entries, _, _ = await sent(sending, notes, top)
    assert b"inner/foreign" not in entries
    assert notes.warnings == [(os.fsencode(top / "inner"), "unreadable")]


async def test_settled_stat_of_the_parent_saves_reading_and_nothing_else_does(sending, notes, top):
    (top / "file").write_bytes(os.urandom(50_000))
    parent, entries, first, _ = await sent(sending, notes, top)
    assert first.bytes_read == 50_000
    ctime = entries[b"file"].ctime
    for until, read in [(FOREVER, 0), (ctime + SETTLED, 0), (ctime + 10**9, 50_000), (0, 50_000)]:
        again, _, counted, _ = await sent(sending, notes, top, parent, trusted_until=until)
        assert (again, counted.bytes_read, counted.blocks_new) == (parent, read, 0)
        assert counted.nodes_new == 0
    os.utime(top / "file", ns=(0, entries[b"file"].mtime))  # only the ctime tells
    _, _, counted, _ = await sent(sending, notes, top, parent, trusted_until=FOREVER)
    assert counted.bytes_read == 50_000


async def test_below_another_file_system_stat_proves_nothing_unless_the_parent_was_there(
    sending, notes, top, monkeypatch
):
    (top / "mounted").mkdir()
    (top / "mounted" / "file").write_bytes(b"x" * 5_000)
    device = top.stat().st_dev + 1  # the root seems to be elsewhere
    place = Place(os.fsencode(top))

    async def run(parent, mounts):
        options = TreeOptions(2**20, Globs([]), trusted_until=FOREVER, mounts=mounts)
        async with sending(trust_parent=True) as line:
            tree = TreeSender(line.sender, line.nodes, options, notes, line.group)
            root = await tree.send(place, device, parent)
        return root.reference, tree.mounts, line.sender.sent.bytes_read

    parent, mounts, _ = await run(None, {})
    assert list(mounts) == [b"mounted"]
    assert (await run(parent, mounts))[2] == 0
    assert (await run(parent, {}))[2] == 5_000
    assert (await run(parent, {b"mounted": b"another!"}))[2] == 5_000


async def test_a_pseudo_file_system_is_not_even_listed(sending):
    async with sending() as line:
        listing = await line.pool.call(tasks.list_directory, Place(b"/proc"))
    assert (listing.pseudo, listing.names) == (True, [])


async def test_what_is_mounted_over_a_single_name_is_always_read(sending, notes, top):
    """Its file system was not synced, and of some no time tells of a write."""
    (top / "file").touch()
    with small_disk(top.parent / "disk") as disk:
        (disk / "file").write_bytes(b"x" * 5_000)
        with mounted("--bind", disk / "file", top / "file"):
            parent, _, first, _ = await sent(sending, notes, top)
            _, _, again, _ = await sent(sending, notes, top, parent, trusted_until=FOREVER)
    assert (first.bytes_read, again.bytes_read) == (5_000, 5_000)


async def test_names_of_one_inode_are_read_once_and_then_forgotten(sending, notes, top):
    (top / "a").write_bytes(os.urandom(10_000))
    for name in ("b", "c"):
        os.link(top / "a", top / name)
    os.link(top / "a", top.parent / "outside")
    _, entries, counted, tree = await sent(sending, notes, top)
    assert counted.bytes_read <= 30_000
    groups = {entry.link_group for entry in entries.values()}
    assert len(groups) == 1
    assert groups != {b""}
    assert len({entry.content for entry in entries.values()}) == 1
    assert len(tree.files._linked) == 1  # a name is still outside


async def test_a_directory_of_more_names_than_are_listed_at_once(sending, notes, top, monkeypatch):
    for number in range(1500):
        (top / f"{number:04}").touch()
    monkeypatch.setattr(tasks, "LISTED", 20_000)
    parent, entries, _, _ = await sent(sending, notes, top)
    assert len(entries) == 1500
    assert all(entry.content == Inline(b"") for entry in entries.values())
    (top / "0700x").touch()
    _, entries, counted, _ = await sent(sending, notes, top, parent)
    assert len(entries) == 1501
    assert counted.nodes_new <= 4


async def test_what_is_excluded_or_never_entered_is_not_there(sending, notes, top):
    copy = f".transfer-view-{'0' * 32}-{'1' * 16}"
    for name in ("keep", "drop.o", "own/secret", "cache/CACHEDIR.TAG", "cache/junk", copy):
        path = top / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tasks.CACHE_TAG if name.endswith("TAG") else b"x")
    own = (top / "own").stat()
    _, entries, _, _ = await sent(
        sending, notes, top, exclude=[b"*.o"], exclude_caches=True,
        never_enter=frozenset({(own.st_dev, own.st_ino)}),
    )  # fmt: skip
    assert set(entries) == {b"keep", b"cache", b"cache/CACHEDIR.TAG"}
