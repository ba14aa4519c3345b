"""A call that breaks is made again, and nothing is done twice or believed by half."""

import asyncio
import socket
import time
from contextlib import closing

import pytest

from tests.net.far import Far, far_vault
from tests.net.relay import Relay
from tests.suites.vault import (
    DATA,
    DOMAIN,
    GENERATION,
    ITEM,
    made_frame,
    made_keyring,
    made_point,
)
from transfer.errors import SessionEnded, VaultUnavailable
from transfer.net import transport
from transfer.net.client import RemoteVault
from transfer.net.connections import DEFAULTS
from transfer.net.server import Settings
from transfer.net.transport import Transport
from transfer.throttle.throttle import Throttle
from transfer.vault.base import Outcome, fetched

STORED = Outcome.STORED
LARGE = 500_000  # bytes of a frame; more than any buffer on the way holds


@pytest.fixture
async def relay(far):
    running = await Relay(far.port).start()
    yield running
    await running.stop()


@pytest.fixture
async def vault(far, relay, monkeypatch):
    """The machine's, through the relay; the domain has a keyring."""
    identity = far.registered("own")
    await far.vault.add_keyring(DOMAIN, 1, made_keyring())
    monkeypatch.setattr(Far, "url", f"https://127.0.0.1:{relay.port}")
    return far.client(identity, connections=1)


async def frames_of(count):
    made = [made_frame(number, payload=bytes([number]) * LARGE) for number in range(1, count + 1)]
    return [reference for reference, _ in made], [raw for _, raw in made]


async def test_an_upload_that_was_cut_goes_on_after_what_arrived(vault, relay):
    session = (await vault.open_session(DOMAIN, ITEM)).number
    references, raws = await frames_of(8)
    assert await vault.have(session, DATA, GENERATION, [references[0].id]) == [False]
    relay.cut_after, before = 5 * LARGE, relay.upwards
    assert await vault.store(session, b"".join(raws)) == [STORED] * 8
    sent = relay.upwards - before
    assert 8 * LARGE < sent < 8 * LARGE + 3 * LARGE  # five went first, at least three of them count
    assert await fetched(vault, session, references) == raws


async def test_an_upload_whose_answer_was_lost_is_not_sent_again(vault, relay):
    session = (await vault.open_session(DOMAIN, ITEM)).number
    references, raws = await frames_of(3)
    await vault.have(session, DATA, GENERATION, [references[0].id])
    relay.lose_next_answer()
    before = relay.upwards
    assert await vault.store(session, b"".join(raws)) == [STORED] * 3
    assert relay.upwards - before < 4 * LARGE


async def test_a_break_while_the_network_takes_nothing_is_gone_on_after(vault, relay):
    """The one upload that may send holds its place then, and its repetition needs it."""
    session = (await vault.open_session(DOMAIN, ITEM)).number
    _, raws = await frames_of(24)
    relay.reading.clear()
    upload = asyncio.ensure_future(vault.store(session, b"".join(raws)))
    await asyncio.sleep(0.4)
    relay.cut()
    relay.reading.set()
    assert await asyncio.wait_for(upload, 5) == [STORED] * 24


async def test_a_download_that_was_cut_goes_on_after_what_arrived(vault, relay):
    session = (await vault.open_session(DOMAIN, ITEM)).number
    references, raws = await frames_of(8)
    await vault.store(session, b"".join(raws))
    relay.cut_answer_after = 5 * LARGE
    missing = made_frame(99)[0]
    assert await fetched(vault, session, [*references, missing]) == [*raws, None]


async def test_a_commit_whose_answer_was_lost_happened_once(vault, relay):
    session = (await vault.open_session(DOMAIN, ITEM)).number
    await vault.heartbeat(session)
    relay.lose_next_answer()
    stored = await vault.commit(session, made_point(None))
    assert await vault.points(DOMAIN) == [stored]
    assert stored.arrival_number == 1


async def test_a_keyring_whose_answer_was_lost_was_added(vault, relay):
    await vault.keyring(DOMAIN)
    relay.lose_next_answer()
    await vault.add_keyring(DOMAIN, 2, made_keyring(2))
    assert await vault.keyring(DOMAIN) == made_keyring(2)


async def test_a_list_of_points_that_was_cut_is_never_half_a_list(vault, relay):
    for number in range(1, 4):
        session = (await vault.open_session(DOMAIN, ITEM)).number
        await vault.commit(session, made_point(None, number=number, name=number))
    relay.cut_answer_after = 700
    assert len(await vault.points(DOMAIN)) == 3


