"""What a session's answers send together is what their client asked for last, at once."""

import asyncio
import time
from contextlib import asynccontextmanager, closing

import aiohttp
import pytest

from tests.net.raw import ask
from tests.suites.vault import DOMAIN, ITEM, OTHER_ITEM, made_frame, made_keyring
from transfer.formats import messages
from transfer.net import service, transport
from transfer.net.answer_paces import AnswerPaces
from transfer.net.call_rates import CallRate
from transfer.throttle.throttle import Throttle
from transfer.vault.base import fetched

SIZE = 500_000
SECOND = 10**9


@pytest.fixture
async def vault(far):
    """The own machine's, with a session that stored a frame of SIZE."""
    far.identity = far.registered("own")
    await far.vault.add_keyring(DOMAIN, 1, made_keyring())
    remote = far.client(far.identity)
    remote.session = (await remote.open_session(DOMAIN, ITEM)).number
    remote.reference, raw = made_frame(1, payload=bytes(SIZE))
    await remote.store(remote.session, raw)
    return remote


async def fetched_in(far, vault, pace, session=None):
    """The seconds that it took."""
    began, session = time.monotonic(), session or vault.session
    path = f"/v1/fetch?session={session}" + ("" if pace is None else f"&pace={pace}")
    answer = await ask(far, far.identity, "POST", path, messages.encode_asked([vault.reference]))
    assert len(answer.body) > SIZE
    return time.monotonic() - began


@asynccontextmanager
async def under_way(fetching):
    """*fetching* as a task whose answer has begun."""
    task = asyncio.ensure_future(fetching)
    await asyncio.sleep(0.15)
    yield task
    await task


def beat(far, vault, pace):
    path = f"/v1/sessions/{vault.session}/heartbeat?pace={pace}"
    return ask(far, far.identity, "POST", path)


async def test_answers_of_one_session_share_its_pace(far, vault):
    took = await asyncio.gather(*(fetched_in(far, vault, 2 * SIZE) for _ in range(3)))
    assert 1.4 < max(took) < 2.5
    assert await fetched_in(far, vault, None) < 0.5


async def test_another_session_has_its_own(far, vault):
    other = (await vault.open_session(DOMAIN, OTHER_ITEM)).number
    async with under_way(fetched_in(far, vault, SIZE)) as slow:
        assert await fetched_in(far, vault, None, other) < 0.5
        assert not slow.done()


