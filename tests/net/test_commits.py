"""A commit that takes long is asked for again, and is done once, whatever is lost meanwhile."""

import asyncio
import json

import pytest

from tests.net.behind import held_vault
from tests.net.raw import ask
from tests.suites.vault import DOMAIN, PAGE, begun, id_of, made_frame, made_keyring, made_point
from transfer.errors import FrameMissing
from transfer.formats import point
from transfer.formats.reference import Reference
from transfer.net import point_calls, service

RECORD = made_point(None)
PROGRESS = f"/v1/points/{point.decode(RECORD).point_id.hex()}"


@pytest.fixture
async def held(tmp_path, clock, monkeypatch):
    """A server that soon says 202, and a vault behind it whose commits wait."""
    monkeypatch.setattr(point_calls, "PATIENT", 0.05)
    async with held_vault(tmp_path / "vault", clock) as (far, vault):
        vault.waiting.add("commit")
        far.identity = far.registered("own")
        await vault.add_keyring(DOMAIN, 1, made_keyring())
        yield far, vault


async def test_a_commit_that_takes_long_says_where_to_ask(held):
    far, vault = held
    path = f"/v1/points?session={await begun(vault)}"
    for _ in range(2):
        answer = await ask(far, far.identity, "POST", path, RECORD)
        assert (answer.status, json.loads(answer.body)) == (202, {"progress": PROGRESS})
        assert (await ask(far, far.identity, "GET", PROGRESS)).status == 202
    vault.go.set()
    done = await ask(far, far.identity, "GET", PROGRESS)
    assert done.status == 200
    assert done.body == (await ask(far, far.identity, "POST", path, RECORD)).body
    assert vault.calls.count("commit") == 1


async def test_our_client_waits_for_it(held):
    far, vault = held
    session = await begun(vault)
    asyncio.get_running_loop().call_later(0.3, vault.go.set)
    stored = await far.client(far.identity).commit(session, RECORD)
    assert list(await vault.points(DOMAIN)) == [stored]
    assert vault.calls.count("commit") == 1


async def test_a_server_that_was_started_again_knows_nothing_of_it_and_is_asked_again(held):
    far, vault = held
    session, remote = await begun(vault), far.client(far.identity)
    committing = asyncio.ensure_future(remote.commit(session, RECORD))
    while not far.requests:
        await asyncio.sleep(0.01)
    await far.server.stop(grace=0)
    assert not committing.done()
    vault.go.set()
    await far.again()
    stored = await committing
    assert list(await vault.points(DOMAIN)) == [stored]
    assert vault.calls.count("commit") == 2


async def test_what_came_of_it_is_kept_for_a_while_and_given_again_by_the_vault(held, monkeypatch):
    far, vault = held
    monkeypatch.setattr(service, "_COMMITTED", 0.05)
    path = f"/v1/points?session={await begun(vault)}"
    assert (await ask(far, far.identity, "POST", path, RECORD)).status == 202
    vault.go.set()
    first = await ask(far, far.identity, "GET", PROGRESS)
    await asyncio.sleep(0.1)
    assert (await ask(far, far.identity, "GET", PROGRESS)).said == (404, "not-found")
    assert (await ask(far, far.identity, "POST", path, RECORD)).body == first.body


async def test_a_quick_answer_is_not_kept(held):
    far, vault = held
    vault.go.set()
    path = f"/v1/points?session={await begun(vault)}"
    assert (await ask(far, far.identity, "POST", path, RECORD)).status == 200
    assert (await ask(far, far.identity, "GET", PROGRESS)).status == 404


async def test_what_a_late_commit_lacks_is_told_and_can_be_brought(held):
    far, vault = held
    session, remote = await begun(vault), far.client(far.identity)
    missing, raw = made_frame(1)
    page = made_frame(2, PAGE, [missing])
    await vault.store(session, page[1])
    record = made_point(page[0])
    progress = f"/v1/points/{point.decode(record).point_id.hex()}"
    path = f"/v1/points?session={session}"
    assert (await ask(far, far.identity, "POST", path, record)).status == 202
    vault.go.set()
    await asyncio.sleep(0.05)
    assert (await ask(far, far.identity, "GET", progress)).said == (409, "missing")
    with pytest.raises(FrameMissing) as caught:
        await remote.commit(session, record)
    assert caught.value.references == (missing,)
    await remote.store(session, raw)
    assert (await remote.commit(session, record)).record == record


async def test_a_domain_has_so_many_under_way(held):
    far, vault = held
    session = await begun(vault)
    path = f"/v1/points?session={session}"
    records = [made_point(Reference(PAGE, id_of(n)), n, n) for n in range(1, service._COMMITS + 2)]
    for record in records[:-1]:
        assert (await ask(far, far.identity, "POST", path, record)).status == 202
    assert (await ask(far, far.identity, "POST", path, records[0])).status == 202
    answer = await ask(far, far.identity, "POST", path, records[-1])
    assert (answer.said, answer.headers["Retry-After"]) == ((503, "call-refused"), "5")
    vault.go.set()
