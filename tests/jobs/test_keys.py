"""Key jobs on a real vault: versions are added one after the other, and none is lost."""

import asyncio
import dataclasses
import traceback

import pytest

from transfer.errors import IntegrityError, Refused, UsageError, WrongPassphrase
from transfer.jobs import keyring as keyrings
from transfer.jobs import keys
from transfer.jobs.keyring import Secret
from transfer.jobs.opening import open_agent

pytestmark = pytest.mark.usefixtures("quick_keyrings")

OLD, NEW = "the sentence of before", "a completely different sentence"


@pytest.fixture
async def agent(tmp_path):
    secret = Secret(lambda new: OLD)
    async with open_agent(tmp_path / "state", tmp_path / "vault", secret, create=True) as opened:
        yield opened


async def newest(agent, secret):
    raw = await agent.vault.keyring(agent.domain)
    return keyrings.open_keyring(raw, secret, agent.domain)


def typed(passphrase):
    return Secret(lambda new: passphrase)


class Wrapped:
    """A vault that does as the one inside, but for what a test says."""

    def __init__(self, vault):
        self._vault = vault

    def __getattr__(self, name):
        return getattr(self._vault, name)


async def test_each_change_is_stored_as_the_next_version(agent):
    versions = [keys.key_status(agent)]
    versions.append(await keys.change_passphrase(agent, NEW))
    printed = await keys.new_recovery_key(agent)
    versions.append(keys.key_status(agent))
    versions.append(await keys.rotate(agent))
    versions.append(await keys.rotate_hard(agent, OLD))
    assert [each.version for each in versions] == [1, 2, 3, 4, 5]
    assert [each.generation for each in versions] == [1, 1, 1, 1, 2]
    assert [each.epochs for each in versions] == [1, 1, 1, 2, 3]
    assert [each.recovery_keys for each in versions] == [0, 0, 1, 1, 0]
    assert {each.passphrases for each in versions} == {1}
    assert len({each.epoch for each in versions}) == 3
    assert (await newest(agent, typed(OLD))) == agent.opened
    # Nothing was overwritten: each version still opens with what opened it then.
    for version, secret in ((1, typed(OLD)), (2, typed(NEW)), (4, Secret(lambda new: "", printed))):
        raw = await agent.vault.keyring(agent.domain, version)
        assert keyrings.open_keyring(raw, secret, agent.domain).keyring.version == version


async def test_the_agent_goes_on_with_what_it_stored(agent):
    before = agent.opened.seal_keys()
    await keys.rotate(agent)
    after = agent.opened.seal_keys()
    assert after.epoch != before.epoch and after.id_keys == before.id_keys
    await keys.rotate_hard(agent, NEW)
    assert agent.opened.seal_keys().generation == 2
    assert before.seal_keys.items() <= agent.opened.seal_keys().seal_keys.items()


@pytest.mark.parametrize("change", ["rotate", "rotate_hard", "change_passphrase"])
async def test_of_two_machines_at_once_one_is_told_so_and_no_epoch_is_lost(agent, change):
    arguments = [] if change == "rotate" else [NEW]
    other = dataclasses.replace(agent)
    held = other.opened
    await keys.rotate(agent)
    with pytest.raises(Refused, match="does not follow") as caught:
        await getattr(keys, change)(other, *arguments)
    assert "another machine was faster" in caught.value.hint
    assert other.opened is held  # it seals with keys that are stored, not with its lost ones
    other.opened = await newest(other, typed(OLD))
    await getattr(keys, change)(other, *arguments)
    assert agent.opened.seal_keys().seal_keys.items() <= other.opened.seal_keys().seal_keys.items()
    assert other.opened.keyring.version == 3


async def test_of_many_machines_at_once_exactly_one_wins(agent):
    others = [dataclasses.replace(agent) for _ in range(5)]
    done = await asyncio.gather(*map(keys.rotate, others), return_exceptions=True)
    lost = [each for each in done if isinstance(each, Refused)]
    (won,) = [each for each in done if not isinstance(each, Refused)]
    assert len(lost) == 4
    stored = await newest(agent, typed(OLD))
    assert (stored.keyring.version, stored.secrets.current_epoch.hex()) == (2, won.epoch)


async def test_a_request_that_arrived_twice_was_done_once(agent):
    """The answer to the first was lost; what the second meets is its own version."""

    class Repeating(Wrapped):
        async def add_keyring(self, *arguments):
            await self._vault.add_keyring(*arguments)
            await self._vault.add_keyring(*arguments)

    agent.vault = Repeating(agent.vault)
    assert (await keys.rotate(agent)).version == 2
    assert (await keys.change_passphrase(agent, NEW)).version == 3


async def test_a_vault_that_does_not_keep_what_it_was_given_is_noticed(agent):
    class Forgetful(Wrapped):
        async def add_keyring(self, *arguments):
            pass

    held, agent.vault = agent.opened, Forgetful(agent.vault)
    with pytest.raises(IntegrityError, match="gives back another keyring"):
        await keys.rotate(agent)
    assert agent.opened is held


@pytest.mark.parametrize("change", ["change_passphrase", "rotate_hard"])
async def test_a_passphrase_that_will_not_do_changes_nothing(agent, change):
    for passphrase in ("too short", "undecodable \udcff\udcff\udcff\udcff"):
        with pytest.raises(UsageError):
            await getattr(keys, change)(agent, passphrase)
    with pytest.raises(UsageError, match="another passphrase"):
        await keys.rotate_hard(agent, OLD)
    assert keys.key_status(agent).version == 1
    assert await newest(agent, typed(OLD)) == agent.opened


async def test_neither_keys_nor_passphrases_are_in_what_a_failure_shows(agent):
    secrets = agent.opened.secrets
    other = dataclasses.replace(agent)
    await keys.rotate(agent)
    shown = [repr(agent), str(keys.key_status(agent))]
    for failing in (keys.rotate_hard(other, NEW), keys.rotate_hard(other, OLD)):
        with pytest.raises((Refused, UsageError)) as caught:
            await failing
        shown += traceback.format_exception(caught.value)
    with pytest.raises(WrongPassphrase) as caught:
        await newest(agent, typed(NEW))
    shown += traceback.format_exception(caught.value)
    hidden = [agent.opened.key, secrets.signing_key, *secrets.id_keys.values()]
    hidden += [*secrets.seal_keys.values(), OLD.encode(), NEW.encode()]
    text = "".join(shown)
    assert not any(str(each)[2:-1] in text or each.hex() in text for each in hidden)
