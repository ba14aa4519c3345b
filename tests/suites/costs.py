"""What calls cost a stored vault, near or far. A test module gives a `vault` in this process, the
`path` of its directory and its `clock`, and imports all from here.

Counted and not timed: rows that are written, frames that are looked up in the catalog, and frames
that are read from packs.
"""

from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from tests.suites.vault import (
    DATA,
    EXISTED,
    GENERATION,
    LEAF,
    PAGE,
    STORED,
    begun,
    has,
    id_of,
    made_frame,
    made_point,
    with_point,
)
from transfer.formats.messages import MAX_ASKED
from transfer.formats.reference import Reference
from transfer.vault.base import MAX_MISSING, Missing
from transfer.vault.objects import DirectoryObjects

SECOND = 10**9


class Work:
    """What the vaults of this process did."""

    def __init__(self):
        self.written = self.looked_up = self.read = 0

    def executed(self, connection, cursor, statement, parameters, context, many):
        if statement.startswith("SELECT") and "FROM frames" in statement:
            self.looked_up += len(parameters)
        self.written += max(0, cursor.rowcount)


@contextmanager
def watched():
    """Counts within the block."""
    work, read_frame = Work(), DirectoryObjects.read_frame

    def read(*arguments):
        work.read += 1
        return read_frame(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DirectoryObjects, "read_frame", read)
        sa.event.listen(sa.Engine, "after_cursor_execute", work.executed)
        try:
            yield work
        finally:
            sa.event.remove(sa.Engine, "after_cursor_execute", work.executed)


def contents(path):
    """All bytes of a vault; but the memory of SQLite's log, which holds nothing."""
    files = (one for one in path.rglob("*") if one.is_file() and not one.name.endswith("-shm"))
    return {one: one.read_bytes() for one in files}


async def test_have_writes_nothing(vault, path):
    """A session's leases are in no row: what it was told exists is kept by its own row alone."""
    references, _ = await with_point(vault)
    session = await begun(vault)
    await has(vault, session, *references)  # a server notes a certificate's first use
    before = contents(path)
    with watched() as work:
        for tag in (DATA, LEAF, PAGE):
            found = await vault.have(session, tag, GENERATION, list(map(id_of, range(MAX_ASKED))))
            assert any(found) and not all(found)
    assert work.written == 0
    assert contents(path) == before


async def test_what_exists_already_is_stored_without_a_row(vault):
    _, frames = await with_point(vault)
    session = await begun(vault)
    with watched() as work:
        assert await vault.store(session, b"".join(frames)) == [EXISTED] * 4
    assert work.written == 0


async def test_signs_of_life_are_one_row_a_minute_however_much_is_asked(vault, clock):
    session = await begun(vault)
    with watched() as work:
        for _ in range(100):
            clock.now += 2 * SECOND
            await vault.have(session, DATA, GENERATION, [id_of(1)])
            await vault.heartbeat(session)
    assert work.written == 3


async def bottom_up(vault, session, pages, blocks, start=1):
    """*pages*, each over *blocks* of its own, stored in the order in which a backup stores them."""
    made, raws = [], []
    for number in range(start, start + pages):
        below = [made_frame(10**6 + 1000 * number + n) for n in range(blocks)]
        page, raw = made_frame(number, PAGE, [one for one, _ in below])
        made.append(page)
        raws += [raw for _, raw in below] + [raw]
    await vault.store(session, b"".join(raws))
    return made


async def test_a_commit_looks_at_the_root_alone_however_large_the_tree(vault):
    costs = []
    for name, (pages, blocks) in enumerate([(1, 1), (9, 100)], 1):
        session = await begun(vault)
        pages = await bottom_up(vault, session, pages, blocks, 100 * name)
        root = made_frame(name, PAGE, pages)
        await vault.store(session, root[1])
        with watched() as work:
            await vault.commit(session, made_point(root[0], name, name))
        costs.append(vars(work))
    assert costs[0] == costs[1]
    assert costs[0]["read"] == 0


async def test_a_commit_looks_at_what_still_waits_and_not_below_what_is_complete(vault):
    session = await begun(vault)
    pages = await bottom_up(vault, session, 9, 100)
    block = made_frame(50)
    page = made_frame(51, PAGE, [block[0]])
    root = made_frame(52, PAGE, [*pages, page[0]])
    for _, raw in (root, page, block):  # as connections side by side may bring them
        assert await vault.store(session, raw) == [STORED]
    with watched() as work:
        await vault.commit(session, made_point(root[0]))
    assert work.read == 2  # the root and the page
    assert work.looked_up < 50  # of some 900 frames


async def test_a_commit_that_lacks_very_much_looks_at_no_more_than_it_names(vault):
    lost = [[Reference(DATA, id_of(10**6 * of + n)) for n in range(512)] for of in range(1, 41)]
    pages = [made_frame(100 + at, PAGE, of) for at, of in enumerate(lost)]
    root = made_frame(99, PAGE, [one for one, _ in pages])
    session = await begun(vault)
    await vault.store(session, b"".join(raw for _, raw in (*pages, root)))
    with watched() as work, pytest.raises(Missing) as caught:
        await vault.commit(session, made_point(root[0]))
    assert (len(caught.value.references), caught.value.more) == (MAX_MISSING, True)
    assert work.looked_up < MAX_MISSING + 2 * 512