async def test_a_sign_of_life_changes_it_for_answers_under_way(far, vault):
    began = time.monotonic()
    async with under_way(fetched_in(far, vault, SIZE // 50)) as slow:
        assert (await beat(far, vault, 100 * SIZE)).status == 204
        await slow
        assert time.monotonic() - began < 2


async def test_nothing_is_sent_at_pace_0_until_the_next_word(far, vault):
    async with under_way(fetched_in(far, vault, SIZE)) as slow:
        await beat(far, vault, 0)
        await asyncio.sleep(1.2)
        assert not slow.done()
        await beat(far, vault, 100 * SIZE)
        await asyncio.wait_for(slow, 0.5)


async def test_the_older_of_two_answers_is_done_first(far, vault):
    async with under_way(fetched_in(far, vault, SIZE)):
        first, second = await asyncio.gather(
            fetched_in(far, vault, 2 * SIZE), fetched_in(far, vault, 2 * SIZE)
        )
    # At half of the pace each they would end together.
    assert abs(first - second) > 0.2


async def test_a_pace_beyond_any_rate_is_refused(far, vault):
    for path in (f"/v1/sessions/{vault.session}/heartbeat?pace=", "/v1/fetch?session=1&pace="):
        for pace in ("-1", str(10**12 + 1), "1.5", "fast"):
            assert (await ask(far, far.identity, "POST", path + pace)).said == (400, "call-refused")


async def test_nothing_is_kept_of_answers_that_are_over():
    paces = AnswerPaces()
    with paces.flow(1, 1000) as first, paces.flow(1, 2000) as second:
        assert first.weight > second.weight
        assert first.quantum == second.quantum
        paces.change(2, 5)
    assert paces._of == {}


@pytest.mark.parametrize("after", [None, 100 * SIZE])
async def test_a_client_tells_its_vault_of_a_change(far, vault, after):
    """The answer stands in no buffer of ours: the relay of perf.wire would see it come."""
    with closing(Throttle(down=None)) as throttle:
        throttle.set("down", SIZE // 2)
        async with vault.limited(throttle) as limited:
            began = time.monotonic()
            fetching = asyncio.ensure_future(fetched(limited, vault.session, [vault.reference]))
            await asyncio.sleep(0.2)
            pace = far.server._service.paces._of[vault.session].throttle
            assert SIZE // 2 <= pace.rate("up") < 0.52 * SIZE
            throttle.pause()
            await asyncio.sleep(0.1)
            assert pace.rate("up") == 0
            throttle.resume()
            throttle.set("down", after)
            await asyncio.sleep(0.05)
            assert pace.rate("up") is not None
            assert pace.rate("up") >= 100 * SIZE
            await fetching
            assert time.monotonic() - began < 1


async def test_of_a_client_that_is_gone_in_a_pause_nothing_stays(far, vault):
    task = asyncio.ensure_future(fetched_in(far, vault, SIZE))
    await asyncio.sleep(0.15)
    await beat(far, vault, 0)
    task.cancel()
    running = far.server._service
    async with asyncio.timeout(3):
        while running.paces._of or running.sending.in_use:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def paused_in_its_middle(vault):
    """A limit, and a fetch that it has paused."""
    with closing(Throttle()) as throttle:
        throttle.set("down", SIZE)
        async with vault.limited(throttle) as limited:
            fetching = asyncio.ensure_future(fetched(limited, vault.session, [vault.reference]))
            await asyncio.sleep(0.2)
            throttle.pause()
            yield throttle, fetching


async def test_the_end_of_a_pause_is_told_until_it_was_heard(far, vault):
    """Else answers that are under way would wait for ever, and so would their reader."""
    async with paused_in_its_middle(vault) as (throttle, fetching):
        await asyncio.sleep(0.1)
        far.server._service.calling = CallRate(1)
        await beat(far, vault, 0)  # so that the next sign of life is one too many
        throttle.resume()
        throttle.set("down", None)
        await asyncio.sleep(0.1)
        assert not fetching.done()
        await asyncio.wait_for(fetching, 3)


async def test_a_reader_that_is_paused_lets_go_of_its_answers(far, vault, monkeypatch):
    monkeypatch.setattr(transport, "_STALLED", 0.3)
    async with paused_in_its_middle(vault) as (throttle, fetching):
        async with asyncio.timeout(4):
            while far.server._service.paces._of:
                await asyncio.sleep(0.05)
        throttle.resume()
        throttle.set("down", None)
        await asyncio.wait_for(fetching, 1)


async def test_a_fetch_that_began_in_a_pause_is_not_paused_after_it(far, vault):
    with closing(Throttle()) as throttle:
        async with vault.limited(throttle) as limited:
            throttle.pause()
            fetching = asyncio.ensure_future(fetched(limited, vault.session, [vault.reference]))
            await asyncio.sleep(0.2)
            throttle.resume()
            await asyncio.wait_for(fetching, 1)


async def test_a_change_is_heard_by_a_fetch_that_waits_for_its_memory(far, vault):
    sending = far.server._service.sending
    async with sending.lease(b"somebody else", sending.share):
        others = [sending.lease(bytes([n]), sending.share) for n in range(3)]
        for each in others:
            await each.__aenter__()
        fetching = asyncio.ensure_future(fetched_in(far, vault, 1000))
        await asyncio.sleep(0.3)
        await beat(far, vault, 100 * SIZE)
        for each in others:
            await each.__aexit__(None, None, None)
    assert await fetching < 2


async def test_an_answer_that_is_paused_for_long_is_broken_off(far, vault, monkeypatch):
    """A client of ours would have let go of it; what holds memory here may be none."""
    monkeypatch.setattr(service, "_PATIENT", 0.3)
    task = asyncio.ensure_future(fetched_in(far, vault, SIZE))
    await asyncio.sleep(0.15)
    await beat(far, vault, 0)
    with pytest.raises(aiohttp.ClientError):
        await asyncio.wait_for(task, 2)
    assert far.server._service.sending.in_use == 0
