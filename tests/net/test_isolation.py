"""A machine sees its own domain: of another's things it learns no more than of things that are not.

Every call of the server is here, or the first test fails.
"""

import re

import msgspec
import pytest
import pytest_asyncio

from tests.net.far import far_vault, stranger
from tests.net.raw import ask
from tests.suites.vault import (
    DATA,
    DOMAIN,
    GENERATION,
    ITEM,
    begun,
    made_keyring,
    made_point,
    with_point,
)
from tests.vault.conftest import Clock
from transfer.formats import keyring as keyring_format
from transfer.formats import messages, point
from transfer.formats.reference import Reference
from transfer.net import server
from transfer.net.routes import CALLS, Call, OpenCall
from transfer.vault.base import fetched

pytestmark = pytest.mark.asyncio(loop_scope="module")


class World:
    """The owner has a point, and a session that writes; others know all there is to know."""

    def __init__(self, far):
        self.far = far
        self.owner = far.registered("owner")
        signing_key, self.other_keyring = stranger()
        self.other = far.registered("other", signing_key, self.other_keyring)
        self.other_domain = keyring_format.decode(self.other_keyring).domain
        self.reader = far.reader_of("owner", "reader")

    async def fill(self):
        vault = self.far.vault
        self.references, self.frames = await with_point(vault)
        (stored,) = await vault.points(DOMAIN)
        self.point = point.decode(stored.record).point_id
        await vault.add_keyring(self.other_domain, 1, self.other_keyring)
        self.session = await begun(vault)
        self.reading = await begun(vault, None)
        self.others = (await vault.open_session(self.other_domain, None)).number
        return self

    async def everything(self):
        """What no call of a stranger may change."""
        vault = self.far.vault
        await vault.heartbeat(self.session)
        asked = [(each.tag, each.id) for each in self.references]
        return (
            await vault.points(DOMAIN), await vault.keyring(DOMAIN),
            await vault.statistics(DOMAIN), await vault.wanted(self.session),
            [await vault.have(self.session, tag, GENERATION, [id]) for tag, id in asked],
            await fetched(vault, self.session, self.references),
        )  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with far_vault(tmp_path_factory.mktemp("far") / "vault", Clock()) as far:
        yield await World(far).fill()


class Names:
    """Of the owner's things, or of things that are not."""

    def __init__(self, world, real):
        self.session = world.session if real else 987654321
        self.domain = (DOMAIN if real else b"\x01" * 16).hex()
        self.point = (world.point if real else b"\x02" * 32).hex()
        self.references = world.references if real else [Reference(DATA, b"\x03" * 32)]
        self.asked = messages.encode_asked(self.references)
        self.ids = messages.encode_ids([one.id for one in self.references])
        self.frames = b"".join(world.frames)
        self.record = made_point(None, 9, 9)


def new_session(names):
    return msgspec.json.encode(messages.NewSession(bytes.fromhex(names.domain), ITEM))


# How a stranger asks for the owner's things, and what it is told.
ENDED, NOT_YOURS, NOWHERE = (409, "session-ended"), (403, "not-authorised"), (404, "not-found")
ASKED = {
    "POST /v1/sessions": (lambda n: ("/v1/sessions", new_session(n)), NOT_YOURS),
    "POST /v1/sessions/{session}/heartbeat":
        (lambda n: (f"/v1/sessions/{n.session}/heartbeat", b""), ENDED),
    "POST /v1/sessions/{session}/end":
        (lambda n: (f"/v1/sessions/{n.session}/end", b""), (204, None)),
    "GET /v1/sessions/{session}/wanted":
        (lambda n: (f"/v1/sessions/{n.session}/wanted", b""), ENDED),
    "POST /v1/have":
        (lambda n: (f"/v1/have?session={n.session}&tag=16&generation=1", n.ids), ENDED),
    "POST /v1/frames": (lambda n: (f"/v1/frames?session={n.session}", n.frames), ENDED),
    "POST /v1/fetch": (lambda n: (f"/v1/fetch?session={n.session}", n.asked), ENDED),
    "POST /v1/damaged": (lambda n: (f"/v1/damaged?session={n.session}", n.asked), ENDED),
    "GET /v1/items": (lambda n: (f"/v1/items?domain={n.domain}", b""), NOT_YOURS),
    "GET /v1/points": (lambda n: (f"/v1/points?domain={n.domain}", b""), NOT_YOURS),
    "POST /v1/points": (lambda n: (f"/v1/points?session={n.session}", n.record), ENDED),
    "GET /v1/points/{point}": (lambda n: (f"/v1/points/{n.point}", b""), NOWHERE),
    "GET /v1/keyring": (lambda n: (f"/v1/keyring?domain={n.domain}", b""), NOT_YOURS),
    "POST /v1/keyring":
        (lambda n: (f"/v1/keyring?domain={n.domain}&version=2", made_keyring(2)), NOT_YOURS),
}  # fmt: skip
# These name nothing that could be another's; what they tell is looked at below.
NAMELESS = {"POST /v1/register", "POST /v1/renew", "GET /v1/vault", "GET /v1/statistics"}
BY_NAME = {f"{call.method} {call.path}": call for call in CALLS}


async def test_every_call_is_asked_here():
    assert set(ASKED) | NAMELESS == set(BY_NAME)
    assert not set(ASKED) & NAMELESS


