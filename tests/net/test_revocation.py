"""A machine that lost its right is refused within 5 seconds, whatever it is in the middle of."""

import asyncio
import socket

import msgspec
import pytest

from tests.net.behind import held_vault
from tests.net.far import HOUR
from tests.net.raw import ask, connected, head, read_answer
from tests.suites.vault import DOMAIN, ITEM, OTHER_ITEM, begun, made_frame, made_keyring, made_point
from transfer.crypto import certificates
from transfer.errors import NotAuthorised
from transfer.formats import messages
from transfer.formats.credential import CredentialKind
from transfer.net import admission
from transfer.vault.admission import Registration


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(admission, "WATCH", 0.02)


def revoke(far, name="own"):
    far.registry.revoke(name)
    far.later += admission.KEEP


def test_what_is_remembered_and_when_it_is_looked_at_is_five_seconds_in_all():
    assert admission.KEEP + admission.WATCH <= 5


async def test_an_open_connection_is_refused(far):
    remote = far.client(far.registered("own"), connections=1)
    await far.vault.add_keyring(DOMAIN, 1, made_keyring())
    session = (await remote.open_session(DOMAIN, ITEM)).number
    await remote.heartbeat(session)
    revoke(far)
    with pytest.raises(NotAuthorised, match="own was revoked on 2023-11-14"):
        await remote.heartbeat(session)


async def test_until_then_it_costs_no_look_at_a_record(far):
    remote = far.client(far.registered("own"))
    await remote.view()
    far.registry.revoke("own")
    await remote.view()
    far.later += admission.KEEP
    with pytest.raises(NotAuthorised):
        await remote.view()


async def test_a_body_under_way_is_ended_and_nothing_of_it_is_stored(far, watched):
    identity = far.registered("own")
    session = await begun(far.vault)
    frames = [made_frame(number)[1] for number in range(1, 5)]
    async with connected(far, identity) as (reader, writer):
        size = sum(map(len, frames))
        writer.write(head("POST", f"/v1/frames?session={session}", f"Content-Length: {size}"))
        writer.write(b"".join(frames[:2]))
        await asyncio.sleep(0.1)
        revoke(far)
        answer = await asyncio.wait_for(read_answer(reader), 2)
    assert answer.said == (403, "not-authorised")
    assert (await far.vault.statistics(DOMAIN))["blocks"] == 0


async def sent_across_a_revocation(far, identity, path, body):
    async with connected(far, identity) as (reader, writer):
        writer.write(head("POST", path, f"Content-Length: {len(body)}") + body[:20])
        await asyncio.sleep(0.1)
        revoke(far)
        writer.write(body[20:])
        return await read_answer(reader)


@pytest.mark.parametrize("call", ["frames", "points", "sessions", "keyring"])
async def test_a_body_that_ends_just_after_it_does_nothing(far, monkeypatch, call):
    monkeypatch.setattr(admission, "WATCH", 60)
    identity, session = far.registered("own"), await begun(far.vault)
    new = msgspec.json.encode(messages.NewSession(DOMAIN, OTHER_ITEM))
    path, body = {
        "frames": (f"/v1/frames?session={session}", made_frame(1)[1]),
        "points": (f"/v1/points?session={session}", made_point(None)),
        "sessions": ("/v1/sessions", new),
        "keyring": (f"/v1/keyring?domain={DOMAIN.hex()}&version=2", made_keyring(2)),
    }[call]
    answer = await sent_across_a_revocation(far, identity, path, body)
    assert answer.said == (403, "not-authorised")
    assert (await far.vault.statistics(DOMAIN))["blocks"] == 0
    assert await far.vault.points(DOMAIN) == []
    assert await far.vault.keyring(DOMAIN, 2) is None
    assert (await far.vault.open_session(DOMAIN, OTHER_ITEM)).number == session + 1


async def test_a_fetch_under_way_is_broken_off(far, watched):
    identity = far.registered("own")
    session, size = await begun(far.vault), 2**20
    made = [made_frame(number, payload=bytes([number]) * size) for number in range(1, 25)]
    for _, raw in made:
        await far.vault.store(session, raw)
    asked = messages.encode_asked([one for one, _ in made])
    slow = socket.create_connection(("127.0.0.1", far.port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    reader, writer = await asyncio.open_connection(
        sock=slow, ssl=far.context(identity), limit=64 * 1024,
        server_hostname=certificates.server_name(far.vault_id),
    )  # fmt: skip
    request = head("POST", f"/v1/fetch?session={session}", f"Content-Length: {len(asked)}")
    writer.write(request + asked)
    got = await reader.readexactly(3 * size)
    revoke(far)
    await asyncio.sleep(0.2)
    got += await asyncio.wait_for(reader.read(), 5)
    writer.transport.abort()
    assert len(got) < 20 * size
    assert not got.endswith(b"0\r\n\r\n")  # the end of an answer that is whole
    assert far.requests[-1].status == 0


async def test_a_commit_under_way_is_given_up(tmp_path, clock, watched):
    async with held_vault(tmp_path / "vault", clock) as (far, held):
        identity = far.registered("own")
        session = await begun(held)
        held.waiting.add("commit")
        path = f"/v1/points?session={session}"
        asking = asyncio.ensure_future(ask(far, identity, "POST", path, made_point(None)))
        while "commit" not in held.calls:
            await asyncio.sleep(0.01)
        revoke(far)
        assert (await asking).said == (403, "not-authorised")
        await asyncio.sleep(0.1)  # the commit has a look of its own
        held.go.set()
        await asyncio.sleep(0.05)
        assert await held.points(DOMAIN) == []


async def test_the_first_use_of_a_replacement_ends_the_old_certificate(far):
    old = far.registered("own")
    remote = far.client(old)
    await remote.view()
    made = far.registry.make_credential(CredentialKind.FOR, "own", 48 * HOUR, far.url)
    key = certificates.new_key()
    asked = Registration(made.id, made.secret, b"any" + bytes(13), "any", certificates.request(key))
    new = far.registry.register(asked).certificate, key
    far.later += admission.KEEP
    await remote.view()  # a certificate that may have been lost on its way ends nothing
    await far.client(new).view()
    far.later += admission.KEEP
    with pytest.raises(NotAuthorised, match="a newer one is in use"):
        await remote.view()
