"""Points are found by name, what is signed is believed, and an older copy of the vault noticed."""

import asyncio
import json
import shutil
import time
from contextlib import asynccontextmanager

import pytest

from transfer.crypto import signing
from transfer.errors import (
    Ambiguous,
    IntegrityError,
    LockHeld,
    NotFound,
    VaultRolledBack,
    WrongPassphrase,
)
from transfer.formats import point as point_codec
from transfer.formats.point import Consistency, Counts, Point, PointDetails
from transfer.formats.reference import NULL_ID
from transfer.jobs.opening import Secret, open_agent
from transfer.jobs.points import list_points
from transfer.pipeline import tasks
from transfer.pipeline.sealing import Opener
from transfer.pipeline.worker_process import Lane
from transfer.vault.base import StoredPoint
from transfer.vault.open import rebuild_catalog

pytestmark = pytest.mark.usefixtures("quick_keyrings")

PASSPHRASE = "correct horse battery staple"
SECRET = Secret(lambda _: PASSPHRASE)


@pytest.fixture
def opened(tmp_path):
    @asynccontextmanager
    async def opened(state="state", vault="vault", secret=SECRET, **options):
        async with open_agent(tmp_path / state, tmp_path / vault, secret, **options) as agent:
            yield agent

    return opened


def make_point(agent, item="home", number=1, **fields):
    """A signed point of an empty root, as a backup would make it."""
    name, id = agent.machine.name, agent.machine.id
    details = PointDetails(item, name, id, [b"/home"], "test", Counts(files=3))
    bare = Point(
        agent.domain, agent.item_id(item), number, NULL_ID, None, agent.opened.generation,
        time.time_ns(), Consistency.CRASH,
    )._replace(**fields)  # fmt: skip
    lane = Lane(tasks.Tools(agent.opened.seal_keys()), memoryview(bytearray(2**16)))
    point = tasks.seal_point(lane, bare, details)
    signature = signing.sign(agent.opened.secrets.signing_key, point.signed_part)
    return point._replace(signature=signature)


async def commit(agent, item="home", number=1, remember=True):
    point = make_point(agent, item, number)
    session = await agent.vault.open_session(agent.domain, point.item)
    await agent.vault.commit(session.number, point_codec.encode(point))
    if remember:
        agent.remember_head(point.item, number, point.point_id)
    return point.point_id.hex()


async def test_latest_is_the_highest_number_and_not_the_last_to_arrive(opened):
    async with opened(create=True) as agent:
        second = await commit(agent, number=2)
        first = await commit(agent, number=1, remember=False)
        assert (await agent.find("home")).id.hex() == second
        assert (await agent.find("home@latest")).id.hex() == second
        assert (await agent.find(f"home@{first}")).id.hex() == first
        assert (await agent.find(f"home@{first[:10].upper()}")).id.hex() == first
        listed = await list_points(agent, "home")
        assert [each.point for each in listed.points] == [first, second]
        assert listed.points[0].files == 3


async def test_what_is_not_there_is_not_found(opened):
    async with opened(create=True) as agent:
        id = await commit(agent)
        other = await commit(agent, "other")
        for text in ("nope", "nope@latest", "home@zz", f"home@{other}", f"home@{id}0", "", "/home",
                     "elsewhere/home", "home@@"):  # fmt: skip
            with pytest.raises(NotFound):
                await agent.find(text)


async def test_a_prefix_of_two_points_is_ambiguous(opened):
    async with opened(create=True) as agent:
        ids = [await commit(agent, number=1)]
        while len({id[0] for id in ids}) == len(ids):
            ids.append(await commit(agent, number=len(ids) + 1))
        with pytest.raises(Ambiguous, match="2 points"):
            await agent.find(f"home@{ids[-1][0]}")


async def test_items_of_other_machines_have_their_names_before_them(opened):
    async with opened(create=True, name="one") as agent:
        ours = await commit(agent)
    async with opened("second", name="two") as agent:
        theirs = await commit(agent)
        assert (await agent.find("home")).id.hex() == theirs
        assert (await agent.find("one/home")).id.hex() == ours
    async with opened("third", name="two") as agent:
        with pytest.raises(Ambiguous) as ambiguous:
            await agent.find("home")
        assert "one/home, two/home" in ambiguous.value.hint
        twin = await commit(agent)
        with pytest.raises(Ambiguous) as ambiguous:
            await agent.find("two/home")
        assert f"{agent.machine.id.hex()}/home" in ambiguous.value.hint
        assert (await agent.find(f"{agent.machine.id.hex()}/home")).id.hex() == twin


# Roll-backs


@pytest.fixture
def older(opened, tmp_path):
    """Bring the vault back to what it was after the first point."""

    async def older(numbers=(1, 2)):
        for number in numbers:
            async with opened(create=True) as agent:
                id = await commit(agent, number=number)
            if number == numbers[0]:
                shutil.copytree(tmp_path / "vault", tmp_path / "older")
                first = id
        shutil.rmtree(tmp_path / "vault")
        (tmp_path / "older").rename(tmp_path / "vault")
        return first

    return older


