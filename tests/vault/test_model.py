"""A stored vault does what a vault in memory does, through crashes, reopenings and rebuilds."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.suites.vault import (
    DATA,
    DOMAIN,
    ITEM,
    LEAF,
    OWNER,
    PAGE,
    begun,
    has,
    made_frame,
    made_keyring,
    made_point,
)
from transfer.errors import TransferError
from transfer.vault.base import fetched
from transfer.vault.memory import MemoryVault
from transfer.vault.open import open_vault, rebuild_catalog, verify_vault

BLOCKS = 6
# Blocks, a leaf over each pair, a page over each pair of leaves, and one that nobody completes.
BLOCK = [made_frame(number) for number in range(1, BLOCKS + 1)]
LEAVES = [
    made_frame(10 + n, LEAF, [BLOCK[n][0], BLOCK[n + 1][0]]) for n in range(0, BLOCKS - 1)
]  # fmt: skip
PAGES = [made_frame(20 + n, PAGE, sorted((LEAVES[n][0], LEAVES[n + 1][0]))) for n in range(3)]
LOST = made_frame(30, LEAF, [made_frame(99)[0]])
FRAMES = [*BLOCK, *LEAVES, *PAGES, LOST]
ROOTS = [None, *(each[0] for each in (*PAGES, LOST))]
some = st.lists(st.sampled_from(FRAMES), min_size=1, max_size=6)


class Vaults(RuleBasedStateMachine):
    """The two, each in a session of its own."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.top = Path(tempfile.mkdtemp(prefix="transfer-model-"))
        self.path, self.copies, self.points = self.top / "0", 0, 0
        self.model, self.real = MemoryVault(), None

    @initialize()
    def begin(self):
        async def work():
            self.real = await open_vault(self.path, create=True)
            for vault in (self.model, self.real):
                await vault.add_keyring(DOMAIN, 1, made_keyring())
            await self._sessions()

        self.runner.run(work())

    async def _sessions(self):
        self.session = [
            (await vault.open_session(DOMAIN, ITEM, OWNER)).number
            for vault in (self.model, self.real)
        ]

    def both(self, call):
        """What *call*(vault, session) gives, or the kind of its error: the same of both."""
        model, real = self.answers(call)
        assert real == model
        return real

    def answers(self, call):
        async def one(vault, session):
            try:
                return await call(vault, session)
            except TransferError as error:
                return type(error)

        async def work():
            return [
                await one(*each) for each in zip((self.model, self.real), self.session, strict=True)
            ]

        return self.runner.run(work())

    @rule(frames=some)
    def store(self, frames):
        raw = b"".join(raw for _, raw in frames)
        self.both(lambda vault, session: vault.store(session, raw))

    @rule(root=st.sampled_from(ROOTS))
    def commit(self, root):
        self.points += 1
        record = made_point(root, self.points, self.points)

        async def call(vault, session):
            await vault.commit(session, record)

        if self.both(call) is None:
            self.runner.run(self._sessions())

    @rule(frame=st.sampled_from(FRAMES))
    def report(self, frame):
        """A client could not open it."""
        self.both(lambda vault, session: vault.report_damaged(session, [frame[0]]))

    @rule()
    def ask(self):
        """Of blocks the same; a node that is said to be there has all that it reaches.

        Which of the whole ones are known as such is each one's own affair: after doubts the stored
        one is more careful, after a rebuild it knows more.
        """
        references = [reference for reference, _ in FRAMES]
        model, real = self.answers(lambda vault, session: has(vault, session, *references))
        for reference, expected, said in zip(references, model, real, strict=True):
            assert said == expected or reference.tag != DATA, reference
            assert not said or self.is_whole(reference), reference

        async def wanted(vault, session):
            return sorted(await vault.wanted(session))

        self.both(wanted)

    def is_whole(self, reference):
        copy = self.model._domain(DOMAIN).good(reference)
        return copy is not None and all(map(self.is_whole, copy.arrived.references))

    @rule()
    def reopen(self):
        async def work():
            await self.real.close()
            self.real = await open_vault(self.path)

        self.runner.run(work())

    @rule()
    def crash(self):
        """Its process ends; what it leaves on the disk is opened by another."""
        self.copies += 1
        crashed = shutil.copytree(self.path, self.top / str(self.copies))

        async def work():
            await self.real.close()
            shutil.rmtree(self.path)
            self.path = crashed
            self.real = await open_vault(crashed)

        self.runner.run(work())

    @precondition(lambda self: self.points)
    @rule()
    def rebuild(self):
        """The catalog is lost, and with it all sessions and what nobody reported twice."""

        async def work():
            await self.real.close()
            await rebuild_catalog(self.path)
            self.real = await open_vault(self.path)
            await self._sessions()

        self.runner.run(work())

    @rule()
    def verify(self):
        async def work():
            return (await verify_vault(self.path)).damaged

        damaged = self.runner.run(work())
        # A copy that a client could not open is suspect and whole; nothing else is wrong.
        assert damaged == []

    @invariant()
    def they_hold_the_same(self):
        if self.real is None:
            return
        references = [reference for reference, _ in FRAMES]
        self.both(lambda vault, session: fetched(vault, session, references))

        async def points(vault, session):
            return [each.record for each in await vault.points(DOMAIN)]

        self.both(points)

    def teardown(self):
        if self.real is not None:
            self.runner.run(self.real.close())
        self.runner.close()
        shutil.rmtree(self.top, ignore_errors=True)


def run(examples, steps):
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(Vaults, settings=chosen)


def test_a_stored_vault_does_what_one_in_memory_does():
    run(15, 15)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stored_vault_does_what_one_in_memory_does_for_long():
    run(40, 40)


def test_the_model_has_something_to_say():
    """Some of the roots can be committed, and one never can."""

    async def work():
        vault = MemoryVault()
        session = await begun(vault)
        outcomes = await vault.store(session, b"".join(raw for _, raw in FRAMES))
        return len(outcomes), await has(vault, session, *(reference for reference, _ in FRAMES))

    count, known = asyncio.run(work())
    assert count == len(FRAMES)
    assert known == [True] * (len(FRAMES) - 1) + [False]
    assert FRAMES[0][0].tag == DATA