@pytest.mark.parametrize("name", ASKED)
async def test_a_stranger_is_told_what_it_is_told_of_nothing(world, name):
    method, (asking, expected) = name.split()[0], ASKED[name]
    before, answers = await world.everything(), []
    for names in (Names(world, real=True), Names(world, real=False)):
        path, body = asking(names)
        answer = await ask(world.far, world.other, method, path, body)
        assert answer.said == expected
        answers.append(re.sub("session [0-9]+|domain [0-9a-f]{8}", "it", answer.body.decode()))
    assert answers[0] == answers[1]
    assert await world.everything() == before


async def test_a_strangers_own_session_leads_to_nothing_of_the_owners(world):
    before, names, own = await world.everything(), Names(world, real=True), world.others
    path = f"/v1/have?session={own}&tag=16&generation=1"
    assert (await ask(world.far, world.other, "POST", path, names.ids)).body == bytes(1)
    fetched = await ask(world.far, world.other, "POST", f"/v1/fetch?session={own}", names.asked)
    assert (fetched.status, fetched.body) == (200, b"")
    reported = await ask(world.far, world.other, "POST", f"/v1/damaged?session={own}", names.asked)
    assert reported.status == 204
    assert await world.everything() == before


async def test_a_stranger_hears_of_itself_alone(world):
    view = msgspec.json.decode(
        (await ask(world.far, world.other, "GET", "/v1/vault")).body, type=messages.VaultView
    )
    assert (view.name, view.domain, view.domains) == (
        "other",
        world.other_domain,
        [world.other_domain],
    )
    counted = await ask(world.far, world.other, "GET", "/v1/statistics")
    assert msgspec.json.decode(counted.body)["bytes_stored"] == 0
    assert msgspec.json.decode(counted.body)["points"] == 0


@pytest.mark.parametrize("name", [name for name, call in BY_NAME.items() if isinstance(call, Call)])
async def test_without_a_certificate_nothing_is_answered(world, name):
    method, path = name.split()
    if name in ASKED:
        path, body = ASKED[name][0](Names(world, real=True))
    else:
        body = b""
    before = await world.everything()
    assert (await ask(world.far, None, method, path, body)).said == (401, "not-registered")
    assert await world.everything() == before


async def test_to_register_and_to_look_whether_the_vault_lives_need_none(world):
    assert {call.path for call in CALLS if isinstance(call, OpenCall)} == {
        "/v1/register", "/v1/renew",
    }  # fmt: skip
    for path in ("/healthz", "/readyz"):
        assert (await ask(world.far, None, "GET", path)).status == 200
    assert (await ask(world.far, None, "POST", "/v1/renew", b"{}")).said == (401, "not-registered")


@pytest.mark.parametrize(
    "name", [name for name, call in BY_NAME.items() if getattr(call, "writes", False)]
)
async def test_a_reader_writes_nothing(world, name):
    before = await world.everything()
    path, body = ASKED[name][0](Names(world, real=True))
    assert (await ask(world.far, world.reader, "POST", path, body)).said == NOT_YOURS
    assert await world.everything() == before


async def test_a_reader_opens_no_session_that_writes_and_its_word_marks_nothing(world):
    names, before = Names(world, real=True), await world.everything()
    answer = await ask(world.far, world.reader, "POST", "/v1/sessions", new_session(names))
    assert answer.said == NOT_YOURS
    for session in (world.reading, world.session):
        path = f"/v1/damaged?session={session}"
        assert (await ask(world.far, world.reader, "POST", path, names.asked)).status == 204
    assert await world.everything() == before


async def test_a_reader_reads(world):
    path = f"/v1/fetch?session={world.reading}"
    fetched = await ask(
        world.far, world.reader, "POST", path, messages.encode_asked(world.references)
    )
    assert fetched.body == b"".join(world.frames)
    for path in ("points", "items", "keyring"):
        assert (
            await ask(world.far, world.reader, "GET", f"/v1/{path}?domain={DOMAIN.hex()}")
        ).status == 200


async def test_metrics_are_for_this_machine_and_no_log_names_what_is_whose(world, monkeypatch):
    await ask(world.far, world.owner, "GET", f"/v1/points/{world.point.hex()}")
    text = (await ask(world.far, None, "GET", "/metrics")).body.decode()
    assert 'transfer_requests_total{call="GET /v1/points/{point}",status="404"}' in text
    log = "\n".join(map(str, world.far.requests))
    for secret in (
        DOMAIN, world.other_domain, world.point, ITEM, made_keyring(),
        *(one.id for one in world.references),
    ):  # fmt: skip
        assert secret.hex() not in text + log
    for name in ("owner", "reader", "other"):
        assert name not in text
    monkeypatch.setattr(server, "address_of", lambda request: "192.0.2.7")
    assert (await ask(world.far, world.owner, "GET", "/metrics")).said == NOT_YOURS


async def test_the_log_counts_the_bytes_that_came_and_went(world):
    asked = messages.encode_asked(world.references)
    await ask(world.far, world.reader, "POST", f"/v1/fetch?session={world.reading}", asked)
    done = world.far.requests[-1]
    assert (done.path, done.status, done.machine) == ("/v1/fetch", 200, "reader")
    assert (done.received, done.address) == (len(asked), "127.0.0.1")
    assert done.sent == sum(map(len, world.frames))
    answer = await ask(world.far, world.owner, "GET", "/v1/vault")
    assert world.far.requests[-1].sent == len(answer.body)
