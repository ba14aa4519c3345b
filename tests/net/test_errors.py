"""What a vault raises arrives as the same error, and what is broken off is never taken as whole."""

import asyncio

import pytest
import pytest_asyncio

from tests.net.behind import held_vault
from tests.net.raw import ask
from tests.suites.vault import DOMAIN, begun, made_frame, made_point
from tests.vault.conftest import Clock
from transfer import errors
from transfer.errors import FormatError, TransferError, TransientError, VaultUnavailable
from transfer.formats.reference import Reference
from transfer.net import point_calls, problems
from transfer.vault.base import Missing, fetched

pytestmark = pytest.mark.asyncio(loop_scope="module")
# docs/openapi.json has them for those who write another client.
STATUS = {
    "not-registered": 401, "not-authorised": 403, "credential-refused": 403, "name-taken": 409,
    "refused": 422, "missing": 409, "session-ended": 409, "item-busy": 409, "point-missing": 410,
    "not-found": 404, "format-error": 400, "newer-format": 400, "usage-error": 400,
    "no-space": 507, "not-stored": 503, "lock-held": 503, "vault-unavailable": 503,
    "transient-error": 503, "too-many-calls": 429, "damaged-data": 500, "integrity-error": 500,
}  # fmt: skip
KINDS = {kind("").code: kind for kind in problems._STATUS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with held_vault(tmp_path_factory.mktemp("far") / "vault", Clock()) as (far, vault):
        far.identity = far.registered("own")
        far.session = await begun(vault)
        yield far, vault


@pytest.fixture
def fails(world):
    """Make a call of the vault raise, after *good* calls that do not."""
    _, vault = world

    def failing(name, error, good=0):
        vault.calls.clear()
        vault.failing[name] = good, error

    yield failing
    vault.failing.clear()


async def test_the_table_is_what_is_documented(world):
    assert {code: problems._STATUS[kind] for code, kind in KINDS.items()} == STATUS


@pytest.mark.parametrize("code", STATUS)
async def test_an_error_of_the_vault_has_its_status_and_its_class(world, fails, code):
    far, _ = world
    fails("heartbeat", KINDS[code](f"what {code} is about", "what to do"))
    path = f"/v1/sessions/{far.session}/heartbeat"
    answer = await ask(far, far.identity, "POST", path)
    assert answer.said == (STATUS[code], code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert ("Retry-After" in answer.headers) == (STATUS[code] in (429, 503))
    with pytest.raises(TransferError) as caught:
        await far.client(far.identity, patience=0).heartbeat(far.session)
    assert (type(caught.value), str(caught.value)) == (KINDS[code], f"what {code} is about")
    assert caught.value.hint == "what to do"


async def test_what_is_not_in_the_table_arrives_as_what_it_is_a_case_of(world, fails):
    far, _ = world
    inner = [each for each in vars(errors).values() if isinstance(each, type)]
    leaves = [
        each for each in inner if issubclass(each, TransferError) and each not in KINDS.values()
    ]
    assert errors.IdMismatch in leaves
    for kind in leaves:
        fails("heartbeat", kind("a message"))
        with pytest.raises(TransferError) as caught:
            await far.client(far.identity, patience=0).heartbeat(far.session)
        told = type(caught.value)
        if issubclass(kind, tuple(KINDS.values())):
            assert issubclass(kind, told)
            assert kind.exit_code == told.exit_code
        else:
            assert told is TransientError  # no vault raises these: a bug there


async def test_missing_frames_are_named_and_whether_there_are_more(world, fails):
    far, _ = world
    references = tuple(Reference(16, bytes([number]) * 32) for number in range(1, 200))
    fails("commit", Missing("they are missing", "run again", references, True))
    with pytest.raises(Missing) as caught:
        await far.client(far.identity).commit(far.session, made_point(None))
    assert (caught.value.references, caught.value.more) == (references, True)


async def test_a_bug_keeps_its_words_to_itself(world, fails, capsys):
    far, _ = world
    fails("heartbeat", ZeroDivisionError("/srv/vault: the secret"))
    answer = await ask(far, far.identity, "POST", f"/v1/sessions/{far.session}/heartbeat")
    assert answer.said == (500, "bug")
    assert b"secret" not in answer.body and b"Zero" not in answer.body
    assert "ZeroDivisionError: /srv/vault: the secret" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind", [errors.NoSpace, errors.NotStored, errors.DamagedData, VaultUnavailable]
)
async def test_where_the_vault_keeps_its_files_is_for_its_own_log(world, fails, capsys, kind):
    far, _ = world
    fails("heartbeat", kind("cannot write /srv/vault/catalog.sqlite", "look at /srv/vault"))
    answer = await ask(far, far.identity, "POST", f"/v1/sessions/{far.session}/heartbeat")
    assert answer.code == kind("").code
    assert b"/srv" not in answer.body
    assert "/srv/vault/catalog.sqlite" in capsys.readouterr().err


async def test_a_fetch_that_breaks_off_midway_is_not_whole(world, fails):
    far, vault = world
    made = [made_frame(number, payload=bytes([number]) * 2**20) for number in range(11, 16)]
    for _, raw in made:
        await vault.store(far.session, raw)
    asked = [one for one, _ in made]
    for error in (errors.DamagedData("the catalog"), ZeroDivisionError()):
        fails("fetch_some", error, good=2)
        with pytest.raises(VaultUnavailable):
            await fetched(far.client(far.identity, patience=0), far.session, asked)
        assert far.requests[-1].status == 0
    # Asked again it gets what is left, and all of it is there.
    fails("fetch_some", errors.NotStored("once"), good=2)
    vault.calls.clear()
    found = far.client(far.identity, patience=20)
    answer = await fetch_with_one_failure(found, vault, far.session, asked)
    assert answer == [raw for _, raw in made]


async def fetch_with_one_failure(remote, vault, session, asked):
    fetching = asyncio.ensure_future(fetched(remote, session, asked))
    while vault.calls.count("fetch_some") < 3:
        await asyncio.sleep(0.01)
    vault.failing.clear()
    return await fetching


async def test_a_list_of_points_that_breaks_off_midway_is_not_whole(world, fails, monkeypatch):
    far, vault = world
    monkeypatch.setattr(point_calls, "_PAGE", 2)
    for name in range(1, 6):
        session = (await vault.open_session(DOMAIN, bytes([name]) * 16)).number
        await vault.commit(session, made_point(None, name, name, bytes([name]) * 16))
    remote = far.client(far.identity, patience=0)
    assert len(await remote.points(DOMAIN)) == 5
    fails("points", errors.DamagedData("the catalog"), good=2)
    with pytest.raises(VaultUnavailable):
        await remote.points(DOMAIN)


async def test_an_answer_that_is_no_vaults_is_refused():
    for status, expected in ((302, FormatError), (404, FormatError), (502, VaultUnavailable)):
        assert type(problems.error_of(status, b"<html>", 7.0)) is expected
    assert problems.error_of(503, b"", 7.0).retry_after == 7.0
