"""Requests that no client of ours makes: refused, with nothing done and nothing read too far."""

import asyncio
import time
from itertools import pairwise

import pytest
import pytest_asyncio

from tests.net.far import far_vault
from tests.net.raw import ask, connected, head, read_answer
from tests.suites.vault import PAGE, begun, id_of, made_frame, made_point
from tests.vault.conftest import Clock
from transfer.errors import FrameMissing
from transfer.formats.reference import Reference
from transfer.net.frame_calls import _GROUP
from transfer.vault.base import MAX_MISSING, fetched

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with far_vault(tmp_path_factory.mktemp("far") / "vault", Clock()) as far:
        far.identity = far.registered("own")
        far.session = await begun(far.vault)
        far.remote = far.client(far.identity)
        yield far


BOMBS = {
    "deep": b'{"x":' + b"[" * 30_000,
    "deep and closed": b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "deep objects": b'{"x":' * 10_000,
    "a huge number": b'{"domain": 1' + b"0" * 60_000 + b"}",
    "a huge exponent": b'{"domain": 1e999999999}',
    "not UTF-8": b'{"domain": "\xff\xfe"}',
    "half a surrogate": b'{"domain": "\\ud800"}',
    "twice the same": b'{"domain": "AAAA", "domain": null}',
    "nothing": b"",
    "no object": b"null",
    "NaN": b'{"domain": NaN}',
    "base64 that is none": b'{"domain": "????"}',
    "gzip": b"\x1f\x8b\x08\x00" + bytes(64),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
async def test_a_bomb_in_json_is_no_document(world, what):
    for path, identity in (("/v1/sessions", world.identity), ("/v1/register", None)):
        began = time.monotonic()
        answer = await ask(world, identity, "POST", path, BOMBS[what] or b" ")
        assert answer.said == (400, "format-error")
        assert len(answer.body) < 1000
        assert time.monotonic() - began < 1


PATHS = (
    "/", "//", "/v1", "/v1/", "/v2/vault", "/v1//vault", "/v1/vault/", "/V1/vault", "/v1/./vault",
    "/v1/sessions/../vault", "/v1/%2e%2e/v1/vault", "/v1/sessions/1/../2/heartbeat", "/v1/vault%00",
    "/v1/sessions/-1/heartbeat", "/v1/sessions/1%2F2/heartbeat", "/v1/sessions/%D9%A1/heartbeat",
    "/v1/sessions/9999999999999999999/heartbeat", "/v1/points/" + "A" * 64, "/v1/points/00",
    "/v1/points/" + "0" * 63 + "%0A", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
    "/v1/vault;x=1", "/v1/\xff", "/v1/" + "a" * 8000, "*", "http://other/v1/nowhere",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_no_calls_path_leads_nowhere(world, path):
    async with connected(world, world.identity) as (reader, writer):
        writer.write(head("POST", path, "Content-Length: 0").decode().encode("latin-1"))
        answer = await asyncio.wait_for(read_answer(reader), 5)
    # Dots are the client's to resolve, and a POST of what may be read is no call either.
    assert answer.status in (400, 404, 405)


async def test_methods_that_no_call_has_are_refused(world):
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        async with connected(world, world.identity) as (reader, writer):
            writer.write(head(method, "/v1/vault"))
            assert (await asyncio.wait_for(read_answer(reader), 5)).status in (400, 404, 405)
    async with connected(world, world.identity) as (reader, writer):
        writer.write(head("CONNECT", "/v1/vault"))  # what follows would be no HTTP
        assert await asyncio.wait_for(reader.read(), 5) == b""


HEADS = {
    "two lengths": ("Content-Length: 1", "Content-Length: 2"),
    "a length and chunks": ("Content-Length: 5", "Transfer-Encoding: chunked"),
    "a negative length": ("Content-Length: -1",),
    "a length with a plus": ("Content-Length: +1",),
    "a length in hex": ("Content-Length: 0x10",),
    "a fold": ("Content-Length: 1", " 1"),
    "a name with a space": ("Content-Length : 1",),
    "a large header": ("X: " + "x" * 20_000,),
    "many headers": tuple(f"X-{number}: x" for number in range(20_000)),
}  # fmt: skip


@pytest.mark.parametrize("what", HEADS)
async def test_heads_that_two_readers_could_take_differently_end_the_connection(world, what):
    async with connected(world, world.identity) as (reader, writer):
        writer.write(head("POST", "/v1/sessions", *HEADS[what]))
        raw = await asyncio.wait_for(reader.read(), 5)
    assert raw.split()[1] == b"400"
    assert raw.count(b"HTTP/1.") == 1


async def test_many_ids_are_asked_for_in_many_calls(world):
    session = world.session
    for path, size, most in (
        (f"/v1/have?session={session}&tag=16&generation=1", 32, 8192),
        (f"/v1/damaged?session={session}", 33, 8192),
        (f"/v1/fetch?session={session}", 33, 1024),
    ):
        one = b"\x10" * size
        assert (await ask(world, world.identity, "POST", path, one * most)).status < 300
        over = await ask(world, world.identity, "POST", path, one * (most + 1))
        assert over.said == (413, "call-refused")
        assert (await ask(world, world.identity, "POST", path, one + b"\x10")).status == 400
    unknown = await ask(world, world.identity, "POST", path, b"\xee" * 33)
    assert unknown.said == (400, "format-error")


async def test_a_refused_commit_names_so_many_frames_and_says_that_there_are_more(world):
    lists = [[Reference(16, id_of(10**6 * of + n)) for n in range(512)] for of in range(1, 18)]
    pages = [made_frame(100 + at, PAGE, of) for at, of in enumerate(lists)]
    root = made_frame(99, PAGE, [one for one, _ in pages])
    await world.vault.store(world.session, b"".join(raw for _, raw in (*pages, root)))
    with pytest.raises(FrameMissing) as caught:
        await world.remote.commit(world.session, made_point(root[0], 50, 50))
    assert (len(caught.value.references), caught.value.more) == (MAX_MISSING, True)


async def test_a_cycle_and_a_bomb_of_links_cost_no_more_than_their_nodes(world):
    first, second = Reference(PAGE, id_of(201)), Reference(PAGE, id_of(202))
    await world.vault.store(world.session, made_frame(201, PAGE, [second])[1])
    await world.vault.store(world.session, made_frame(202, PAGE, [first])[1])
    with pytest.raises(FrameMissing):
        await world.remote.commit(world.session, made_point(first, 60, 60))
    layers = [[Reference(PAGE, id_of(1000 * n + at)) for at in range(64)] for n in range(1, 9)]
    for layer, below in pairwise(layers):  # 64 ** 8 paths
        numbers = (int.from_bytes(one.id, "big") for one in layer)
        raw = b"".join(made_frame(number, PAGE, below)[1] for number in numbers)
        await world.vault.store(world.session, raw)
    began = time.monotonic()
    with pytest.raises(FrameMissing) as caught:
        await world.remote.commit(world.session, made_point(layers[0][0], 70, 70))
    assert time.monotonic() - began < 5
    assert set(caught.value.references) == set(layers[-1])


async def test_an_answer_is_read_ahead_by_bytes_and_not_by_frames(world):
    sizes = [100] * 100 + [3 * 2**20] * 5 + [200_000] * 12
    made = [made_frame(1000 + n, payload=bytes([n]) * size) for n, size in enumerate(sizes)]
    for _, raw in made:
        await world.vault.store(world.session, raw)
    asked = [one for one, _ in made]
    got, groups = [], 0
    while len(got) < len(asked):
        some = await world.vault.fetch_some(world.session, asked[len(got) :], _GROUP)
        assert len(some) == 1 or sum(map(len, some)) <= _GROUP
        got, groups = got + some, groups + 1
    assert got == [raw for _, raw in made]
    assert groups < 12
    assert await fetched(world.remote, world.session, asked) == got
    assert world.server._service.sending.in_use == 0
