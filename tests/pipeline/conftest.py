"""A domain, a vault in memory, and everything that a pipeline needs, without a job around it."""

import os
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from blake3 import blake3

from transfer.formats.entry import Inline, Slice
from transfer.jobs import keyring as keyrings
from transfer.jobs.keyring import OpenKeyring, Secret
from transfer.pipeline import tasks, write_tasks
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.sealing import Opener
from transfer.pipeline.send import Sender
from transfer.pipeline.workers import Pool
from transfer.vault.memory import MemoryVault
from transfer.waiting import task_group

PASSPHRASE = "correct horse battery staple"


class Line(NamedTuple):
    """One run's pool, vault and session."""

    pool: Pool
    vault: MemoryVault
    session: int
    nodes: NodeReader
    sender: Sender
    group: object


@pytest.fixture(scope="session")
def opened() -> OpenKeyring:
    return keyrings.open_keyring(keyrings.create(PASSPHRASE), Secret(lambda new: PASSPHRASE))


@pytest.fixture
async def vault(opened):
    vault = MemoryVault()
    keyring = opened.keyring
    await vault.add_keyring(opened.domain, 1, keyring.signed_part + keyring.signature)
    return vault


@pytest.fixture
def sending(vault, opened):
    """Workers that read and seal."""

    @asynccontextmanager
    async def line(
        workers=0, trust_parent=False, prepare=tasks.Tools, arguments=(), reads=None
    ):  # fmt: skip
        session = (await vault.open_session(opened.domain, os.urandom(16))).number
        async with (
            Pool(workers, prepare, (opened.seal_keys(), *arguments)) as pool,
            task_group() as group,
        ):
            nodes = NodeReader(pool, vault, session, group)
            sender = Sender(
                pool, vault, session, opened.generation, group=group, trust_parent=trust_parent,
                reads=reads, resumes=reads is not None,
            )  # fmt: skip
            yield Line(pool, vault, session, nodes, sender, group)

    return line


@pytest.fixture
def receiving(vault, opened, tmp_path):
    """Workers that open and write below tmp_path / "out"."""
    out = tmp_path / "out"
    out.mkdir()

    @asynccontextmanager
    async def line(workers=0):
        session = (await vault.open_session(opened.domain, None)).number
        arguments = (opened.seal_keys(), os.fsencode(out), "none", opened.generation)
        async with Pool(workers, write_tasks.WriteTools, arguments) as pool, task_group() as group:
            nodes = NodeReader(pool, vault, session, group)
            yield Line(pool, vault, session, nodes, None, group)

    return line


class Notes:
    """Who hears how a run goes on, and remembers it."""

    def __init__(self):
        self.warnings, self.done = [], 0

    def warn(self, path, code, message):
        self.warnings.append((path, code))

    def file_done(self, size):
        self.done += size


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def top(tmp_path):
    """The directory that is backed up."""
    top = tmp_path / "top"
    top.mkdir()
    return top


@pytest.fixture
def hashes(monkeypatch):
    """Pages end after the same names in each run of the tests, whatever the key."""

    def name_hash(_, name):
        return int.from_bytes(blake3(name).digest(8))

    monkeypatch.setattr(tasks.keys, "name_hash", name_hash)


@pytest.fixture
def content(vault, opened):
    """The content of an entry, from the vault."""

    async def content(entry):
        if isinstance(entry.content, Inline):
            return entry.content.data
        if isinstance(entry.content, Slice):
            reference, offset = entry.content.block, entry.content.offset
        else:
            reference, offset = entry.content.root, 0
        if reference is None:
            return bytes(entry.size)
        copy = vault._domain(opened.domain).copies[reference][0]
        block = Opener(opened.seal_keys()).open(copy.arrived.raw)[2]
        return block[offset : offset + entry.size]

    return content