async def test_an_older_copy_of_the_vault_is_noticed_and_points_can_be_named(opened, older):
    first = await older()
    async with opened() as agent:
        with pytest.raises(VaultRolledBack, match=r"point 2 was committed.*newest is 1"):
            await agent.find("home")
        assert (await agent.find(f"home@{first}")).id.hex() == first
    async with opened("new") as agent:  # who remembers nothing sees nothing wrong
        assert (await agent.find("home")).id.hex() == first


async def test_a_vault_that_lost_all_points_of_an_item_is_noticed(opened, tmp_path):
    async with opened(create=True) as agent:
        shutil.copytree(tmp_path / "vault", tmp_path / "older")
        await commit(agent)
    shutil.rmtree(tmp_path / "vault")
    (tmp_path / "older").rename(tmp_path / "vault")
    async with opened() as agent:
        for text in ("home", "home@latest", "home@ab"):
            with pytest.raises(VaultRolledBack, match=r"point 1 was committed.*has none"):
                await agent.find(text)
        with pytest.raises(VaultRolledBack):
            await list_points(agent, "home")
        with pytest.raises(NotFound):
            await agent.find("other")
        assert (await list_points(agent)).points == []


async def test_a_backup_after_a_warning_takes_the_vault_as_it_is(opened, older):
    await older()
    async with opened() as agent:
        item = agent.item_id("home")
        assert agent.rolled_back(item, 1)
        assert agent.rolled_back(item, 2) is None
        assert agent.rolled_back(agent.item_id("other"), 0) is None
        second = await commit(agent, number=2)
        assert agent.rolled_back(item, 2) is None
    async with opened() as agent:
        assert (await agent.find("home")).id.hex() == second


async def test_a_rebuilt_vault_is_none_that_was_rolled_back(opened, tmp_path):
    async with opened(create=True) as agent:
        id = await commit(agent)
        before = agent.incarnation
    shutil.copytree(tmp_path / "vault", tmp_path / "older")
    await rebuild_catalog(tmp_path / "vault")
    async with opened() as agent:
        assert agent.incarnation == agent.known.incarnation == before + 1
        assert (await agent.find("home")).id.hex() == id
    shutil.rmtree(tmp_path / "vault")
    (tmp_path / "older").rename(tmp_path / "vault")
    async with opened() as agent:
        assert agent.rolled_back(agent.item_id("home"), 1) == (
            f"the vault was in incarnation {before + 1} before, and is in {before} now"
        )
        with pytest.raises(VaultRolledBack, match="incarnation"):
            await agent.find("home")
        assert (await agent.find(f"home@{id[:8]}")).id.hex() == id
    async with opened() as agent:  # looking alone does not make it forget
        assert agent.rolled_back(agent.item_id("home"), 1)
        await commit(agent, number=2)
        assert agent.rolled_back(agent.item_id("home"), 2) is None


async def test_two_vaults_are_remembered_apart(opened):
    async with opened(create=True) as agent:
        await commit(agent, number=5)
    async with opened(vault="other", create=True) as agent:
        await commit(agent, number=1)
        assert (await agent.find("home")).point.number == 1


# Points that are not what they claim to be


class Answers:
    """The agent's vault, but these points are what it says there are."""

    def __init__(self, vault, points):
        self._vault, self._points = vault, points

    def __getattr__(self, name):
        return getattr(self._vault, name)

    async def points(self, domain):
        return [StoredPoint(raw, number, 0) for number, raw in enumerate(self._points, 1)]


def flipped(raw, at):
    changed = bytearray(raw)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("at", [0, 5, 40, 50, 72, 141, 150, 181, 200, -1])
async def test_one_bad_point_hides_no_other(opened, at):
    async with opened(create=True) as agent:
        good, bad = (point_codec.encode(make_point(agent, number=n)) for n in (1, 2))
        agent.vault = Answers(agent.vault, [good, flipped(bad, at)])
        listed = await list_points(agent)
        assert [each.number for each in listed.points] == [1]
        assert len(listed.damaged) == 1
        assert (await agent.find(f"home@{listed.points[0].point[:8]}")).point.number == 1


async def test_latest_is_not_given_where_a_bad_point_may_be_the_latest(opened):
    async with opened(create=True) as agent:
        points = [make_point(agent, number=n) for n in (1, 2, 3)]
        raws = [point_codec.encode(point) for point in points]
        agent.vault = Answers(agent.vault, [*raws[:2], flipped(raws[2], -1)])
        with pytest.raises(IntegrityError, match="may be the latest"):
            await agent.find("home")
        with pytest.raises(IntegrityError, match="signature"):
            await agent.find(f"home@{points[2].point_id.hex()[:10]}")
        agent.vault = Answers(agent.vault, [raws[0], flipped(raws[1], -1), raws[2]])
        assert (await agent.find("home")).point.number == 3


