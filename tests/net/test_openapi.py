"""docs/openapi.json is what the server does: every call, every answer, every problem of a call."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from ssl import DER_cert_to_PEM_cert

import msgspec
import pytest

from tests.net.behind import held_vault
from tests.net.far import far_vault, stranger
from tests.net.raw import ask, connected, head, read_answer
from tests.suites.vault import (
    DOMAIN,
    ITEM,
    OTHER_ITEM,
    PAGE,
    begun,
    id_of,
    made_frame,
    made_keyring,
    made_point,
)
from transfer.crypto import certificates, signing
from transfer.formats import messages, point
from transfer.formats.credential import CredentialKind, proof_message
from transfer.formats.reference import Reference
from transfer.net import point_calls, problems
from transfer.net.routes import CALLS

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("make_openapi", ROOT / "docs" / "make_openapi.py")
openapi = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(openapi)
DOCUMENT = json.loads((ROOT / "docs" / "openapi.json").read_text())
CALL = {f"{call.method} {call.path}": call for call in CALLS}


def test_the_description_is_made_of_the_routes():
    assert (ROOT / "docs" / "openapi.json").read_text() == openapi.page()


def test_every_route_is_described_and_every_described_call_is_a_route():
    described = {
        f"{method.upper()} {path}" for path, of in DOCUMENT["paths"].items() for method in of
    }
    assert described == set(CALL) == set(openapi.DESCRIBED)


def test_every_problem_has_the_status_that_the_server_gives_it():
    statuses = {kind("").code: status for kind, status in problems._STATUS.items()}
    for call in CALLS:
        for status, code in openapi.problems_of(call):
            assert code in ("bug", "call-refused") or statuses[code] == status
    everywhere = {code for _, code in openapi.GENERIC + openapi.OF_MACHINES + openapi.OF_CONTROL}
    somewhere = {code for each in openapi.DESCRIBED.values() for _, code in each.problems}
    assert everywhere | somewhere == set(statuses) | {"bug", "call-refused"}


class Tried:
    """Asks, and notes what every call has answered; for the rest see GENERIC."""

    def __init__(self, far, identity):
        self.far, self.identity = far, identity
        self.seen = set()

    async def __call__(self, name, path, body=b"", identity=None):
        answer = await ask(self.far, identity or self.identity, name.split()[0], path, body)
        self.seen.add((name, answer.status, answer.code))
        if answer.status not in (202, 204) and answer.status < 400:
            media = answer.headers["Content-Type"]
            assert media in openapi.DESCRIBED[name].answers[answer.status]
        return answer


async def test_every_answer_and_every_problem_of_a_call_is_given(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(point_calls, "PATIENT", 0.05)
    async with held_vault(tmp_path / "vault", clock) as (far, held):
        tried = Tried(far, far.registered("own"))
        await registering(tried)
        await held.add_keyring(DOMAIN, 1, made_keyring())
        await keyrings(tried)
        await sessions(tried)
        await frames(tried, await begun(held, OTHER_ITEM))
        await points(tried, held)
    documented = set()
    for name, described in openapi.DESCRIBED.items():
        documented |= {(name, status, None) for status in described.answers}
        documented |= {(name, *problem) for problem in described.problems}
    late = "GET /v1/points/{point}"  # the same code answers for both
    documented -= {
        (late, 409, "session-ended"),
        (late, 410, "point-missing"),
        (late, 422, "refused"),
    }
    assert documented <= tried.seen
    for name, status, code in tried.seen - documented:
        assert (status, code) in openapi.problems_of(CALL[name])


async def registering(tried):
    far = tried.far
    made = far.registry.make_credential(CredentialKind.REGISTER, None, 10**15, far.url)
    signing_key, keyring = stranger()

    def registration(name, machine, secret):
        csr = certificates.request(certificates.new_key())
        proof = signing.sign(signing_key, proof_message(far.vault_id, made.id, machine, csr))
        asked = messages.Register(made.id, secret, machine, name, csr, keyring, proof)
        return msgspec.json.encode(asked)

    for name, secret in (("new", made.secret), ("own", made.secret), ("new", bytes(32))):
        body = registration(name, os.urandom(16), secret)
        await tried("POST /v1/register", "/v1/register", body)
    csr = certificates.request(certificates.new_key())
    await tried("POST /v1/renew", "/v1/renew", msgspec.json.encode(messages.Renew(csr)))
    await tried("GET /v1/vault", "/v1/vault")
    await tried("GET /v1/statistics", "/v1/statistics")


async def keyrings(tried):
    path = f"/v1/keyring?domain={DOMAIN.hex()}&version="
    for version in (1, 9):
        await tried("GET /v1/keyring", path + str(version))
        await tried("POST /v1/keyring", path + str(version + 1), made_keyring(2))


async def sessions(tried):
    for owner in (b"", b"", b"short"):
        body = msgspec.json.encode(messages.NewSession(DOMAIN, ITEM, owner))
        await tried("POST /v1/sessions", "/v1/sessions", body)
    for number in (1, 99):
        path = "/v1/sessions/{session}/"
        for method, what in (("POST", "heartbeat"), ("GET", "wanted"), ("POST", "end")):
            await tried(f"{method} {path}{what}", f"/v1/sessions/{number}/{what}")


async def frames(tried, session):
    reference, raw = made_frame(1)
    asked = messages.encode_asked([reference])
    for number in (session, 99):
        query = f"?session={number}"
        await tried("POST /v1/frames", f"/v1/frames{query}", raw)
        await tried("POST /v1/have", f"/v1/have{query}&tag=16&generation=1", reference.id)
        await tried("POST /v1/fetch", f"/v1/fetch{query}&order=asked", asked)
        await tried("POST /v1/damaged", f"/v1/damaged{query}", asked)


async def points(tried, held):
    post, late = "POST /v1/points", "GET /v1/points/{point}"
    session, record = await begun(held), made_point(None)
    path = f"/v1/points?session={session}"
    missing = made_point(Reference(PAGE, id_of(5)), 7, 7)
    progress = {one: f"/v1/points/{point.decode(one).point_id.hex()}" for one in (record, missing)}
    await tried(post, "/v1/points?session=99", record)
    await tried(post, path, missing)
    await tried(late, progress[missing])
    held.waiting.add("commit")
    for one in (missing, record):
        await tried(post, path, one)
    await tried(late, progress[record])
    held.go.set()
    await asyncio.sleep(0.1)
    for one in (missing, record):
        await tried(late, progress[one])
    session = await begun(held)
    path = f"/v1/points?session={session}"
    await tried(post, path, made_point(None, 2, 2, signing_key=bytes(32)))
    await held.delete_point(DOMAIN, point.decode(record).point_id)
    await asyncio.sleep(0)
    far = tried.far
    far.server._service.commits.clear()
    await tried(post, path, record)
    await tried("GET /v1/points", f"/v1/points?domain={DOMAIN.hex()}&after=0&limit=5")
    await tried("GET /v1/items", f"/v1/items?domain={DOMAIN.hex()}")
    await tried(post, path, made_point(None, 3, 3))


def requests_of(name, parameter, value):
    """The call with one *parameter* of its query as *value*, the others as they should be."""
    good = {"session": 1, "tag": 16, "generation": 1, "domain": DOMAIN.hex(), "version": 1,
            "order": "any", "pace": 10**6, "after": 0, "limit": 1}  # fmt: skip
    described = openapi.DESCRIBED[name]
    query = {each.rstrip("?"): good[each.rstrip("?")] for each in described.query}
    path = CALL[name].path.replace("{session}", "1").replace("{point}", "0" * 64)
    parts = [f"{key}={value if key == parameter else each}" for key, each in query.items()]
    return f"{path}?{'&'.join(part for part in parts if not part.endswith('=nothing'))}"


BAD = {
    "domain": ["", "00", "zz" * 16, "a " * 16, "A" * 32, "nothing", "%00" * 32, "0" * 33],
    "order": ["", "none", "any&order=any"],
    None: ["", "-1", "1.0", "x", "%D9%A1", "1e3", "9" * 20, "18446744073709551616", "%2B1", " 1",
           "1&{}=1", "0x1", "1_0", "%FF"],
}  # fmt: skip


async def test_parameters_are_refused_as_they_are_described(far):
    identity = far.registered("own")
    await begun(far.vault)
    for name, described in openapi.DESCRIBED.items():
        for each in described.query:
            parameter = each.rstrip("?")
            values = BAD.get(parameter, [bad.format(parameter) for bad in BAD[None]])
            schema = openapi.QUERY[each][1]
            if "maximum" in schema:
                values = [*values, str(schema["maximum"] + 1)]
            if schema.get("minimum"):
                values = [*values, "0"]
            if not each.endswith("?"):
                values = [*values, "nothing"]
            for value in values:
                path = requests_of(name, parameter, value)
                answer = await ask(far, identity, CALL[name].method, path, b"")
                assert answer.said == (400, "call-refused"), path


async def test_bodies_are_refused_at_the_sizes_that_are_described(far):
    identity = far.registered("own")
    await begun(far.vault)
    for name, described in openapi.DESCRIBED.items():
        if described.body is None:
            continue
        method, path = CALL[name].method, requests_of(name, None, None)
        for lines, status in (
            ((f"Content-Length: {described.body.most + 1}",), 413),
            ((f"Content-Length: {10**18}",), 413),
            (("Transfer-Encoding: chunked",), 411),
        ):
            async with connected(far, identity) as (reader, writer):
                writer.write(head(method, path, *lines))
                answer = await asyncio.wait_for(read_answer(reader), 5)
                assert answer.said == (status, "call-refused"), (name, lines)


@pytest.mark.slow
async def test_no_request_that_a_machine_can_make_is_a_bug(tmp_path):
    """Schemathesis makes requests of the description, with a machine's certificate."""
    async with far_vault(tmp_path / "vault", time.time_ns) as far:
        certificate, key = far.registered("own")
        await begun(far.vault)
        await begun(far.vault, None)
        (tmp_path / "machine.pem").write_text(DER_cert_to_PEM_cert(certificate))
        (tmp_path / "key.pem").write_bytes(certificates.key_to_pem(key))
        (tmp_path / "ca.pem").write_text(
            "".join(map(DER_cert_to_PEM_cert, far.authority.trusted()))
        )
        described = json.loads(json.dumps(DOCUMENT))
        # It knows how to send bytes, by that name only.
        content = described["paths"]["/v1/frames"]["post"]["requestBody"]["content"]
        content[messages.OCTETS] = content.pop(messages.FRAMES)
        (tmp_path / "openapi.json").write_text(json.dumps(described))
        fuzz = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("st"), "run", tmp_path / "openapi.json",
            "--url", far.url, "--request-cert", tmp_path / "machine.pem",
            "--request-cert-key", tmp_path / "key.pem", "--tls-verify", tmp_path / "ca.pem",
            "--checks", "not_a_server_error,status_code_conformance,content_type_conformance",
            "--phases", "coverage,fuzzing", "--max-examples", "40", "--seed", "1",
            "--max-time", "30", "--suppress-health-check", "all", "--no-color",
            "--generation-database", "none", "--continue-on-failure",
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await fuzz.communicate()
    assert fuzz.returncode == 0, said.decode()[-5000:]
    assert len(far.requests) > 500
    assert not [done for done in far.requests if done.status >= 500]
