"""Calls that are too many are told so at once; a client of ours comes back when it was told to."""

import asyncio
import time

import pytest

from tests.net.behind import held_vault
from tests.net.far import stranger
from tests.net.raw import ask
from tests.suites.vault import begun, made_frame
from transfer.errors import TooManyCalls
from transfer.net import call_rates
from transfer.net.call_rates import CallRate


@pytest.fixture
async def far(tmp_path, clock):
    async with held_vault(tmp_path / "vault", clock) as (far, vault):
        far.identity = far.registered("own")
        far.session = await begun(vault)
        far.service = far.server._service
        yield far


def beat(far):
    return ask(far, far.identity, "POST", f"/v1/sessions/{far.session}/heartbeat")


async def test_control_calls_have_a_rate_for_each_machine_and_bulk_goes_on(far):
    far.service.calling = CallRate(3)
    other = far.registered("another", *stranger())
    answers = [await beat(far) for _ in range(4)]
    assert [each.status for each in answers] == [204, 204, 204, 429]
    assert answers[3].said == (429, "too-many-calls")
    assert answers[3].headers["Retry-After"] == "1"
    assert (await ask(far, other, "GET", "/v1/vault")).status == 200
    raw = made_frame(1)[1]
    stored = await ask(far, far.identity, "POST", f"/v1/frames?session={far.session}", raw)
    assert stored.status == 200


@pytest.mark.parametrize("path", ["/v1/register", "/v1/renew"])
async def test_attempts_have_a_rate_before_anything_is_looked_at(far, path):
    far.service.arriving = CallRate(2)
    answers = [await ask(far, far.identity, "POST", path, b"nonsense") for _ in range(3)]
    assert [each.status for each in answers] == [400, 400, 429]
    assert answers[2].headers["Retry-After"] == "1"
    assert (await beat(far)).status == 204


async def test_attempts_from_all_addresses_have_one_rate_together(far):
    far.service.registering = CallRate(2)
    answers = [await ask(far, None, "POST", "/v1/register", b"nonsense") for _ in range(3)]
    assert [each.status for each in answers] == [400, 400, 429]


async def test_a_client_comes_back_after_the_time_that_it_was_told(far):
    far.service.calling = CallRate(4)
    remote = far.client(far.identity)
    began = time.monotonic()
    await asyncio.gather(*(remote.heartbeat(far.session) for _ in range(5)))
    assert 1.0 <= time.monotonic() - began < 4
    hurried = far.client(far.identity, patience=0)
    with pytest.raises(TooManyCalls) as caught:
        await asyncio.gather(*(hurried.heartbeat(far.session) for _ in range(5)))
    assert caught.value.retry_after == 1.0
    assert caught.value.exit_code == 75


async def test_of_callers_only_the_busy_are_remembered(monkeypatch):
    monkeypatch.setattr(call_rates, "_MAX_KEPT", 4)
    rate = CallRate(100)
    for number in range(3):
        await rate.check(number)
    await asyncio.sleep(0.02)
    for _ in range(100):
        await rate.check("busy")
    await rate.check("new")
    assert set(rate._limiters) == {"busy", "new"}
    with pytest.raises(TooManyCalls):
        await rate.check("busy")