async def test_a_session_outlives_a_server(far, vault, relay, tmp_path):
    session = (await vault.open_session(DOMAIN, ITEM)).number
    await vault.store(session, made_frame(1)[1])
    await far.server.stop(grace=0.1)
    second = Far(far.path, far.vault, far.vault_id, far.clock)
    relay.lead_to(await second.server.start("127.0.0.1", 0))
    try:
        assert await vault.store(session, made_frame(2)[1]) == [STORED]
        await vault.commit(session, made_point(None))
        with pytest.raises(SessionEnded):
            await vault.heartbeat(session)
    finally:
        await second.server.stop(grace=0.1)


async def test_a_vault_that_stays_away_is_told_after_as_long_as_was_asked_for(far, relay):
    identity = far.registered("own")
    await relay.stop()
    transport = Transport(
        f"https://127.0.0.1:{relay.port}", "vault", far.context(identity), patience=0.3
    )
    vault = RemoteVault(transport)
    began = time.monotonic()
    with pytest.raises(VaultUnavailable, match=f"127.0.0.1:{relay.port}") as caught:
        await vault.info()
    assert time.monotonic() - began < 5
    assert caught.value.hint
    await vault.close()


async def test_a_name_that_is_not_found_is_asked_for_again(far, monkeypatch):
    """A name server that is away for a moment is a vault that is away for a moment."""
    identity, asked = far.registered("own"), []
    resolve = asyncio.get_running_loop().getaddrinfo

    async def names(host, port, **options):
        asked.append(host)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return await resolve("127.0.0.1", port, **options)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names)
    monkeypatch.setattr(Far, "url", f"https://vault.example.org:{far.port}")
    await far.client(identity).info()
    assert asked[:3] == ["vault.example.org"] * 3


async def test_a_run_that_ends_does_not_wait_for_a_vault_that_is_away(vault, relay):
    session = (await vault.open_session(DOMAIN, ITEM)).number
    await relay.stop()
    began = time.monotonic()
    await vault.end_session(session)
    assert time.monotonic() - began < 1


async def test_what_holds_a_session_up_never_waits_behind_data(far, vault):
    session = (await vault.open_session(DOMAIN, ITEM)).number
    with closing(Throttle(100_000)) as throttle:
        async with vault.limited(throttle) as slow:
            upload = asyncio.ensure_future(
                slow.store(session, made_frame(1, payload=bytes(LARGE))[1])
            )
            await asyncio.sleep(0.2)
            began = time.monotonic()
            await vault.heartbeat(session)
            assert time.monotonic() - began < 1
            assert not upload.done()
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)


async def test_a_limit_holds_in_both_directions(far, vault):
    session = (await vault.open_session(DOMAIN, ITEM)).number
    reference, raw = made_frame(1, payload=bytes(LARGE))
    with closing(Throttle(LARGE, LARGE)) as throttle:
        async with vault.limited(throttle) as limited:
            for call in (limited.store(session, raw), fetched(limited, session, [reference])):
                began = time.monotonic()
                await call
                assert 0.9 < time.monotonic() - began < 3
            assert limited.limits.up.waited > 0.8


async def test_a_slow_call_that_breaks_late_is_made_again(vault, relay):
    """It took longer than the patience that begins with its failure, and brought something."""
    session = (await vault.open_session(DOMAIN, ITEM)).number
    references, raws = await frames_of(3)
    await vault.store(session, b"".join(raws))
    vault._transport._patience = 0.9
    with closing(Throttle(down=LARGE)) as throttle:
        async with vault.limited(throttle) as limited:
            fetching = asyncio.ensure_future(fetched(limited, session, references))
            for _ in range(2):
                relay.cut_answer_after = LARGE * 5 // 4
                while relay.cut_answer_after is not None and not fetching.done():
                    await asyncio.sleep(0.02)
            assert await fetching == raws


async def test_a_pause_is_waited_for_without_a_connection(tmp_path, clock, monkeypatch):
    """A vault soon cuts one that says nothing; here more calls wait than send at a time."""
    monkeypatch.setattr(transport, "_STALLED", 0.3)
    settings = Settings(connections=DEFAULTS._replace(head=0.5))
    async with far_vault(tmp_path / "vault", clock, settings=settings) as far:
        vault = far.client(far.registered("own"), connections=1, patience=0.1)
        await far.vault.add_keyring(DOMAIN, 1, made_keyring())
        session = (await vault.open_session(DOMAIN, ITEM)).number
        ids = [[made_frame(number)[0].id] for number in range(6)]
        with closing(Throttle()) as throttle:
            async with vault.limited(throttle) as limited:
                throttle.pause()
                asking = [
                    asyncio.ensure_future(limited.have(session, DATA, GENERATION, each))
                    for each in ids
                ]
                await asyncio.sleep(1.5)
                assert not any(each.done() for each in asking)
                throttle.resume()
                assert await asyncio.gather(*asking) == [[False]] * len(ids)
    assert far.server._connections.cut == 0