async def test_an_item_whose_points_may_be_damaged_is_not_called_unknown(opened):
    async with opened(create=True) as agent:
        agent.vault = Answers(agent.vault, [b""])
        for text in ("home", "home@latest", "home@ab"):
            with pytest.raises(IntegrityError, match=r"no item home .* but no recovery point has"):
                await agent.find(text)
        assert len((await list_points(agent)).damaged) == 1


async def test_a_point_of_another_domain_or_in_anothers_place_is_bad(opened):
    async with opened("other", "other-vault", create=True) as agent:
        foreign = point_codec.encode(make_point(agent, number=9))
    async with opened(create=True) as agent:
        point = make_point(agent)
        good = point_codec.encode(point)
        agent.vault = Answers(agent.vault, [foreign, good, good])
        listed = await list_points(agent)
        assert [each.point for each in listed.points] == [point.point_id.hex()]
        assert "another domain" in listed.damaged[0]
        assert "another one's place" in listed.damaged[1]
        assert (await agent.find(f"home@{point.point_id.hex()}")).id == point.point_id


async def test_a_point_whose_details_do_not_open_is_bad(opened):
    async with opened(create=True) as agent:
        point = make_point(agent)
        broken = point._replace(sealed=flipped(point.sealed, len(point.sealed) - 1))
        signature = signing.sign(agent.opened.secrets.signing_key, broken.signed_part)
        raw = point_codec.encode(broken._replace(signature=signature))
        agent.vault = Answers(agent.vault, [raw])
        assert len((await list_points(agent)).damaged) == 1
        with pytest.raises(IntegrityError):
            Opener(agent.opened.seal_keys()).open(broken.sealed)


# Opening


async def test_a_wrong_passphrase_opens_and_makes_nothing(opened, tmp_path):
    async with opened(create=True):
        pass
    for state in ("state", "new"):
        with pytest.raises(WrongPassphrase):
            async with opened(state, secret=Secret(lambda _: "y" * 20), create=True):
                pass
    async with opened("new") as agent:
        assert await agent.vault.domains() == [agent.domain]


async def test_the_passphrase_is_asked_for_once_and_in_the_main_thread(opened):
    import threading

    asked = []

    def ask(new):
        asked.append((new, threading.current_thread() is threading.main_thread()))
        return PASSPHRASE if new or len(asked) < 3 else "z" * 20

    async with opened(secret=Secret(ask), create=True):
        assert asked == [(True, True)]
    async with opened("second", secret=Secret(lambda _: "another passphrase"), new_domain=True,
                      create=True):  # fmt: skip
        pass
    async with opened("third", secret=Secret(ask)):
        assert asked[1:] == [(False, True)]


async def test_whoever_only_reads_makes_neither_vault_nor_keyring(opened, tmp_path):
    with pytest.raises(NotFound):
        async with opened():
            pass
    assert not (tmp_path / "vault").exists()


async def test_a_name_is_taken_only_after_the_keyring_opened(opened):
    async with opened(create=True, name="one"):
        pass
    with pytest.raises(WrongPassphrase):
        async with opened(secret=Secret(lambda _: "y" * 20), name="two"):
            pass
    async with opened() as agent:
        assert agent.machine.name == "one"
    async with opened(name="two") as agent:
        assert agent.machine.name == "two"


async def test_two_states_that_are_copies_do_not_write_one_vault_at_the_same_time(opened, tmp_path):
    async with opened(create=True) as agent:
        first = await commit(agent)
        shutil.copytree(tmp_path / "state", tmp_path / "copy")
        with pytest.raises(LockHeld):
            async with opened("copy"):
                pass
    async with opened("copy") as copy:
        assert copy.machine.id == agent.machine.id
        assert copy.machine.owner != agent.machine.owner
        assert (await copy.find("home")).id.hex() == first
        second = await commit(copy, number=2)
    async with opened() as agent:  # and each sees what the other made
        assert (await agent.find("home")).id.hex() == second


async def test_a_keyring_that_is_gone_is_never_made_anew(opened, tmp_path):
    async with opened(create=True) as agent:
        shutil.copytree(tmp_path / "vault", tmp_path / "copy")
    known = next((tmp_path / "state" / "vaults").iterdir())
    other = json.loads(known.read_text()) | {"domain": "A" * 22 + "=="}
    known.write_text(json.dumps(other))
    with pytest.raises(VaultRolledBack, match="has none any more"):
        async with opened(create=True):
            pass
    async with opened("new") as again:
        assert await again.vault.domains() == [agent.domain]


async def test_no_agent_is_left_open(opened):
    with pytest.raises(KeyError):
        async with opened(create=True):
            raise KeyError
    async with opened():
        pass
    assert len(asyncio.all_tasks()) == 1
