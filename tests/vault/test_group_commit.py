"""Requests that wait together are stored together, and fail by themselves."""

import asyncio
import errno
import os
import threading

import pytest

from tests.suites.vault import DATA, GENERATION, begun, has, made_frame
from tests.vault.stored import opened
from transfer.errors import FormatError, NotStored, SessionEnded
from transfer.vault.base import Outcome


@pytest.fixture
def syncs(monkeypatch):
    """Counts what reaches the disk, and does it."""
    real, seen = os.fdatasync, []

    def fdatasync(descriptor):
        seen.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return seen


async def together(vault, *calls):
    """The answers of *calls* that all came while the disk was busy."""
    busy = threading.Event()
    held = vault._thread.submit(busy.wait)
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    busy.set()
    held.result()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_requests_that_wait_share_one_sync(path, syncs):
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        frames = [made_frame(number) for number in range(1, 21)]
        syncs.clear()
        answers = await together(vault, *(vault.store(session, raw) for _, raw in frames))
        assert answers == [[Outcome.STORED]] * 20
        assert len(syncs) == 1
        assert all(await has(vault, session, *(reference for reference, _ in frames)))


async def test_what_is_wrong_with_one_request_is_no_other_ones_business(path):
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        ended = await begun(vault, None)
        await vault.end_session(ended)
        bad, good, late = await together(
            vault, vault.store(session, b"no frame at all" * 20),
            vault.store(session, made_frame(1)[1]), vault.store(ended, made_frame(2)[1]),
        )  # fmt: skip
        assert isinstance(bad, FormatError)
        assert good == [Outcome.STORED]
        assert isinstance(late, SessionEnded)
        assert await vault.have(session, DATA, GENERATION, [made_frame(2)[0].id]) == [False]


async def test_a_failed_sync_fails_all_that_it_would_have_made_durable(path, monkeypatch):
    async with opened(path, create=True) as vault:
        session = await begun(vault)

        def fails(descriptor):
            raise OSError(errno.EIO, "the disk is gone")

        monkeypatch.setattr(os, "fdatasync", fails)
        answers = await together(
            vault, vault.store(session, made_frame(1)[1]), vault.store(session, made_frame(2)[1])
        )
        assert [type(each) for each in answers] == [NotStored] * 2
        assert answers[0] is not answers[1]
        monkeypatch.undo()
        assert await vault.store(session, made_frame(1)[1]) == [Outcome.STORED]


async def test_a_duplicate_of_what_then_fails_is_not_said_to_exist(path, monkeypatch):
    async with opened(path, create=True) as vault:
        session, (reference, raw) = await begun(vault), made_frame(1)

        def fails(descriptor):
            raise OSError(errno.EIO, "the disk is gone")

        monkeypatch.setattr(os, "fdatasync", fails)
        answers = await together(vault, *(vault.store(session, raw) for _ in range(3)))
        monkeypatch.undo()
        assert [type(each) for each in answers] == [NotStored] * 3
        assert await has(vault, session, reference) == [False]


async def test_who_is_cancelled_leaves_its_frames_to_be_stored(path):
    async with opened(path, create=True) as vault:
        session = await begun(vault)
        busy = threading.Event()
        vault._thread.submit(busy.wait)
        task = asyncio.ensure_future(vault.store(session, made_frame(1)[1]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()  # its memory is still being read
        busy.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await has(vault, session, made_frame(1)[0]) == [True]
