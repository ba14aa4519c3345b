"""One entry more, less or renamed costs a large directory two pages and the indexes above."""

from collections import Counter

import pytest

from tests.acceptance.agent import Machine, frames_of
from transfer.crypto import keys
from transfer.formats.directory import cut_level
from transfer.formats.entry import Entry, FileType, Inline
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.pipeline.directories import DirectoryBuilder

KEY = bytes(range(32))


def name(number):
    return b"entry-%07d" % number


# What becomes of the names 1 to *count*; 0 and *count* + 1 sort before and behind them.
CHANGES = {
    "insert first": lambda count: {name(0): True},
    "insert last": lambda count: {name(count + 1): True},
    "insert in the middle": lambda count: {name(count // 2) + b"-new": True},
    "delete first": lambda count: {name(1): False},
    "delete last": lambda count: {name(count): False},
    "delete in the middle": lambda count: {name(count // 3): False},
    "rename in place": lambda count: {name(count // 3): False, name(count // 3) + b"-new": True},
    "rename to elsewhere": lambda count: {name(7): False, name(count // 2) + b"-moved": True},
}
# An entry that leaves one place and comes to another is two changes.
PLACES = {"rename to elsewhere": 2}


def changed(names, change):
    kept = {each for each, there in change.items() if there}
    return sorted({*names, *kept} - {each for each, there in change.items() if not there})


def holds(new, change):
    """*new*: how many new nodes there are of each tag."""
    places = PLACES.get(change, 1)
    pages = new.pop(tag_of(Kind.PAGE))
    return 1 <= pages <= 2 * places and max(new.values()) <= 2 * places


class Naming:
    """Takes nodes as a sender does, and keeps their IDs only."""

    def __init__(self):
        self.nodes = set()

    async def node(self, tag, plain, children, known=frozenset()):
        id = keys.frame_id(keys.id_key(KEY, tag), children, plain)
        self.nodes.add(Reference(tag, id))
        return Reference(tag, id)


async def nodes_of(names):
    sender = Naming()
    builder = DirectoryBuilder(sender, set())
    entry = Entry(b"-", FileType.FILE, 0o644, 1000, 1000, 10**18, 10**18, Inline(b""))
    for each in names:
        await builder.add(entry._replace(name=each), cut_level(keys.name_hash(KEY, each)))
    await builder.finish()
    return sender.nodes


async def check(count, changes):
    names = [name(number) for number in range(1, count + 1)]
    before = await nodes_of(names)
    for change in changes:
        after = await nodes_of(changed(names, CHANGES[change](count)))
        new = Counter(reference.tag for reference in after - before)
        assert holds(new, change), (change, new)


async def test_ten_thousand_entries():
    await check(10_000, CHANGES)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_million_entries():
    await check(
        1_000_000, ["insert first", "insert in the middle", "delete first", "rename in place"]
    )


async def test_a_directory_of_real_files(tmp_path):
    """Through real backups; the item's root, which names the directory, is one page more."""
    count = 3000
    machine, top = Machine(tmp_path), tmp_path / "top"
    top.mkdir()
    for number in range(1, count + 1):
        (top / name(number).decode()).touch()
    await machine.backup(top)
    for change in ("insert first", "insert in the middle", "delete last", "rename to elsewhere"):
        before = set(frames_of(machine.vault))
        for each, there in CHANGES[change](count).items():
            place = top / each.decode()
            place.touch() if there else place.unlink()
        made = await machine.backup(top)
        new = Counter(reference.tag for reference in set(frames_of(machine.vault)) - before)
        assert made.nodes_new == sum(new.values())
        new[tag_of(Kind.PAGE)] -= 1
        assert holds(new, change), (change, new)
